"""Processes that write one ledger are killed at random moments, and started again until all is done.

    python scripts/chaos.py --ledger --kills 40

Fails when a request is lost or there twice, a receipt that was given does not fit, or anything is left.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

WRITERS, REQUESTS, ROWS = 3, 6, 2
SLOWEST = 1.0  # seconds that a writer works before it is killed, at most
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
PRELOADED = ["dmm_exp.executors.preload", "dmm_exp.deletion.ledger"]


def rows_of(writer: int) -> list[list[int]]:
    """Return the rows of each request of a writer."""
    first = writer * REQUESTS * ROWS
    return [list(range(start, start + ROWS)) for start in range(first, first + REQUESTS * ROWS, ROWS)]


def write(folder: str, writer: int) -> None:
    """Ask for all requests of a writer, one after another, and keep the receipts; run in a process of its own."""
    from dmm_exp.console.command import exit_with

    def command() -> int:
        import torch

        from dmm_exp import Ledger

        tempfile.tempdir = str(Path(folder) / "tmp")
        torch.set_num_threads(1)
        inputs = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        network = torch.nn.Linear(4, 2)
        with torch.no_grad():
            network.weight.copy_(torch.eye(2, 4))
            network.bias.zero_()
        data = inputs, inputs[:, :2].argmax(1)
        ledger = Ledger(Path(folder) / "book", network, data, method="finetune epochs=1", progress=False)
        for rows in rows_of(writer):
            receipt = ledger.delete(rows).receipt
            with (Path(folder) / f"receipts-{writer}").open("a") as file:
                file.write(f"{receipt}\n")
        return 0

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # "interrupted; ..."
        exit_with(command)


def wrong_after_kills(folder: Path, kills: int, seed: int, told: bool = False) -> list[str]:
    """Let writers fill a ledger while they are killed so many times; returns what is wrong afterwards."""
    chance, count, wrong = random.Random(seed), dict.fromkeys(SIGNALS, 0), []
    (folder / "tmp").mkdir(parents=True)
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()
    running = {writer: started(context, folder, writer) for writer in range(WRITERS)}
    while running:
        writer = chance.choice(list(running))
        process = running[writer]
        process.join(chance.uniform(0.0, SLOWEST) if sum(count.values()) < kills else None)
        if process.is_alive():
            number = chance.choice(SIGNALS)
            os.kill(process.pid, number)
            process.join()
            count[number] += 1
        if process.exitcode == 0:
            del running[writer]
            continue
        if process.exitcode not in (-signal.SIGKILL, -signal.SIGTERM, 143):
            return [*wrong, f"writer {writer} ended with {process.exitcode}"]
        running[writer] = started(context, folder, writer)
    if told:
        print(", ".join(f"{number.name} {times}" for number, times in count.items()), flush=True)
    if sum(count.values()) < kills:
        wrong += wrong_after_kills(folder / "next", kills - sum(count.values()), seed + 1, told)
    return [*wrong, *wrong_in(folder)]


def started(context: Any, folder: Path, writer: int) -> Any:
    """Return a process that writes."""
    process = context.Process(target=write, args=(str(folder), writer))
    process.start()
    return process


def wrong_in(folder: Path) -> list[str]:
    """Return what is wrong in a ledger that all writers have written."""
    from dmm_exp.records import files
    from dmm_exp.records.chain import Receipt
    from dmm_exp.records.chain_reading import read
    from dmm_exp.store.temporary import sweep

    book, wrong = folder / "book", []
    receipts = [line for path in folder.glob("receipts-*") for line in path.read_text().splitlines()]
    chain = read(book)
    assert chain is not None
    wanted = sorted(rows for writer in range(WRITERS) for rows in rows_of(writer))
    if sorted(line["rows"] for line in chain.requests) != wanted:
        wrong.append(f"requests are lost, or there twice: {[line['rows'] for line in chain.requests]}")
    for receipt in receipts:
        read(book, receipt=Receipt.read(receipt))
    for number in range(1, len(chain.requests) + 1):
        files.read(chain.path(number))
    names = {"ledger.jsonl", "head.json", *(chain.path(number).name for number in range(1, len(chain.requests) + 1))}
    wrong += [f"{path} is left" for path in book.iterdir() if path.name not in names]
    sweep(folder / "tmp")
    return [*wrong, *(f"{path} is left" for path in (folder / "tmp").iterdir())]


def main(kills: int, seed: int) -> int:
    """Do it in a temporary folder, and say what is wrong; 1 when anything is."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = wrong_after_kills(Path(folder), kills, seed, told=True)
        print("\n".join(wrong) or f"{kills} kills of {WRITERS} writers: nothing lost, nothing twice, nothing left")
        print(f"{time.monotonic() - began:.0f} s")
    return int(bool(wrong))
