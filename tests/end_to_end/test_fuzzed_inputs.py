"""Whatever files, command lines and configurations hold, the answer is a result or one sentence.

No traceback, nothing written outside the folder of outputs, and memory for small machines is enough.
``FUZZ_EXAMPLES=1000 python -m pytest tests/end_to_end/test_fuzzed_inputs.py`` tries more, and others each time
(``--hypothesis-seed`` repeats them).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import os
import re
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzed
import numpy as np
import pandas as pd
import pytest
import rdata
import torch
import yaml
from fuzzed import Tree, damage, emptied, listing, tree_of
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("data", "compare")]
import dataset_files

from dmm_exp import Ledger, unlearn
from dmm_exp.commands.artifacts import artifacts
from dmm_exp.commands.compare import compare_runs
from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import run_name
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.preflight import compose_cells, compose_unlearner
from dmm_exp.config.schema import plain, register
from dmm_exp.data import Dataset, Decoding, Examples, Normalisation, Split
from dmm_exp.data import formats as known
from dmm_exp.deletion.recipes import composed as composed_alone
from dmm_exp.ensembles.work import model_factory
from dmm_exp.errors import UserError
from dmm_exp.forget import read_rows
from dmm_exp.records import chain_reading, checkpoints, files
from dmm_exp.records.chain import CHAIN, HEAD
from dmm_exp.records.verify_command import verify
from dmm_exp.runs.job import JobRequest, do
from dmm_exp.store import Draft, Spec, Store

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
MEMORY = 2 * 10**9  # bytes
SECONDS = 60  # for one example
SPEC = Spec("effect", {"seed": 0}, {"dataset": "d" * 64})
NAMES = ["cat", "dog", "owl"]


def fuzzing(few: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        phases=[Phase.generate] if EXAMPLES else list(Phase),  # what is found is small enough to be read as it is
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=bool(EXAMPLES),
    )


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine with little memory and no network, whose peak of memory is looked at."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("dmm_exp.files.reading.machine_memory", lambda: 1e9)
    monkeypatch.setattr(known.Hub, "read", offline)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak from now on
    yield
    assert peak() < MEMORY


def offline(*_: object) -> Any:
    raise UserError("there is no network")


def peak() -> int:
    """Return the most bytes of memory that this process had; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024
    return 0


