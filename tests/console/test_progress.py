from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

from dmm_exp.console.progress import Console, StageRecord, duration


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_stage_lines_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console()
    with console.stage("pool", "3,000 subset models"), console.progress("members", 3) as advance:
        advance()
        advance(2)
    console.stage_done(StageRecord("originals", "a detail [with brackets] " + "x" * 120, 0.0, True))
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    lines = err.splitlines()
    assert len(lines) == 2
    assert re.search(r"pool +3,000 subset models +computed in 0\.\d s$", lines[0])
    assert "[with brackets]" in lines[1]
    assert lines[1].endswith("reused")


@pytest.mark.parametrize("name", ["pool", "early originals", "pool: part_answers", "pool: a_name_of_ones_own_choice"])
def test_every_stage_stays_in_its_columns(capsys: pytest.CaptureFixture[str], name: str) -> None:
    console = Console()
    console.stage_done(StageRecord("dataset", "rows", 0.0, True))
    console.stage_done(StageRecord(name, "6 models", 0.0, True))
    first, second = capsys.readouterr().err.splitlines()
    assert second.index("reused") == first.index("reused")
    shown, _, part = name.partition(": ")
    assert second[first.index("rows") :].startswith(f"{part}: 6 models" if part else "6 models")
    assert second[: first.index("rows")].split()[1:] == shown.split()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Console(stream).progress("members", 3) as advance:
        advance(2)
    assert "members" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_a_terminal_shows_the_rate_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Console(stream).progress("pool", 300) as advance:
        for _ in range(3):
            time.sleep(0.02)
            advance(50)
        time.sleep(0.3)
    assert re.search(r"150/300.*\d[\d,.]*/s", stream.getvalue())


def test_a_log_gets_a_line_a_minute_with_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 30.0, 61.0, 62.0, 125.0, 190.0])
    monkeypatch.setattr("dmm_exp.console.progress.time.monotonic", lambda: next(now))
    stream = io.StringIO()
    with Console(stream).progress("pool", 1000) as advance:
        for members in (400, 100, 22, 1, 102, 375):  # the first were there
            advance(members)
    assert [line.strip() for line in stream.getvalue().splitlines()] == [
        "pool: 522 of 1,000, 2.0/s, 3 min 59 s left",
        "pool: 625 of 1,000, 1.8/s, 3 min 28 s left",
    ]


@pytest.mark.parametrize(
    ("record", "ending"),
    [
        (StageRecord("pool", "", 48.2, False, 2000, 2000), "2,000 taken over, 2,000 computed in 48.2 s"),
        (StageRecord("pool", "", 0.1, False, 2000, 0), "2,000 taken over in 0.1 s"),
        (StageRecord("pool", "", 48.2, False, 0, 4000), "computed in 48.2 s"),
    ],
)
def test_a_stage_says_how_many_models_existed_already(record: StageRecord, ending: str) -> None:
    stream = io.StringIO()
    Console(stream).stage_done(record)
    assert re.search(rf"pool +{ending}\n$", stream.getvalue())


def test_a_stage_says_what_it_learned_on_the_way() -> None:
    console = Console(io.StringIO())
    with console.stage("pool") as stage:
        stage.detail, stage.cached = "found", True
    (record,) = console.stages
    assert (record.name, record.detail, record.cached) == ("pool", "found", True)
    assert record.seconds >= 0


def test_a_failed_stage_is_said_and_not_recorded() -> None:
    stream = io.StringIO()
    console = Console(stream)
    with pytest.raises(ZeroDivisionError), console.stage("pool"):
        _ = 1 / 0
    assert "failed after" in stream.getvalue()
    assert console.stages == []


def test_the_log_has_every_line_with_its_time(tmp_path: Path) -> None:
    console = Console(io.StringIO())
    console.note("before")
    console.log_to(tmp_path / "run.log")
    console.warn("N is small")
    console.stage_done(StageRecord("pool", "", 48.2, False))
    lines = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ! N is small$", lines[0])
    assert "computed in 48.2 s" in lines[1]


def test_a_console_that_knows_only_ascii_is_written_to_all_the_same() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(stream)
    console.stage_done(StageRecord("pool", "α = 0.5", 1.0, False))
    stream.flush()
    assert stream.buffer.getvalue().startswith(b"ok pool")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (48.2, "48.2 s"), (59.97, "1 min 00 s"), (7620, "2 h 07 min")]
)
def test_durations_are_said_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text
