"""Commands end alike on Ctrl-C and on SIGTERM: what they were doing is cleaned up, whatever comes meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmm_exp.console import command as terminal_command
from dmm_exp.console import signals
from dmm_exp.console.command import exit_with
from dmm_exp.console.progress import Console
from dmm_exp.runs import folder as runs_folder


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Signals as a terminal leaves them; who runs the tests may ignore some."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def code_of(command: Callable[[], int]) -> object:
    with pytest.raises(SystemExit) as ended:
        exit_with(command)
    return ended.value.code


def kill(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_end_is_one_sentence_and_an_exit_code(capsys, number, code):
    assert code_of(lambda: kill(number) or 0) == code
    assert capsys.readouterr().err == "interrupted; the same command goes on where this one stopped\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_before_a_command_begins_ends_it_and_one_after_it_changes_nothing(monkeypatch, number, code, when):
    begun, usual = [], terminal_command.safe_output

    @contextmanager
    def output() -> Iterator[None]:
        with usual():
            if when == "before":
                kill(number)
            yield
        if when == "after":
            kill(number)

    monkeypatch.setattr(terminal_command, "safe_output", output)
    assert code_of(lambda: begun.append(True) or 3) == (code if when == "before" else 3)
    assert bool(begun) == (when == "after")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_break_off_the_clean_up(second):
    cleaned = []

    def command() -> int:
        try:
            kill(signal.SIGTERM)
        finally:
            kill(second)
            cleaned.append(True)
        return 0

    assert code_of(command) == 143
    assert cleaned == [True]


def test_a_clean_up_that_hangs_can_be_ended(monkeypatch):
    monkeypatch.setattr(signals, "CLEANING", 0.1)

    def command() -> int:
        try:
            kill(signal.SIGTERM)
        finally:
            kill(signal.SIGINT)
        return 0

    assert code_of(command) == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends_changes_neither_exit_code_nor_output(number):
    program = (
        "import atexit, os, sys, time\n"
        "from dmm_exp.console.command import exit_with\n"
        "def late():\n"
        "    os.kill(os.getpid(), int(sys.argv[1]))\n"
        "    time.sleep(0.05)\n"
        "def command():\n"
        "    atexit.register(late)\n"
        "    return 0\n"
        "exit_with(command)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_where_python_passes_over_errors_comes_again(number, code):
    """As in a callback of a weak reference, of which Python's own imports make use."""
    program = (
        "import os, sys, time\n"
        "from dmm_exp.console.command import exit_with\n"
        "class Passing:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), int(sys.argv[1]))\n"
        "        time.sleep(0.01)\n"
        "def command():\n"
        "    Passing()\n"
        "    time.sleep(30)\n"
        "exit_with(command)\n"
    )
    words = [sys.executable, "-c", program, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, "interrupted; the same command goes on where this one stopped\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_text_is_executed_ends_alike(tmp_path, number, code):
    """As in a module that makes data classes: Python itself would end by SIGINT afterwards."""
    (tmp_path / "program.py").write_text(
        "import sys\n"
        "from dmm_exp.console.command import exit_with\n"
        "exit_with(lambda: exec('import os, time; os.kill(os.getpid(), int(sys.argv[1])); time.sleep(5)'))\n"
    )
    words, where = [sys.executable, "-m", "program", str(int(number))], os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": where}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (code, "interrupted; the same command goes on where this one stopped\n")


def test_an_error_that_a_signal_was_turned_into_is_an_interruption():
    class Named:
        def __set_name__(self, owner: type, name: str) -> None:
            kill(signal.SIGTERM)

    assert code_of(lambda: bool(type("Owner", (), {"named": Named()}))) == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_are_ignored_stay_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    assert code_of(lambda: kill(number) or 0) == 0


def test_a_program_that_uses_the_package_keeps_its_handlers():
    mine = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGTERM, mine)
    with signals.interruptions():
        assert signal.getsignal(signal.SIGTERM) is mine


def test_other_threads_and_ranks_leave_signals_alone(monkeypatch):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(code_of(lambda: 0)))
    thread.start()
    thread.join()
    assert codes == [0]
    monkeypatch.setattr(signals, "ranks", lambda: 2)
    with signals.interruptions():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_while_lightning_trains_reaches_the_command():
    import torch

    from dmm_exp import train

    inputs, labels = torch.randn(40, 3), torch.arange(40) % 2

    class Ended(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.training:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(inputs)

    assert code_of(lambda: train(Ended(3, 2), (inputs, labels), {"epochs": 1}) and 0) == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_sigterm_that_workers_get_too_stops_them_and_is_no_traceback(tmp_path):
    program = (
        "import sys, os, signal, threading\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "import executor_jobs as work\n"
        "from dmm_exp.console.command import exit_with\n"
        "from dmm_exp.executors import Processes\n"
        "def command():\n"
        "    threading.Timer(4.0, os.killpg, [0, signal.SIGTERM]).start()\n"
        "    for _ in Processes(workers=2).run(work.wait_for_ever, [work.Job(Path(sys.argv[1]), n) for n in (0, 1)]):\n"
        "        pass\n"
        "    return 0\n"
        "if __name__ == '__main__':\n"
        "    exit_with(command)\n"
    )
    (tmp_path / "program.py").write_text(program)
    jobs = os.path.join(os.path.dirname(__file__), "executors")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path), jobs],
        capture_output=True, text=True, start_new_session=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    assert done.stderr == "interrupted; the same command goes on where this one stopped\n"


@pytest.mark.parametrize("interrupted_at", ["running", "work", "finished"])
def test_a_run_that_is_interrupted_is_never_left_as_running(tmp_path, monkeypatch, interrupted_at):
    """Wherever the signal comes: just after the status says that it runs, during its work, before it says the end."""
    write = runs_folder.write_json

    def interrupt(path: Path, value: dict[str, object]) -> None:
        if value["state"] == "running":
            write(path, value)
        if value["state"] == interrupted_at:
            raise KeyboardInterrupt
        write(path, value)

    def work() -> None:
        with runs_folder.held(tmp_path, Console(quiet=True)):
            if interrupted_at == "work":
                raise KeyboardInterrupt

    monkeypatch.setattr(runs_folder, "write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "interrupted"
    assert not (tmp_path / ".lock").exists()