@contextlib.contextmanager
def within_seconds(seconds: int = SECONDS) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def obeyed(text: str) -> list[str]:
    """Return the characters of a text that a terminal obeys."""
    return [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t\r"]


def answered(call: Callable[[], object]) -> None:
    """Check that a call returns, or refuses in one sentence that is safe to print."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with within_seconds(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            call()
    except UserError as error:
        event("refused")
        said = str(error)
        assert len(said) > 10
        assert len(said.splitlines()) == 1
        assert not obeyed(said), said
    else:
        event("answered")


# ---------------------------------------------------------------------- files


def loaded(form: Any, inside: str = "", **more: Any) -> Callable[[Path], object]:
    def load(folder: Path) -> object:
        return Dataset({"own": form}, path=str(folder / inside), split=Split(test=0.25), **more).load()

    return load


@functools.cache
def rows_of() -> Examples:
    names = [f"cat/{number}.png" for number in range(10)]
    labels = torch.arange(12) % 2
    return Examples(
        torch.zeros(12, 2), labels, 10, ["a", "b"], Normalisation(1, [0.0], [1.0]), torch.zeros(12).bool(), names
    )


def every_list(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        answered(functools.partial(read_rows, path, rows_of(), "forget.indices"))
        answered(functools.partial(read_rows, path, rows_of(), "forget.indices", column="row"))


def every_checkpoint(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        answered(functools.partial(checkpoints.read_tensors, path))
        answered(functools.partial(checkpoints.fill, torch.nn.Linear(4, 2), path))


def every_record(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        answered(functools.partial(files.read, path))
        answered(functools.partial(verify, [str(path)]))


def the_ledger(folder: Path) -> None:
    answered(functools.partial(chain_reading.read, folder))
    answered(functools.partial(verify, [str(folder)]))
    answered(functools.partial(verify, [str(folder / "request-00001")]))


class Quiet:
    """Messages that nobody hears."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    note = warn


def the_store(folder: Path) -> None:
    answered(lambda: Store(folder / "artifacts", Quiet()).find(SPEC))
    answered(lambda: Store(folder / "artifacts", Quiet()).relative(SPEC))
    for words in (["list"], ["verify"], ["explain", SPEC.short[:6]], ["prune"], ["prune", "--unfinished"]):
        answered(functools.partial(artifacts, [*words, "--outputs", str(folder)]))


def the_runs(folder: Path) -> None:
    answered(lambda: compare_runs([str(folder)]))
    answered(lambda: compare_runs([str(folder), "--where", "seed=0", "--metric", "tow", "--by", "forget"]))


def the_search(folder: Path) -> None:
    answered(lambda: compose_cells(config_directory(), ["experiment=found"], [str(folder)]))
    answered(lambda: compose_unlearner(str(config_directory()), "finetune epochs=1"))


def make(draft: Draft) -> None:
    for shard, (start, stop) in enumerate(draft.layout([[0, 2], [2, 4]])):
        draft.write_shard(shard, {"logits": torch.zeros(stop - start, 3)}, {"history": [0.5]})
    draft.write_json("facts", {"n": 1})
    draft.write_table("scores", pd.DataFrame({"point": [0]}))


def written_data(folder: Path) -> dict[str, tuple[Tree, Callable[[Path], object]]]:
    """Return the files of datasets, and how they are read."""
    arrays, grey = dataset_files.made_up(8), dataset_files.made_up(8, 1)
    large = dataset_files.made_up(32, classes=10, n_train=10, n_test=10)
    flat = {f"{name}_{part}": value for part, pair in arrays.items() for name, value in zip("xy", pair, strict=True)}
    table = pd.DataFrame({"height": np.arange(12.0), "kind": ["a", "b"] * 6, "label": [0, 1, 2] * 4})
    factors = table.assign(kind=pd.Categorical(["a", "b"] * 6))  # rdata writes no plain texts of pandas 3
    found: dict[str, tuple[Tree, Callable[[Path], object]]] = {}

    def add(name: str, write: Callable[[Path], object], read: Callable[[Path], object]) -> None:
        place = folder / name
        place.mkdir(parents=True)
        write(place)
        found[name] = (tree_of(place), read)

    decoding = Decoding(size=8)
    add("npz", lambda at: np.savez(at / "x.npz", **flat), loaded(known.Npz(), "x.npz"))
    add("packed", lambda at: np.savez_compressed(at / "x.npz", **flat), loaded(known.Npz(), "x.npz"))
    for end, mark in (("csv", ","), ("tsv", "\t")):
        write = functools.partial(
            lambda at, end, mark: table.to_csv(at / f"x.{end}", sep=mark, index=False), end=end, mark=mark
        )
        add(end, write, loaded(known.Table(), f"x.{end}"))
    add("table", lambda at: table.to_parquet(at / "x.parquet"), loaded(known.Table(), "x.parquet"))
    add("rda", lambda at: rdata.write_rda(at / "x.rda", {"d": factors}), loaded(known.Table(), "x.rda"))
    add("tables", lambda at: [table.to_csv(at / f"{part}.csv", index=False) for part in arrays], loaded(known.Table()))
    add("idx", lambda at: dataset_files.write_idx(at, grey), loaded(known.Idx()))
    add("idx.gz", lambda at: dataset_files.write_idx(at, grey, end=".gz"), loaded(known.Idx()))
    add("svhn", lambda at: dataset_files.write_svhn(at, large), loaded(known.SvhnMat()))
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    add(
        "cifar",
        lambda at: dataset_files.write_cifar10(at, large),
        loaded(known.CifarBinary(batches, ["test_batch.bin"])),
    )
    add(
        "parquet",
        lambda at: dataset_files.write_parquet(at, arrays, names=NAMES),
        loaded(known.Parquet(), decoding=decoding),
    )
    add(
        "images",
        lambda at: dataset_files.write_images(at, arrays, NAMES),
        loaded(known.ImageFolder(), decoding=decoding),
    )
    add("kinds", functools.partial(write_kinds, arrays=arrays), loaded(known.ImageFolder(), decoding=decoding))
    return found


def write_kinds(folder: Path, arrays: Any) -> None:
    from PIL import Image

    for row, (image, label) in enumerate(zip(*arrays["train"], strict=True)):
        (folder / NAMES[label]).mkdir(exist_ok=True)
        end = ["jpg", "tiff", "bmp", "gif", "webp", "png"][row % 6]
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / NAMES[label] / f"{row}.{end}")


