"""What reaches a terminal is printable, whoever wrote it; an output that cannot be written is one sentence."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from dmm_exp.commands.artifacts import artifacts
from dmm_exp.console.command import exit_with
from dmm_exp.console.progress import Console
from dmm_exp.console.tables import print_table
from dmm_exp.console.terminal import safe_output
from dmm_exp.errors import UserError, listed, printable, shown, storage_errors

HOSTILE = "a\x1b[2Jb\x07c\x9bd\u202ee\x7f\u2028f\r\ud800"
ESCAPED = "a\\x1b[2Jb\\x07c\\x9bd\\u202ee\\x7f\\u2028f\\r\\ud800"
OBEYED = set(HOSTILE) - set(printable(HOSTILE))


def is_printable(text: str) -> bool:
    return not OBEYED & set(text)


def ended(command: Callable[[], int]) -> int:
    with pytest.raises(SystemExit) as caught:
        exit_with(command)
    assert isinstance(caught.value.code, int)
    return caught.value.code


# ---------------------------------------------------------------------- control characters


def test_what_a_terminal_obeys_becomes_an_escape_and_other_text_stays():
    assert printable(HOSTILE) == ESCAPED
    for text in ("two\nlines\tand a tab", "é 名 α ✓ 🙂 עברית", ""):
        assert printable(text) == text


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x200F, 0xDC80])
def test_no_control_character_is_left(code: int):
    assert printable(chr(code)) == chr(code) if chr(code) in "\n\t" else printable(chr(code)).isascii()


def test_errors_and_quoted_values_are_printable():
    assert is_printable(str(UserError(f"x={HOSTILE}: wrong")))
    assert is_printable(shown(HOSTILE))
    assert is_printable(listed([HOSTILE, "b"]))
    assert "\n" not in str(UserError("a\nb\x85c"))


@pytest.mark.parametrize("terminal", [False, True])
def test_notes_warnings_stages_and_the_log_are_printable(terminal: bool, tmp_path: Path):
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    console = Console(stream)
    console.log_to(tmp_path / "run.log")
    console.note(HOSTILE)
    console.warn(HOSTILE)
    with console.stage(HOSTILE, HOSTILE):
        pass
    with console.progress(HOSTILE, 3) as advance:
        advance(3)
    text = stream.getvalue()
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert text.count("a\\x1b[2Jb") >= 4
    assert is_printable((tmp_path / "run.log").read_text(encoding="utf-8"))


def test_tables_are_printable():
    stream, table = io.StringIO(), Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    print_table(table, stream)
    assert is_printable(stream.getvalue())
    assert stream.getvalue().count("a\\x1b[2J") == 5


def test_what_is_printed_in_any_way_is_printable(capsys: pytest.CaptureFixture[str]):
    with safe_output():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        sys.stdout.writelines([HOSTILE])
        sys.stderr.write(f"\r{HOSTILE}")
    out, err = capsys.readouterr()
    assert is_printable(out)
    assert is_printable(err.replace("\r", ""))
    assert sys.stdout is not None
    assert not hasattr(sys.stdout, "rich_proxied_file")


def test_names_of_artifacts_are_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    folder = tmp_path / "artifacts" / "kind\x1b[2J" / "key\x1b[31m"
    folder.mkdir(parents=True)
    for words in (["list"], ["verify"], ["explain", "key"], ["prune"]):
        monkeypatch.setattr(sys, "argv", ["artifacts", *words, "--outputs", str(tmp_path)])
        ended(lambda: artifacts(sys.argv[1:]))
    assert "\x1b[2J" not in "".join(capsys.readouterr())


# ---------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_an_output_that_is_not_utf_8_gets_other_characters(encoding: str, monkeypatch: pytest.MonkeyPatch):
    content = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(content, encoding, write_through=True))

    def command() -> int:
        console = Console()
        with console.stage("pool", "α = 0.5 … 名\udcff"):
            pass
        table = Table("≥ 3")
        table.add_row("– ± ✗")
        print_table(table)
        print("ρ ✓")
        return 0

    assert ended(command) == 0
    text = content.getvalue().decode(encoding)
    assert "pool" in text
    if encoding == "ascii":
        assert "ok pool" in text
        assert "alpha = 0.5 ..." in text
        assert "- +/- !!" in text


def test_the_command_works_in_an_environment_without_utf_8():
    own = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-c", "from dmm_exp.commands import cli; cli.main()", "unlearner=dm"]
    done = subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "did you mean 'dmm'?" in done.stderr


# ---------------------------------------------------------------------- what cannot be written


@contextmanager
def full(name: str) -> Iterator[None]:
    """Let standard output or standard error be a device that is full."""
    stream = open("/dev/full", "w")  # noqa: SIM115  (it cannot be closed without an error)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, name, stream)
        yield
    with suppress(OSError):
        stream.close()


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to Linux's full device")


def by_print() -> int:
    print("a" * 10_000)
    return 0


def by_table() -> int:
    table = Table("a")
    table.add_row("b")
    print_table(table)
    return 0


def at_the_end() -> int:
    print("a few words")
    return 0


def by_logging() -> int:
    """As Hydra's sweeper says what it starts."""
    handler = logging.StreamHandler(sys.stdout)
    handler.emit(logging.makeLogRecord({"msg": "a few words", "level": logging.INFO}))
    return 0


