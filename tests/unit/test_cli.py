"""The root of the command line: nothing is imported too early, errors are one line, exit codes are kept."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from transcriber import cli
from transcriber.cli.transcribe import target_paths, transcribe_command
from transcriber.errors import ConfigError, ModelUnavailableError

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
    for command in ("transcribe", "models", "publish", "listen"):
        assert f"\n  {command} " in done.stdout


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


def test_interrupt_exits_130_without_a_word(run: Run) -> None:
    code, out, err = run("fake", fake=raising(KeyboardInterrupt()))
    assert (code, out, err.strip()) == (130, "", "")


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