def written_lists(folder: Path) -> Path:
    rows = pd.DataFrame({"row": [1, 3, 5], "why": ["a", "b", "c"]})
    folder.mkdir()
    rows.to_csv(folder / "rows.csv", index=False)
    rows.to_csv(folder / "rows.tsv", index=False, sep="\t")
    rows.to_parquet(folder / "rows.parquet")
    np.save(folder / "rows.npy", np.array([1, 3, 5]))
    (folder / "rows.json").write_text("[1, 3, 5]")
    (folder / "rows.txt").write_text("cat/1.png\ncat/3.png\n")
    return folder


def written_checkpoints(folder: Path) -> Path:
    folder.mkdir()
    network = torch.nn.Linear(4, 2)
    checkpoints.write_network(folder / "net.safetensors", network)
    torch.save(network.state_dict(), folder / "net.pt")
    torch.save(
        {"state_dict": network.state_dict(), "epoch": 3}, folder / "net.ckpt", _use_new_zipfile_serialization=False
    )
    return folder


def written_deletions(folder: Path) -> None:
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, (inputs[:, 0] > 0).long()
    network = torch.nn.Linear(4, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[-3.0, 0, 0, 0], [3.0, 0, 0, 0]]))
    unlearn(network, data, [3], method="finetune epochs=1", progress=False).save(folder / "record")
    book = Ledger(folder / "ledger", network, data, method="finetune epochs=1", progress=False)
    book.delete([3])
    book.delete([5])


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tree, Callable[[Path], object]]]:
    """Files of every format, and the public way to read them."""
    from runs_by_hand import write_run

    folder = tmp_path_factory.mktemp("valid")
    found = written_data(folder / "data")
    found["lists"] = (tree_of(written_lists(folder / "lists")), every_list)
    found["checkpoints"] = (tree_of(written_checkpoints(folder / "checkpoints")), every_checkpoint)
    written_deletions(folder)
    found["record"] = (tree_of(folder / "record"), every_record)
    found["ledger"] = (tree_of(folder / "ledger"), the_ledger)
    Store(folder / "outputs" / "artifacts", Quiet()).obtain(SPEC, make)
    found["store"] = (tree_of(folder / "outputs"), the_store)
    for method in ("dmm", "finetune"):
        for seed in (0, 1):
            write_run(folder / "runs", method, seed, tow=[0.4, 0.5, 0.6])
    found["runs"] = (tree_of(folder / "runs"), the_runs)
    body = "# @package _global_\ndefaults:\n- override /unlearner: finetune\nunlearner:\n  epochs: 3\n  batch_size: 8\n"
    found["search"] = ({"experiment/found.yaml": body.encode()}, the_search)
    assert CHAIN in found["ledger"][0]
    return found


@fuzzing(40)
@given(data=st.data())
def test_files_are_read_or_refused_in_one_sentence(valid: Any, tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(valid)))
    others = [content for tree, _ in valid.values() for content in list(tree.values())[:1]]
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    folder = emptied(tmp_path / "given")
    data.draw(st.composite(lambda draw: damage(draw, folder, valid[kind][0], others, precious))())
    if (folder / CHAIN).is_file() and data.draw(st.booleans()):
        data.draw(st.composite(lambda draw: fuzzed.rechained(draw, folder / CHAIN, folder / HEAD))())
    event(kind)
    before = listing(tmp_path)
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path)
    try:
        answered(lambda: valid[kind][1](folder))
    finally:
        patch.undo()
    assert listing(tmp_path) == before
    assert precious.read_bytes() == b"mine"