@needs_full
@pytest.mark.parametrize("command", [by_print, by_table, by_logging, at_the_end])
def test_a_full_device_is_one_sentence(command: Callable[[], int], capsys: pytest.CaptureFixture[str]):
    with full("stdout"):
        assert ended(command) == 2
    said = capsys.readouterr().err
    assert said == "error: standard output cannot be written (No space left on device)\n"


def test_a_reader_that_has_ended_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, open(writing, "w") as stream:
        patch.setattr(sys, "stdout", stream)
        assert ended(by_print) == 2
    assert capsys.readouterr().err == "error: standard output cannot be written (Broken pipe)\n"


@needs_full
def test_standard_error_that_cannot_be_written_stops_nothing():
    def command() -> int:
        Console().note("a" * 10_000)
        print("a" * 10_000, file=sys.stderr)
        return 0

    def refused() -> int:
        raise UserError("wrong")

    with full("stderr"):
        assert ended(command) == 0
        assert ended(refused) == 2


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_before_stops_nothing(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, name, None)
    assert ended(by_table) == 0


@needs_full
def test_the_process_ends_so_when_its_output_is_full():
    with open("/dev/full", "w") as stream:
        words = [sys.executable, "-c", "from dmm_exp.commands import cli; cli.main()", "--help"]
        done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: standard output cannot be written (No space left on device)\n"


# ---------------------------------------------------------------------- places that cannot be written


@pytest.mark.parametrize(
    ("outputs", "words"),
    [("a_file", "a file is where a folder is needed"), ("a_file/below", "a file is where a folder is needed"),
     ("loop", "links lead in a circle"), ("x" * 300, "the name is too long")],
)  # fmt: skip
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]])
def test_outputs_that_are_no_folder_are_one_sentence(outputs, words, sweep, command, tmp_path: Path):
    (tmp_path / "a_file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    done = command(*sweep, "experiment=quick", "executor=local", f"paths.outputs={outputs}", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "choose another folder (paths.outputs=DIR)" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a_file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_outputs_without_permission_are_one_sentence(command, tmp_path: Path):
    (tmp_path / "outputs").mkdir(0o500)
    done = command("experiment=quick", "executor=local", cwd=tmp_path)
    assert (done.returncode, "writing is not permitted" in done.stderr) == (2, True)


def test_a_missing_file_stays_what_it_is():
    with pytest.raises(FileNotFoundError), storage_errors():
        Path("/no/such/file").read_bytes()
