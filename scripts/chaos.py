"""Kill workers and main processes of runs at random moments, and compare what comes out with an undisturbed run.

    python scripts/chaos.py --kills 50

Runs are started again until they end; whenever one has ended it is compared and the next begins from nothing. Fails
when an artifact differs, a finished chunk was made again, or a lock is left. Linux only.

    python scripts/chaos.py --ledger --kills 40

does the same with three processes that write one ledger of deletions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RUN = [
    *("experiment=quick", "executor=processes", "executor.workers=2", "model.chunk_size=4", "pool.size=240"),
    *("training.epochs=8", "n_models=16", "evaluation.report=false", "logger=none"),
]
OF_THE_DAY = ("seconds", "cpu", "process", "checksum", "device", "commit", "files")  # differs from run to run


def main() -> int:
    """Do what the command line asks for; 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", action="store_true", help="kill processes that write a ledger")
    asked = parser.parse_args()
    if asked.ledger:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "deletion"))
        import ledger_kills

        return ledger_kills.main(asked.kills, asked.seed)
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        reference, disturbed = Path(folder) / "reference", Path(folder) / "disturbed"
        start(reference).wait()
        wrong, kills, ends = [], {"main": 0, "worker": 0}, 0
        while sum(kills.values()) < asked.kills:
            wrong += disturb(disturbed, chance, kills, asked.kills)
            wrong += differences(reference, disturbed)
            wrong += [f"{path} is left" for path in disturbed.rglob("*.lock")]
            shutil.rmtree(disturbed)
            ends += 1
            print(f"{ends} runs ended, {kills['main']} main processes and {kills['worker']} workers killed", flush=True)
    print("\n".join(wrong) or "all as in the undisturbed run; no chunk that was finished was made again; no lock left")
    return int(bool(wrong))


def start(outputs: Path) -> subprocess.Popen[bytes]:
    """Start the run."""
    command = [sys.executable, "-m", "dmm_exp", *RUN, f"paths.outputs={outputs}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def disturb(outputs: Path, chance: random.Random, kills: dict[str, int], most: int) -> list[str]:
    """Kill processes of a run until it ends nevertheless, and return what was made twice."""
    wrong: list[str] = []
    finished: dict[str, tuple[int, int]] = {}
    process = start(outputs)
    while True:
        if process.poll() is None and sum(kills.values()) < most:
            wait_for(lambda running=process: running.poll() is not None or bool(workers(running.pid)))
            time.sleep(chance.uniform(0, 1.0))
            found = workers(process.pid)
            victim = process.pid if chance.random() < 0.3 or not found else chance.choice(found)
            wrong += made_again(outputs, finished)
            if process.poll() is None and end(victim):
                kills["main" if victim == process.pid else "worker"] += 1
                print(f"killed: {kills}, finished chunks: {len(finished)}", file=sys.stderr, flush=True)
                time.sleep(0.05)
        if process.poll() is None and sum(kills.values()) < most:
            continue
        said = process.communicate()[1].decode()
        wrong += made_again(outputs, finished)
        if process.returncode == 0:
            return wrong
        if process.returncode != -signal.SIGKILL:
            return [*wrong, f"a run ended with {process.returncode}: {said}"]
        process = start(outputs)


def end(pid: int) -> bool:
    """Kill a process, and say whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def made_again(outputs: Path, finished: dict[str, tuple[int, int]]) -> list[str]:
    """Return chunks that are not the files that were there at the last look, and remember those that are there."""
    wrong = []
    for receipt in outputs.glob("artifacts/*/*/shard-*.json"):
        shard = receipt.with_suffix(".safetensors")
        name = f"{shard.parent.name.removesuffix('.partial')}/{shard.name}"
        try:
            json.loads(receipt.read_text())
            stat = shard.stat()
        except (OSError, ValueError):
            continue  # its folder has just been renamed
        if finished.setdefault(name, (stat.st_ino, stat.st_mtime_ns)) != (stat.st_ino, stat.st_mtime_ns):
            wrong.append(f"{name} was made again")
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


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when a condition holds."""
    while not condition():
        time.sleep(0.01)


def differences(reference: Path, other: Path) -> list[str]:
    """Return the files of artifacts that are in one folder only, or whose content differs."""
    ours, theirs = content(reference), content(other)
    return [f"{name} differs" for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def content(outputs: Path) -> dict[str, object]:
    """Return name → content of all files of all artifacts: bytes, and JSON without what belongs to the day."""
    found = {}
    for path in (outputs / "artifacts").rglob("*"):
        if path.is_file():
            name = str(path.relative_to(outputs))
            found[name] = _without(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
    return found


def _without(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in OF_THE_DAY}
    return value


if __name__ == "__main__":
    sys.exit(main())