# ---------------------------------------------------------------------- command lines


GROUPS = ["dataset", "model", "forget", "attribution", "unlearner", "refinement", "pool", "training", "logger", "scale"]
GROUPS += ["experiment", "executor", "trainer", "evaluation", "engine", "scores", "hparams_search", "hydra", "paths"]
ODD_VALUES = [
    "", "null", "true", "-1", "0", "1e999", "nan", "inf", "9" * 30, "1.5", "[1,2]", "[", "{a:1}", "'a", '"', "a,b",
    "a b", "\x1b[31mx", "é", "\N{RIGHT-TO-LEFT OVERRIDE}x", "a\nb", "\udcff", "${seed}", "${oc.env:HOME}", "${nowhere}",
    "../x", "/dev/null", "/dev/full",
    "a=b", "range(1,3)", "interval(0,1)", "glob(*)", "choice(a,b)", "“x”", "\0", "x" * 5000,
    "null,null", "???", "[[[[1]]]]", "{_target_: dmm_exp.models.MLP}", "1_000", "0x10", "${", "\\", "file.txt", "own",
]  # fmt: skip
WORDS = [
    "-m",
    "--help",
    "--cfg",
    "job",
    "--resolve",
    "--config-dir",
    "own",
    "--config-name",
    "config",
    "--package",
    "all",
]
WORDS += [
    "--info",
    "-h",
    "--version",
    "-x",
    "--",
    "-",
    "=",
    "==",
    "a",
    "~",
    "+",
    "~seed",
    "+x=1",
    "++x=1",
    "—m",
    "\x1b",
    "",
]


@functools.cache
def composed(*overrides: str) -> tuple[dict[str, Any], dict[str, str]]:
    register()
    words = ["experiment=quick", "executor=local", "logger=none", *overrides]
    ((config, chosen),) = compose_cells(config_directory(), words)
    return plain(config), chosen


@functools.cache
def keys() -> list[str]:
    paths = list(fuzzed.paths_in(composed()[0]))
    return [".".join(map(str, path)) for path in paths if all(isinstance(part, str) for part in path)]


@functools.cache
def choices(group: str) -> list[str]:
    folder = Path(config_directory()) / group
    return [str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.rglob("*.yaml"))]


def values() -> st.SearchStrategy[str]:
    plain = st.one_of(st.integers(-3, 300), st.floats(), st.integers()).map(str)
    return st.one_of(plain, st.sampled_from(ODD_VALUES), st.text(max_size=8).filter(lambda text: "\0" not in text))


@st.composite
def overrides(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)))
    if kind in (1, 2, 3):
        group = draw(st.sampled_from(GROUPS))
        choice = draw(st.one_of(st.sampled_from(choices(group)), st.sampled_from(choices(group)), values()))
        return f"{group}={choice}"
    key = draw(st.one_of(st.sampled_from(keys()), st.sampled_from(keys()).map(lambda key: key[:-1])))
    quote = draw(st.sampled_from(["", "", "", "'", '"']))
    sign = draw(st.sampled_from(["", "", "", "", "", "+", "++", "~"]))
    return f"{sign}{key}={quote}{draw(values())}{quote}"


