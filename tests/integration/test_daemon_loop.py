"""The event loop is never held up: measured in the daemon while it infers and ingests fifty live streams."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Bus, NatsServer

WORST_PAUSE_MS = 50.0
N_STREAMS = 50

# The daemon with a clock beside it on its loop, which tells how late it was called at worst.
MEASURED_DAEMON = """
import asyncio, signal, sys, time
import uvloop
from transcriber.service.config import DaemonConfig
from transcriber.service.daemon import Daemon

PERIOD = 0.005

async def main():
    daemon = Daemon(DaemonConfig(nats_url=sys.argv[1], whisper_model_path=sys.argv[2], whisper_threads=1,
                                 language="en"))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, daemon.stop, "SIGTERM")
    running = asyncio.create_task(daemon.run())
    await daemon.ready.wait()
    worst, ticks, last = 0.0, 0, time.monotonic()
    while not daemon.stopping:
        await asyncio.sleep(PERIOD)
        now = time.monotonic()
        worst, ticks, last = max(worst, now - last - PERIOD), ticks + 1, now
    counters = daemon.transcriber.counters()
    await running
    print("worst_ms", worst * 1000, "ticks", ticks, "busy", counters.workers_busy, flush=True)
    import os; os._exit(0)

uvloop.run(main())
"""


async def test_the_loop_pauses_less_than_50_ms_while_it_infers_and_ingests_50_live_streams(
    nats_server: NatsServer, bus: Bus, base_model_path: Path, speech_48k: bytes
) -> None:
    # A machine may be too busy to run the loop for so long; what blocks it does so in each of three attempts.
    pauses = []
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MEASURED_DAEMON, nats_server.url, str(base_model_path)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        try:
            assert b"ready on" in await process.stdout.readline()
            start = time.monotonic()
            for i in range(
                60
            ):  # six seconds: each stream fills a window, and the worker has more than it can do
                chunk = speech_48k[i * 9600 : (i + 1) * 9600]
                for stream in range(N_STREAMS):
                    await bus.send(f"live-{stream}", chunk, Seq=i)
                await asyncio.sleep(start + (i + 1) / 10 - time.monotonic())
            process.send_signal(signal.SIGTERM)
            output = (await process.stdout.read()).decode().splitlines()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        assert f"received:    {N_STREAMS * 6 * 16_000} samples ({N_STREAMS * 6}.000 s)" in output
        assert "balance: exact" in output
        _, worst_ms, _, n_ticks, _, busy = output[-1].split()
        assert busy == "1"
        assert int(n_ticks) > 100
        pauses.append(float(worst_ms))
        if pauses[-1] < WORST_PAUSE_MS:
            return
    pytest.fail(f"worst pauses {pauses} ms")
