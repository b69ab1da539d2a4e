"""The root of the command line: nothing is imported too early, errors are one line, exit codes are kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Self

import click
import pytest
from click.testing import CliRunner

from transcriber import cli
from transcriber.cli import transcribe as command
from transcriber.cli.transcribe import target_paths, transcribe_command
from transcriber.errors import AudioFormatError, ConfigError, ModelUnavailableError
from transcriber.result import Options, Segment, Transcript

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `main` with these arguments and, as command `fake`, this function: exit code, stdout, stderr."""

    def call(*arguments: str, fake: Callable[[], None] = lambda: None) -> tuple[int, str, str]:
        module = types.ModuleType("fake_command")
        module.command = click.command("fake")(lambda: fake())  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_command", module)
        monkeypatch.setitem(cli._COMMANDS, "fake", cli._Lazy("fake_command:command", "Pretend."))
        monkeypatch.setattr(sys, "argv", ["transcriber", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


def raising(error: BaseException) -> Callable[[], None]:
    def fake() -> None:
        raise error

    return fake


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from transcriber.cli import cli; cli(['--help'], standalone_mode=False)\n"
        "heavy = {'av', 'nats', 'rich', 'huggingface_hub', 'opentelemetry'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("transcribe", "models", "publish", "listen"):
        assert f"\n  {name} " in done.stdout


def test_transcribe_imports_nothing_of_the_service() -> None:
    code = (
        "import sys, transcriber.cli.transcribe, transcriber.files\n"
        "assert not {'nats', 'uvloop', 'opentelemetry'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (0, f"transcriber {version('transcriber')}\n", "")


def test_success_exits_0(run: Run) -> None:
    assert run("fake") == (0, "", "")


def test_failed_work_is_one_line_and_exit_1(run: Run) -> None:
    error = ModelUnavailableError("nope: no such model;\nsee 'transcriber models list'")
    assert run("fake", fake=raising(error)) == (
        1,
        "",
        "transcriber: nope: no such model; see 'transcriber models list'\n",
    )


def test_wrong_setting_exits_2(run: Run) -> None:
    assert run("fake", fake=raising(ConfigError("threads: got -1"))) == (
        2,
        "",
        "transcriber: threads: got -1\n",
    )


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["fake", "--nonsense"], ["transcribe"]])
def test_wrong_usage_is_one_line_and_exit_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "--help" in err


def test_no_command_shows_the_help_and_exits_2(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Commands:" in err


def test_interrupt_says_so_and_exits_130(run: Run) -> None:
    code, out, err = run("fake", fake=raising(KeyboardInterrupt()))
    assert (code, out, err.strip()) == (130, "", "interrupted")


def test_bug_is_one_line_that_says_how_to_see_more(run: Run) -> None:
    code, _, err = run("fake", fake=raising(ZeroDivisionError("oops")))
    assert code == 1
    assert err == "transcriber: unexpected ZeroDivisionError: oops; 'transcriber --debug …' shows where\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), ConfigError("oops")])
def test_debug_shows_the_traceback(run: Run, error: Exception) -> None:
    _, _, err = run("--debug", "fake", fake=raising(error))
    assert "Traceback" in err
    assert "raise error" in err


def test_closed_pipe_is_quiet() -> None:
    code = "from transcriber.cli import main; import sys; sys.argv = ['transcriber', '--help']; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_help_of_transcribe_teaches() -> None:
    result = CliRunner().invoke(transcribe_command, ["--help"])
    assert result.exit_code == 0
    assert "Examples:\n" in result.output
    assert "0 (default): up to 4" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--word-timestamps", "a.wav"], "--format json or jsonl"),
        (["--format", "srt", "a.wav", "b.wav"], "--output-dir"),
        (["--beam-size", "9", "a.wav"], "1<=x<=8"),
        (["--temperature", "2", "a.wav"], "0<=x<=1"),
        (["--format", "doc", "a.wav"], "'txt'"),
        ([], "FILE"),
    ],
)
def test_transcribe_refuses_before_any_work(run: Run, arguments: list[str], advice: str) -> None:
    code, out, err = run("transcribe", *arguments)
    assert (code, out) == (2, "")
    assert advice in err