REQUESTS = ["checkpoint", "output", "recipe", "pool", "size", "budget", "verify", "ledger", "receipt", "key", "purge"]
REQUESTS += ["whole_classes", "keep", "prefix", "prepare_budget", "verfy"]
QUICK = ["output", "budget", "verify", "ledger", "receipt", "key", "whole_classes", "keep", "prefix"]  # train no pool
SENSIBLE = [
    "seed=3", "n_models=4", "forget=random", "forget.size=5", "unlearner=scrub", "unlearner=finetune", "pool=full",
    "attribution=trak", "model=cnn", "refinement=rum", "forget.fraction=0.1", "training.epochs=2", "dataset=npz",
    "dataset.path=own", "dataset.path=file.txt", "seed=1,2", "scale=small", "paths.outputs=own", "logger=csv", "-m",
]  # fmt: skip
NETWORK = ["model.network.hidden=[8]", "executor=local"]
ROWS = ["request.checkpoint=net.pt", "forget.indices=rows.csv"]
FITTING = ["request.whole_classes=true", "request.budget=30", "request.ledger=book", "request.output=out", "seed=2"]
DELETION = [*NETWORK, *ROWS, "unlearner=finetune", "unlearner.epochs=1"]


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    name = draw(st.sampled_from(["main", "main", "scores", "unlearn", "unlearn", "compare", "artifacts", "verify"]))
    if name in ("main", "scores"):
        words = draw(st.lists(st.one_of(st.sampled_from(SENSIBLE), overrides()), max_size=4))
        start = draw(st.sampled_from([["experiment=quick"], ["experiment=quick"], []]))
        return name, ["dry_run=true", *start, "executor=local", *words, "dry_run=true"]
    if name == "unlearn" and draw(st.booleans()):
        asked = st.builds("request.{}={}".format, st.sampled_from(QUICK), values())
        places = [key for key in keys() if key.startswith(("dataset.", "forget.", "seed"))]
        others = st.builds("{}={}".format, st.sampled_from(places), values())
        words = st.one_of(st.sampled_from(FITTING), st.sampled_from(FITTING), asked, others)
        return name, [*DELETION, *draw(st.lists(words, max_size=2))]
    if name == "unlearn":
        asked = st.builds("request.{}={}".format, st.sampled_from(REQUESTS), values())
        words = draw(st.lists(st.one_of(asked, overrides()), max_size=4))
        return name, ["executor=local", *words]
    options = [
        "--outputs",
        "--kind",
        "--key",
        "--receipt",
        "--where",
        "--metric",
        "--by",
        "--baseline",
        "--csv",
        "--html",
    ]
    words = st.one_of(
        st.sampled_from(["list", "verify", "prune", "explain", *options, "own", "given", ".", "--help", "-h"]),
        st.builds("{}={}".format, st.sampled_from(options), values()),
        values(),
    )
    return name, draw(st.lists(words, max_size=5))


@pytest.fixture(scope="module")
def network() -> bytes:
    """A network of :data:`NETWORK`, trained a little, as a file."""
    config = composed_alone(NETWORK)
    examples = instantiate(config.dataset).load()
    torch.manual_seed(0)
    made = model_factory(config.model.network, examples)()
    inputs, labels = examples.inputs[: examples.n_train], examples.labels[: examples.n_train]
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(made(inputs), labels).backward()
        optimizer.step()
    file = io.BytesIO()
    torch.save(made.network.state_dict(), file)
    return file.getvalue()


@fuzzing(10)
@given(line=command_lines(), full=st.integers(0, 9).map(lambda drawn: drawn == 0))
def test_command_lines_end_with_an_exit_code_and_sentences(
    command: Any, network: bytes, tmp_path: Path, line: tuple[str, list[str]], full: bool
) -> None:
    name, words = line
    here = emptied(tmp_path / "here")
    mine = {"file.txt": b"mine", "net.pt": network, "rows.csv": b"row\n3\n1\n4\n"}
    fuzzed.write(here, mine)
    (here / "own").mkdir()
    before = listing(tmp_path)
    with within_seconds():
        done = command(*([] if name == "main" else [name]), *words, cwd=here, full=full)
    event(f"{name}: {done.returncode}")
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not obeyed(done.stdout + done.stderr), (done.stdout, done.stderr)
    if done.returncode == 2:
        assert len(done.stderr.splitlines()) >= 1
    after = listing(tmp_path)
    assert {path: facts for path, facts in after.items() if not is_output(path, here, words)} == before
    assert {path: (here / path).read_bytes() for path in mine} == mine
    for path in set(tmp_path.iterdir()) - {here}:  # where a command was asked to write
        fuzzed.emptied(path).rmdir() if path.is_dir() else path.unlink()


