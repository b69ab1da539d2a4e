"""What the check accepts, whisper.cpp runs; in a process of its own, because what it cannot run it aborts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

RUN = """
import sys
import numpy as np
from transcriber._engine import Model
from transcriber.result import Options

options = Options(language="en", max_tokens=2)
for path in sys.argv[1:]:
    with Model(path) as model, model.session(threads=1) as session:
        session.run(np.zeros(16000, np.float32), options)
    print(path, flush=True)
"""


def test_every_accepted_type_and_shape_runs(tmp_path: Path, files: Any) -> None:
    shapes = []
    for ftype, (_, block, _) in files.TYPES.items():
        heads = max(1, block // 64)  # a row must be a whole number of blocks
        state = {"n_audio_state": 64 * heads, "n_audio_head": heads}
        state |= {"n_text_state": 64 * heads, "n_text_head": heads}
        if ftype != 0:
            shapes.append(files.Shape(**state, ftype=ftype))
    shapes += [
        files.Shape(n_vocab=51864, tokens=(b"x",) * 50255 + (b" ",)),
        files.Shape(n_vocab=51866, n_mels=128, n_audio_layer=2),
        files.Shape(tokens=(b"x" * 128,) * 51864 + (b" ",)),
    ]
    paths = []
    for number, shape in enumerate(shapes):
        path = tmp_path / f"{number}.bin"
        files.write_model(path, shape)
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", RUN, *paths], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout.splitlines() == paths, done.stderr[-2000:]
    assert done.returncode == 0
