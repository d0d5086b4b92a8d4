"""Disturb a mix of commands with signals at random moments, and compare their results with undisturbed ones.

    python scripts/chaos.py --kills 50

The mix is a run with a report, the same run twice at once, a sweep, and two deletions that share a pool. Signals are
SIGKILL (also to workers), SIGTERM and Ctrl-C, once or twice. Whatever was ended is started again until it finishes;
when all have finished, the results are compared and the mix begins again in an empty folder. Fails when a result
differs, a finished chunk was computed again, an exit code or an error message is unexpected, a run that was interrupted
says something else, or a lock, a temporary folder or a half-written folder is left. Linux only.

    python scripts/chaos.py --ledger --kills 40

does the same with three processes that write one ledger of deletions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("experiment=quick", "model.chunk_size=4", "n_models=4", "training.epochs=3", "logger=none")
RUN = ("dmm_exp", *SMALL, "executor=processes", "executor.workers=2", "evaluation.report=true")
SAME = ("dmm_exp", *SMALL, "unlearner=finetune", "executor=local", "evaluation.report=true")
SWEEP = ("dmm_exp", "-m", *SMALL, "unlearner=scrub,neggrad_plus", "executor=local", "evaluation.report=false")
DELETION = (
    *("dmm_exp.unlearn", "training.epochs=3", "model.chunk_size=4", "executor=local", "request.recipe=true"),
    *("request.checkpoint=../net.safetensors", "request.pool=pool", "request.size=40"),
)
JOBS = {
    "run": RUN,
    "same run": SAME,
    "same run, again": SAME,
    "sweep": SWEEP,
    "deletion": (*DELETION, "forget.indices=../rows.csv", "request.output=deleted"),
    "other deletion": (*DELETION, "forget.indices=../others.csv", "request.output=others"),
}
MEASURED = "pool/artifacts/chunk_size"  # a speed: it decides how models of a pool are grouped, and the last bits
SIGNALS = (
    (signal.SIGKILL,),
    (signal.SIGTERM,),
    (signal.SIGINT,),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGINT),
)
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
PAUSE = 8.0  # seconds between two signals, at most
TWICE = 1.0  # seconds between the two of a pair, at most
OF_THE_DAY = {"checksum", "files", "process", "started", "updated", "when"}  # digests of times, and who did it when
OF_TIMES = {"break_even_requests", "cpu", "retraining"}  # measured seconds, and what is computed of them
TIME = re.compile(r"\d[\d,.]* (s|min \d\d s|h \d\d min)\b")  # in a sentence


@dataclass
class Job:
    """A command that runs, and the signal that it was sent.

    Attributes:
        name: in :data:`JOBS`.
        process: of the command.
        errors: file of its standard error.
        sent: signals to its main process; of two that come at once, Python heeds either first.
        held: run folders that it was working on at that time.
    """

    name: str
    process: subprocess.Popen[bytes]
    errors: Path
    sent: set[signal.Signals] = field(default_factory=set)
    held: list[Path] = field(default_factory=list)


def main() -> int:
    """Do what the command line asks for; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", action="store_true", help="kill processes that write a ledger")
    asked = parser.parse_args()
    if asked.ledger:
        sys.path.insert(0, str(ROOT / "tests" / "deletion"))
        import ledger_kills

        return ledger_kills.main(asked.kills, asked.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands would ignore what a shell has this one ignore
    with tempfile.TemporaryDirectory() as folder:
        wrong = wrong_after(Path(folder), asked.kills, random.Random(asked.seed))
    print("\n".join(wrong) or "all results as undisturbed; nothing finished was computed again; nothing is left")
    return int(bool(wrong))


def wrong_after(folder: Path, kills: int, chance: random.Random) -> list[str]:
    """Disturb the mix so many times, and return what is wrong."""
    began, wrong, sent, found = time.monotonic(), [], Counter[str](), Counter[str]()
    (folder / "rows.csv").write_text("3\n5\n8\n")
    (folder / "others.csv").write_text("1\n4\n")
    reference, work = folder / "reference", folder / "work"
    wrong += undisturbed(work)
    work.rename(reference)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    while sum(sent.values()) < kills and not wrong:
        shutil.copytree(reference / MEASURED, work / MEASURED)
        wrong += disturbed(work, chance, sent, found, kills)
        wrong += differences(reference, work) + left(work)
        shutil.rmtree(work)
        signals = ", ".join(f"{name} {count}" for name, count in sorted(sent.items()))
        print(f"all finished after {sum(sent.values())} kills: {signals}", flush=True)
        print(f"statuses of interrupted runs: {dict(found)}; {time.monotonic() - began:.0f} s", flush=True)
    return wrong


def undisturbed(work: Path) -> list[str]:
    """Do one job after another; the first one's network is the checkpoint of the deletions."""
    wrong = []
    for name in JOBS:
        job = start(name, work)
        job.process.wait()
        wrong += complaints(job, work)
        if name == "run":
            shutil.copy(next(work.glob("outputs/runs/*/unlearned.safetensors")), work.parent / "net.safetensors")
    return wrong


def disturbed(work: Path, chance: random.Random, sent: Counter[str], found: Counter[str], most: int) -> list[str]:
    """Do all jobs at once, disturb them until there were ``most`` signals, and return what is wrong."""
    wrong: list[str] = []
    finished: dict[str, tuple[int, int]] = {}
    running, due = [start(name, work) for name in JOBS], time.monotonic() + 2 * PAUSE
    while running:
        time.sleep(0.05)
        if time.monotonic() > due and sum(sent.values()) < most:
            wrong += made_again(work, finished)
            sent.update([disturb(chance.choice(running), work, chance)])
            due = time.monotonic() + chance.uniform(0, PAUSE)
        for job in [job for job in running if job.process.poll() is not None]:
            running.remove(job)
            wrong += complaints(job, work)
            found.update(state(folder) for folder in job.held if job.process.returncode > 0)
            if job.process.returncode:
                running.append(start(job.name, work))
    return [*wrong, *made_again(work, finished)]


def start(name: str, work: Path) -> Job:
    """Start a job in a folder; its temporary files are beside that."""
    temporary, errors = work.parent / "tmp", work.parent / f"{time.monotonic_ns()}.txt"
    for folder in (work, temporary):
        folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with errors.open("wb") as file:
        command = [sys.executable, "-m", *JOBS[name]]
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=file)
    return Job(name, process, errors)