class FakeModel:
    """Stands for the weights and for the session; counts how often it was loaded and closed."""

    n_loaded = n_closed = 0

    def __init__(self, path: Path) -> None:
        type(self).n_loaded += 1

    def session(self, *, threads: int) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        type(self).n_closed += 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[FakeModel]:
    """Replace the engine: a file is heard as its own name, one called bad cannot be read."""

    class Engine(FakeModel):
        pass

    def transcribe(source: str, *, options: Options, vad: bool, session: object, **_: object) -> Transcript:
        if "bad" in source:
            raise AudioFormatError(f"{source}: not a media file")
        segment = Segment(0, 1000, f"{source} {options.language} {vad}", -0.1, 0.0)
        return Transcript(segment.text, "en", float("nan"), 1000, (segment,))

    monkeypatch.setattr(command, "Model", Engine)
    monkeypatch.setattr(command, "transcribe", transcribe)
    monkeypatch.setattr(command, "resolve", lambda name, progress: Path(name))
    return Engine


def test_one_bad_file_does_not_stop_the_others(run: Run, engine: type[FakeModel]) -> None:
    code, out, err = run("transcribe", "--format", "jsonl", "a.wav", "bad.wav", "-")
    assert code == 1
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["a.wav", "-"]
    assert err == "transcriber: bad.wav: not a media file\n"


def test_weights_are_loaded_once_and_everything_is_closed(run: Run, engine: type[FakeModel]) -> None:
    assert run("transcribe", "a.wav", "b.wav", "c.wav")[0] == 0
    assert (engine.n_loaded, engine.n_closed) == (1, 2)  # the session, then the model


def test_options_reach_the_engine(run: Run, engine: type[FakeModel]) -> None:
    assert run("transcribe", "--language", "de", "--vad", "a.wav") == (0, "a.wav de True\n", "")


def test_texts_of_several_files_have_headings(run: Run, engine: type[FakeModel]) -> None:
    out = "==> a.wav <==\na.wav auto False\n==> b.wav <==\nb.wav auto False\n"
    assert run("transcribe", "a.wav", "b.wav") == (0, out, "")


@pytest.mark.parametrize(
    ("files", "paths"),
    [
        (["a.wav", "b.wav"], ["a.wav", "b.wav"]),
        (["bad.wav", "b.wav"], ["b.wav"]),
        (["a.wav", "bad.wav"], ["a.wav"]),
        (["bad.wav", "bad.mp3"], []),
    ],
)
def test_json_of_several_files_is_one_array(
    run: Run, engine: type[FakeModel], files: list[str], paths: list[str]
) -> None:
    code, out, _ = run("transcribe", "--format", "json", *files)
    assert code == (1 if len(paths) < len(files) else 0)
    assert [item["path"] for item in json.loads(out)] == paths


def test_json_in_a_directory_is_an_object_per_file(run: Run, engine: type[FakeModel], tmp_path: Path) -> None:
    arguments = ("transcribe", "--format", "json", "--output-dir", str(tmp_path), "a.wav", "b.wav")
    assert run(*arguments) == (0, "", "")
    assert [json.loads((tmp_path / f"{name}.json").read_text())["path"] for name in "ab"] == [
        "a.wav",
        "b.wav",
    ]


def test_output_directory_is_made_and_filled(run: Run, engine: type[FakeModel], tmp_path: Path) -> None:
    directory = tmp_path / "new" / "subtitles"
    arguments = ("transcribe", "--format", "srt", "--output-dir", str(directory), "x/a.wav", "-", "bad.wav")
    code, out, _ = run(*arguments)
    assert (code, out) == (1, "")
    assert sorted(path.name for path in directory.iterdir()) == ["a.srt", "stdin.srt"]
    assert "x/a.wav auto False" in (directory / "a.srt").read_text()


