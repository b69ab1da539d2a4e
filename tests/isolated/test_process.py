"""What can only be seen in a process of its own: imports, memory, exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RSS = """
def rss_mb():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(script: str, *arguments: object) -> str:
    done = run(script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_import_pulls_in_neither_nats_nor_uvloop_nor_opentelemetry_nor_av() -> None:
    check(
        """
import sys, transcriber
heavy = {"nats", "uvloop", "opentelemetry", "av", "rich", "click", "huggingface_hub", "asyncio"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    )


def test_memory_returns_when_sessions_and_models_are_closed(base_model_path: Path) -> None:
    out = check(
        RSS
        + """
import sys, transcriber
models = [transcriber.Model(sys.argv[1]) for _ in range(2)]

def cycle():
    sessions = [models[i % 2].session() for i in range(10)]
    for session in sessions:
        session.close()

cycle()
before = rss_mb()
for _ in range(10):
    cycle()
print(rss_mb() - before)
loaded = rss_mb()
for model in models:
    model.close()
print(loaded - rss_mb())
""",
        base_model_path,
    )
    growth, returned = map(float, out.split())
    assert growth < 5
    assert returned > 250  # two models of 148 MB


def test_an_allocation_that_fails_is_an_error_and_the_session_goes_on(base_model_path: Path) -> None:
    # Beam search makes whisper.cpp grow its cache; when it cannot, it frees the state and returns -7.
    out = check(
        """
import resource, sys
import numpy as np
import transcriber

model = transcriber.Model(sys.argv[1])
session = model.session(threads=1)
pcm = np.zeros(16000, np.float32)
session.run(pcm, transcriber.Options(language="en", max_tokens=1))
with open("/proc/self/statm") as statm:
    in_use = int(statm.read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (in_use + 30_000_000, resource.RLIM_INFINITY))
try:
    session.run(pcm, transcriber.Options(language="en", beam_size=8, max_tokens=1))
except transcriber.InferenceError as error:
    print(error.stage, error.code)
except MemoryError:
    print("alloc -7")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
session.run(pcm, transcriber.Options(language="en", max_tokens=1))
print("alive")
session.close()
model.close()
""",
        base_model_path,
    )
    assert out.split() == ["alloc", "-7", "alive"]


def test_a_forked_child_may_exit(base_model_path: Path) -> None:
    # It has none of the threads: joining them would never end.
    check(
        """
import os, sys
import transcriber

model = transcriber.Model(sys.argv[1])
t = transcriber.Transcriber(model)
if os.fork() == 0:
    sys.exit(0)
_, status = os.wait()
assert status == 0, status
t.close()
""",
        base_model_path,
    )


def test_a_process_may_end_with_everything_open_and_running(base_model_path: Path) -> None:
    check(
        """
import sys, threading
import numpy as np
import transcriber

model = transcriber.Model(sys.argv[1])
t = transcriber.Transcriber(model, window_s=1.0, options=transcriber.Options(language="en"))
stream = t.stream("s", sample_rate=16000)
stream.feed(bytes(100_000))
while not t.counters().workers_busy:
    pass
""",
        base_model_path,
    )