def disturb(job: Job, work: Path, chance: random.Random) -> str:
    """Send a job one or two signals, or end a worker of it, and return what was done."""
    found = workers(job.process.pid)
    if found and chance.random() < 0.4:
        send(chance.choice(found), signal.SIGKILL)
        return "SIGKILL of a worker"
    signals = chance.choice(SIGNALS)
    while signals != (signal.SIGKILL,) and not heeds(job.process.pid):  # Python itself is still starting
        time.sleep(0.02)
    job.held = [lock.parent for lock in work.glob("outputs/runs/*/.lock") if holder(lock) == job.process.pid]
    for place, number in enumerate(signals):
        time.sleep(chance.uniform(0, TWICE) if place else 0)
        if job.process.poll() is None:
            job.sent.add(number)
            send(job.process.pid, number)
    return " and ".join(number.name for number in signals)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def heeds(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM, or has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    dead = any(line.startswith("State:") and line.split()[1] in "ZX" for line in lines)
    return dead or bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def complaints(job: Job, work: Path) -> list[str]:
    """Return what is wrong with how a command ended."""
    names = ", ".join(sorted(number.name for number in job.sent)) or "no signal"
    code, errors = job.process.returncode, job.errors.read_text(errors="replace")
    expected = {0, *(CODES[number] for number in job.sent)}
    wrong = [] if code in expected else [f"{job.name}: ended with {code} after {names}:\n{errors}"]
    if code in expected and ("Traceback" in errors or "Exception ignored" in errors):
        wrong.append(f"{job.name}: a traceback after {names}:\n{errors}")
    if code >= 0:
        wrong += [f"{job.name}: {path} is left" for path in work.rglob("*.lock") if holder(path) == job.process.pid]
    if code > 0:
        states = {folder: state(folder) for folder in job.held}
        unlocked = [folder for folder in states if not (folder / ".lock").exists()]  # nobody else took it up since
        allowed = ("interrupted", "finished")
        wrong += [f"{job.name}: its status is {states[one]}" for one in unlocked if states[one] not in allowed]
    return wrong


def state(folder: Path) -> str:
    """Return the state in the status of a run."""
    return str(json.loads((folder / "status.json").read_text())["state"])


def holder(lock: Path) -> int | None:
    """Return the process that a lock belongs to, None when it is gone."""
    try:
        return int(json.loads(lock.read_text())["pid"])
    except (OSError, ValueError):
        return None


def made_again(work: Path, finished: dict[str, tuple[int, int]]) -> list[str]:
    """Return chunks that are other files than at the last look, and remember those that are there."""
    wrong = []
    for receipt in work.glob("outputs/artifacts/*/*/shard-*.json"):
        shard = receipt.with_suffix(".safetensors")
        name = f"{shard.parent.name.removesuffix('.partial')}/{shard.name}"
        try:
            json.loads(receipt.read_text())
            stat = shard.stat()
        except (OSError, ValueError):
            continue  # its folder has just been renamed
        if finished.setdefault(name, (stat.st_ino, stat.st_mtime_ns)) != (stat.st_ino, stat.st_mtime_ns):
            wrong.append(f"{name} was computed again")
    return wrong


def workers(main_process: int) -> list[int]:
    """Return the worker processes of a run: those whose parent, their server, is a child of it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    return [worker for server in children.get(main_process, []) for worker in children.get(server, [])]


def left(work: Path) -> list[str]:
    """Return temporary folders that are left, after a sweep; those of PyTorch and Python do not count."""
    sys.path.insert(0, str(ROOT))
    from dmm_exp.store.temporary import sweep

    temporary = work.parent / "tmp"
    for path in temporary.iterdir():
        os.utime(path, (0, 0))  # an empty one is only removed when it is old
    sweep(temporary)
    return [f"{path} is left" for path in temporary.iterdir() if not path.name.startswith(("torchinductor_", "pymp-"))]


def differences(reference: Path, other: Path) -> list[str]:
    """Return the files that are in one folder only, or whose content differs."""
    ours, theirs = content(reference), content(other)
    return [f"{name} differs" for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def content(work: Path) -> dict[str, object]:
    """Return name → content of all files: bytes, JSON and CSV without times, and of logs and pages nothing."""
    found: dict[str, object] = {}
    for path in work.rglob("*"):
        name = str(path.relative_to(work))
        if (
            path.is_dir()
            or path.suffix in (".log", ".html", ".yaml")
            or "figures" in path.parts
            or path.name == "figures.json"
        ):
            found[name] = None if path.is_dir() else bool(path.stat().st_size)
        elif path.suffix == ".json":
            found[name] = _without_times(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            found[name] = _without_times_of_table(path)
        else:
            found[name] = path.read_bytes()
    return found


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if not _is_of_the_day(key)}
        if "break_even_requests" in value:
            del kept["in_words"]  # which says nothing else
        return {key: _without_times(inner) for key, inner in kept.items()}
    if isinstance(value, str):
        return TIME.sub("TIME", value)
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _without_times_of_table(path: Path) -> object:
    import pandas as pd

    table = pd.read_csv(path)
    return table[[name for name in table if not _is_of_the_day(str(name))]].to_csv()


def _is_of_the_day(key: str) -> bool:
    return key in OF_THE_DAY | OF_TIMES or key.endswith("/cached") or "seconds" in key


if __name__ == "__main__":
    sys.exit(main())
