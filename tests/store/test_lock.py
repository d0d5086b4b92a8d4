"""Locks exclude, say who holds them, go stale with their holder, and leave nothing behind."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import gone

from dmm_exp.store import lock
from dmm_exp.store.lock import Lock, holder_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that are renewed and given up in fractions of a second."""
    monkeypatch.setattr(lock, "RENEWED_EVERY", 0.05)
    monkeypatch.setattr(lock, "STALE_AFTER", 0.6)
    monkeypatch.setattr(lock, "LOOK_EVERY", 0.02)


def left_by(path: Path, **facts: object) -> Path:
    """Leave the lock of a process that differs from this one in some facts."""
    with Lock(path):
        holder = json.loads(path.read_text())
    path.write_text(json.dumps({**holder, "token": "theirs", **facts}))
    return path


def seconds_to_get(path: Path) -> float:
    start = time.monotonic()
    with Lock(path):
        return time.monotonic() - start


def test_a_lock_is_a_file_while_it_is_held_and_leaves_nothing(tmp_path: Path):
    path = tmp_path / "locks" / "a.lock"
    with Lock(path):
        assert path.exists()
        assert f"process {os.getpid()} " in (holder_of(path) or "")
    assert list(path.parent.iterdir()) == []
    assert holder_of(path) is None


def test_an_exception_releases_it(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), Lock(tmp_path / "a.lock"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_who_waits_is_told_once_for_whom_and_gets_it_when_it_is_free(tmp_path: Path):
    path, told, order = tmp_path / "a.lock", [], []

    def second() -> None:
        with Lock(path, told.append):
            order.append("second")

    waiting = threading.Thread(target=second)
    with Lock(path):
        waiting.start()
        time.sleep(1.0)  # longer than a lock may go without being renewed
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert len(told) == 1
    assert f"process {os.getpid()} of " in told[0]


@pytest.mark.parametrize("kind", ["ended", "number taken by a later process"])
def test_the_lock_of_a_process_of_this_machine_that_is_gone_is_taken_at_once(kind: str, tmp_path: Path):
    facts = {"pid": gone()} if kind == "ended" else {"birth": "1"}
    path = left_by(tmp_path / "a.lock", **facts)
    assert holder_of(path) is None
    assert seconds_to_get(path) < 0.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("facts", [{"host": "elsewhere"}, {"boot": "before"}])
def test_the_lock_of_another_machine_is_stale_when_it_is_not_renewed(facts: dict, tmp_path: Path):
    path = left_by(tmp_path / "a.lock", **facts)
    assert holder_of(path) is not None
    assert 0.5 < seconds_to_get(path) < 5


def test_the_lock_of_another_machine_is_waited_for_while_it_is_renewed(tmp_path: Path):
    path = left_by(tmp_path / "a.lock", host="elsewhere")
    got = threading.Event()

    def wait() -> None:
        with Lock(path):
            got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    for _ in range(24):
        os.utime(path)
        time.sleep(0.05)
    assert not got.is_set()
    path.unlink()
    waiting.join(10)
    assert got.is_set()


@pytest.mark.parametrize("content", ["", "null", "{}", "half a li"])
def test_a_lock_that_says_nothing_goes_stale_too(content: str, tmp_path: Path):
    path = tmp_path / "a.lock"
    path.write_text(content)
    assert 0.5 < seconds_to_get(path) < 5


def test_many_that_find_a_stale_lock_hold_it_one_at_a_time(tmp_path: Path):
    path, inside, most = left_by(tmp_path / "a.lock", pid=gone()), [], []

    def hold() -> None:
        with Lock(path):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 8
    assert list(tmp_path.iterdir()) == []


def test_who_was_given_up_does_not_release_the_lock_of_a_successor(tmp_path: Path):
    path = tmp_path / "a.lock"
    with Lock(path):
        left_by_successor = json.dumps({"token": "successor"})
        path.write_text(left_by_successor)
    assert path.read_text() == left_by_successor


# ---------------------------------------------------------------------- taking over


class Slow(Lock):
    """Finds a lock stale, and is slow to take it over."""

    def __init__(self, path: Path, meanwhile: Callable[[], None]) -> None:
        super().__init__(path)
        self.meanwhile = meanwhile

    def _took_over(self, stale: str) -> bool:
        self.meanwhile()
        return super()._took_over(stale)


def test_who_finds_a_lock_stale_too_late_never_makes_its_place_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process took over meanwhile; were its file moved aside to be looked at, a third one could get in."""
    path, third, seen = left_by(tmp_path / "a.lock", pid=gone()), Lock(tmp_path / "a.lock"), []
    second = Lock(path)
    replace = os.rename

    def rename(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append(lock._created(path, third._text))

    monkeypatch.setattr(os, "rename", rename)

    def meanwhile() -> None:
        if not seen:
            seen.append(False)
            second.__enter__()

    slow = threading.Thread(target=lambda: Slow(path, meanwhile).__enter__())
    slow.start()
    time.sleep(0.3)
    assert path.read_text() == second._text
    second.__exit__()
    slow.join(10)
    assert not any(seen)


def test_a_claim_whose_maker_is_gone_is_claimed_in_turn(tmp_path: Path):
    path = left_by(tmp_path / "a.lock", pid=gone())
    holder = path.read_text()
    for _ in range(2):  # two processes were killed while they took over
        claim = Lock(path)._claim_on(holder)
        holder = json.dumps({**json.loads(path.read_text()), "token": claim.name, "pid": gone()})
        claim.write_text(holder)
    assert seconds_to_get(path) < 0.5
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_somebody_has_a_claim_on_is_left_to_them(tmp_path: Path):
    path = tmp_path / "a.lock"
    with Lock(path) as held:
        left_by(held._claim_on(held._text), host="elsewhere")
    assert path.exists()


def test_an_interrupted_wait_leaves_the_lock_of_others_and_none_of_its_own(tmp_path: Path):
    path = tmp_path / "a.lock"

    def interrupt(holder: str) -> None:
        raise KeyboardInterrupt

    with Lock(path):
        with pytest.raises(KeyboardInterrupt):
            Lock(path, interrupt).__enter__()
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def hold_in_turn(path: Path, log: Path, times: int) -> None:
    """Hold a lock some times, and be killed while holding it the last time."""
    for left in range(times, 0, -1):
        held = Lock(path)
        held.__enter__()
        with log.open("a") as file:
            file.write("in\n")
        time.sleep(0.002)
        if left == 1:
            os._exit(1)
        with log.open("a") as file:
            file.write("out\n")
        held.__exit__()


def test_processes_that_die_while_they_hold_it_never_leave_two_inside(tmp_path: Path):
    path, log, children = tmp_path / "locks" / "a.lock", tmp_path / "log", []
    for _ in range(6):
        child = os.fork()
        if not child:
            hold_in_turn(path, log, 4)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    told = log.read_text().split()
    assert told.count("in") == 24
    inside = 0
    for place, word in enumerate(told):
        inside = 1 if word == "in" else 0
        if word == "out":
            assert told[place - 1] == "in"
    assert inside == 1
    with Lock(path):
        pass
    assert list(path.parent.iterdir()) == []