def test_output_directory_that_cannot_be_made_is_refused_before_the_weights_are_loaded(
    run: Run, engine: type[FakeModel], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = run("transcribe", "--output-dir", str(tmp_path / "file" / "sub"), "a.wav")
    assert code == 2
    assert err.startswith("transcriber: --output-dir")
    assert engine.n_loaded == 0


def test_file_name_that_is_not_utf_8_does_not_stop_the_output(run: Run, engine: type[FakeModel]) -> None:
    code, out, _ = run("transcribe", "--format", "json", "a\udcff.wav")
    assert code == 0
    assert json.loads(out)["path"] == "a�.wav"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["talk.mp3"], ["talk.srt"]),
        (["-"], ["stdin.srt"]),
        (["a/talk.mp3", "talk.wav", "other.wav"], ["talk.mp3.srt", "talk.wav.srt", "other.srt"]),
        (["a/talk.mp3", "b/talk.mp3", "talk.mp3"], ["talk.mp3.srt", "talk.mp3-2.srt", "talk.mp3-3.srt"]),
        (["v1.2.wav"], ["v1.2.srt"]),
    ],
)
def test_no_two_inputs_share_an_output(files: list[str], names: list[str]) -> None:
    assert target_paths(files, Path("out"), "srt") == [Path("out") / name for name in names]


class Terminal:
    """Stands for a terminal, and for the clock on its wall."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.now_s = 0.0
        self._capsys = capsys

    def monotonic(self) -> float:
        return self.now_s

    def seen(self) -> str:
        return self._capsys.readouterr().err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Make standard error a terminal, and let time pass only when the test says so."""
    clock = Terminal(capsys)
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)  # pytest changes the object
    monkeypatch.setattr(command, "time", clock)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    return clock


def test_bar_reckons_from_the_last_progress(terminal: Terminal) -> None:
    with command._bar("talk.mp3") as progress:
        assert progress is not None
        progress("transcribe", 10_000, 90_000)  # a part left out in front costs nothing
        terminal.now_s = 15.0
        progress("transcribe", 40_000, 90_000)
        terminal.now_s = 500.0  # inside the next window
        progress("transcribe", 40_000, 90_000)
    seen = terminal.seen()
    assert set(re.findall(r"RTF \S+", seen)) == {"RTF 0.50"}
    assert set(re.findall(r"left: \S+", seen)) == {"left: 0:00:25"}
    assert "0:08:20" in seen  # the last frame, with the time elapsed


def test_bar_of_one_window_shows_the_time_and_no_percentage(terminal: Terminal) -> None:
    with command._bar("talk.mp3") as progress:
        assert progress is not None
        progress("decode", 5_000, 11_000)
        progress("decode", 11_000, 11_000)
        progress("transcribe", 0, 11_000)
        terminal.seen()
        terminal.now_s = 5.0
        progress("transcribe", 0, 11_000)
    seen = terminal.seen()
    assert "talk.mp3 transcribe" in seen
    assert "0:00:05" in seen
    assert not re.search(r"%|left|RTF", seen)


@pytest.mark.parametrize("to_directory", [False, True])
def test_each_file_ends_with_a_line_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    terminal: Terminal,
    run: Run,
    engine: type[FakeModel],
    tmp_path: Path,
    to_directory: bool,
) -> None:
    def transcribe(source: str, **_: object) -> Transcript:
        terminal.now_s += 6.3
        return Transcript("", "en", 1.0, 11_000, ())

    monkeypatch.setattr(command, "transcribe", transcribe)
    output = ("--output-dir", str(tmp_path)) if to_directory else ()
    _, _, err = run("transcribe", *output, "talk.mp3", "x/b.wav")
    plain = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", err)  # what is left of the bars
    figures = ": 11.0 s of audio in 6.3 s, RTF 0.57"
    assert re.findall(r"\S+: .* s of audio.*", plain) == [
        f"talk.mp3{figures}" + (f" → {tmp_path / 'talk.txt'}" if to_directory else ""),
        f"x/b.wav{figures}" + (f" → {tmp_path / 'b.txt'}" if to_directory else ""),
    ]