def is_output(path: str, here: Path, words: list[str]) -> bool:
    """Say whether a file is in a folder of outputs, or was asked for: a comparison's table or page, a deletion."""
    if Path(path).relative_to(here.parent).parts[1:2] in (("outputs",), ("unlearned",)):
        return True
    if Path(path).name in ("file.txt", "own", "net.pt", "rows.csv", "here"):
        return False
    if any(word.startswith(("request.output", "request.ledger")) for word in words):
        return True
    return any(word.startswith(("--csv", "--html")) for word in words) and Path(path).parent == here


# ---------------------------------------------------------------------- configurations


DEFAULTS = {"defaults": ["dmm_exp_schema", "_self_"]}
STARTS = [(), ("unlearner=finetune",), ("unlearner=scrub", "forget=random"), ("attribution=trak", "model=cnn")]
STARTS += [("refinement=rum", "forget=random"), ("experiment=convex_ridge",)]
VALUES = st.one_of(
    fuzzed.JUNK, st.sampled_from([10**6, 10**9, 10**12, 2**70, -5, 1e-300, float("nan"), float("inf"), "auto", [], {}])
)


CLASSES = [
    "dmm_exp.models.MLP", "dmm_exp.unlearners.Scrub", "dmm_exp.data.Digits", "dmm_exp.ensembles.schedules.Constant",
    "dmm_exp.forget.Random", "dmm_exp.attribution.Trak", "dmm_exp.executors.Local", "dmm_exp.nowhere.Nothing",
    "torch.optim.Adam", "torch.nn.ReLU", "torch.nn.functional.relu", "lightning.pytorch.Trainer", "os.system", "",
]  # fmt: skip
Changes = list[tuple[tuple[Any, ...], Any]]


@st.composite
def configurations(draw: st.DrawFn) -> tuple[tuple[str, ...], Changes]:
    """Draw what a configuration begins with, and places in it with what comes there."""
    start = draw(st.sampled_from(STARTS))
    config = composed(*start)[0]
    places = [path for path in fuzzed.paths_in(config) if path[0] not in ("dry_run", "executor")]
    changes = []
    for path in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        value = functools.reduce(lambda node, key: node[key], path, config)
        others = st.sampled_from(CLASSES) if path[-1] == "_target_" else st.one_of(VALUES, near(value), near(value))
        changes.append((path, draw(others)))
    return start, changes


def near(value: Any) -> st.SearchStrategy[Any]:
    """Return values of the same kind as one of a configuration, which may well be accepted."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, (int, float)):
        return st.sampled_from([value + 1, 2 * value, value / 2, -value, 0, 1, 0.5])
    return st.just(value[:1] if isinstance(value, (list, str)) else None)


def changed(config: dict[str, Any], changes: Changes) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for (*path, last), value in changes:
        node: Any = config
        with contextlib.suppress(KeyError, TypeError, IndexError):  # an earlier change removed it
            for key in path:
                node = node[key]
            node[last] = copy.deepcopy(value)
    return config


def planned(folder: Path, chosen: dict[str, str]) -> None:
    """Read the configuration of a finished run, as ``--config-path`` does, and print the plan of it."""
    ((config, _),) = compose_cells(str(folder), ["dry_run=true"])
    do(JobRequest(config, chosen, [], table=False))
    run_name(config, chosen)


@fuzzing(20)
@given(made=configurations())
def test_configurations_are_planned_or_refused_in_one_sentence(
    tmp_path: Path, made: tuple[tuple[str, ...], Changes]
) -> None:
    here, folder = emptied(tmp_path / "here"), emptied(tmp_path / "run")
    start, changes = made
    config, chosen = composed(*start)
    config = changed(config, changes)
    text = yaml.safe_dump({**DEFAULTS, **config}, sort_keys=False)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    before = listing(tmp_path)
    patch = pytest.MonkeyPatch()
    patch.chdir(here)
    try:
        answered(lambda: planned(folder, chosen))
    finally:
        patch.undo()
    assert listing(tmp_path) == before
