"""After a purge the deleted rows are nowhere that it reaches, what remains is listed, and further requests work."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import blobs, mlp
from torch import Tensor, nn

from dmm_exp import Ledger, Pool, prepare, train, unlearn
from dmm_exp.console.progress import Console
from dmm_exp.data import Examples, Normalisation
from dmm_exp.errors import UserError
from dmm_exp.records import purge, purged
from dmm_exp.records.chain import CHAIN, Chain
from dmm_exp.records.chain_reading import read
from dmm_exp.records.files import read as read_record
from dmm_exp.records.purge import purge_pool
from dmm_exp.records.surfaces import ELSEWHERE, ERASED, REMAINS
from dmm_exp.store.lock import Lock

QUIET = Console(quiet=True)
GONE, LATER = [1, 12, 20], [5, 30]  # row 1 is among those that pool.json knows answers on
RECIPE: dict[str, Any] = {"epochs": 8, "batch_size": 16}
Data = tuple[Tensor, Tensor]


def data(kind: str, count: int, seed: int) -> Data:
    inputs, labels = blobs(count, 16, 2, seed)
    inputs = inputs.reshape(-1, 1, 4, 4)
    return ((32 * inputs + 128).clamp(1, 255).to(torch.uint8) if kind == "uint8" else inputs), labels


class Scaling(nn.Module):
    """Brings 8-bit images to the size of what they were made from."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs / 32 - 4


def untrained(kind: str = "float32") -> nn.Module:
    return nn.Sequential(Scaling(), mlp(16, 2)) if kind == "uint8" else mlp(16, 2)


@cache
def network(kind: str = "float32") -> nn.Module:
    """Return a network that was trained by the recipe."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train(untrained(kind), data(kind, 40, 0), RECIPE)


def blank(whole: Data, rows: list[int]) -> Data:
    inputs = whole[0].clone()
    inputs[rows] = 0
    return inputs, whole[1]


class Place:
    """A pool and a ledger in one folder."""

    def __init__(self, folder: Path, kind: str = "float32") -> None:
        self.folder, self.kind = folder, kind
        self.train, self.unseen = data(kind, 40, 0), data(kind, 20, 1)

    @property
    def pool(self) -> Path:
        return self.folder / "pool"

    def prepare(self, size: int = 40) -> Pool:
        return prepare(
            untrained(self.kind), self.train, RECIPE, self.pool, size=size, validation=self.unseen, progress=False
        )

    def ledger(self, train: Data | None = None, name: str = "book", **options: Any) -> Ledger:
        options = {"pool": self.pool, "method": "dmm epochs=1", "validation": self.unseen, **options}
        return Ledger(
            self.folder / name, network(self.kind), self.train if train is None else train, progress=False, **options
        )

    def unlearn(self, rows: list[int], train: Data | None = None, **options: Any) -> Any:
        options = {"pool": self.pool, "method": "dmm epochs=1", "validation": self.unseen, **options}
        return unlearn(network(self.kind), self.train if train is None else train, rows, progress=False, **options)

    def copy(self, folder: Path) -> Place:
        shutil.copytree(self.folder, folder)
        return Place(folder, self.kind)

    def files_with(self, rows: list[int]) -> list[str]:
        """Return the files that hold the inputs of some rows."""
        wanted = [self.train[0][row].numpy().tobytes() for row in rows]
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        found = [path for path in files if any(row in path.read_bytes() for row in wanted)]
        return [str(path.relative_to(self.folder)) for path in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A pool, and a ledger of two requests, one of which was verified by a request of its own."""
    place = Place(tmp_path_factory.mktemp("whole"))
    place.prepare()
    place.unlearn(GONE[:2], verify=3).save(place.folder / "verified")
    place.ledger().delete(GONE[:2]).save(place.folder / "out")
    place.ledger().delete(GONE[2:])
    return place


@pytest.fixture
def place(whole: Place, tmp_path: Path) -> Place:
    found = whole.copy(tmp_path / "place")
    for line in read(found.folder / "book").requests:  # its pool is the copy, too
        assert line["pool"] == str(whole.pool)
    return found


def purged_place(place: Place) -> Place:
    """Purge the pool of a copy and its ledger; the ledger's lines name the pool of the original."""
    purge.purge_pool(place.pool, GONE, QUIET)
    return place


# ---------------------------------------------------------------------- what is gone and what remains


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_bytes_of_deleted_rows_are_nowhere_after_a_purge(tmp_path, monkeypatch, kind):
    temporary = tmp_path / "place" / "tmp"
    temporary.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    place = Place(tmp_path / "place", kind)
    place.prepare()
    if kind == "float32":
        place.unlearn(GONE[:2], verify=3).save(place.folder / "verified")
    place.ledger().delete(GONE).save(place.folder / "out")
    (copy,) = place.files_with(GONE)
    assert copy.startswith("pool/artifacts/dataset/")
    done = place.ledger().purge()
    assert place.files_with(GONE) == []
    assert place.files_with([0]) == [copy]
    assert list(temporary.iterdir()) == []
    assert {entry["state"] for entry in done.surfaces} == {ERASED, REMAINS, ELSEWHERE}
    later = place.ledger().delete(LATER)  # with all data handed over, nothing of it comes back
    assert later.forgotten == sorted([*GONE, *LATER])
    assert place.files_with(GONE) == []
    place.ledger(blank(place.train, [*GONE])).purge()
    assert place.files_with([*GONE, *LATER]) == []
    assert place.ledger(blank(place.train, [*GONE, *LATER])).delete([7]).forgotten[-1] == 30
    assert place.files_with([*GONE, *LATER]) == []


def test_all_that_a_purge_removes_is_removed_and_all_that_remains_is_listed(whole, tmp_path):
    place = whole.copy(tmp_path / "place")
    before = {path for path in place.pool.rglob("*") if path.is_file()}
    done = purge.purge_pool(place.pool, GONE, QUIET)
    kinds = {path.parts[len(place.pool.parts) + 1] for path in place.pool.rglob("manifest.json")}
    assert kinds == {"dataset", "design", "ensemble", "estimator", "chunk_size"}
    gone = before - set(place.pool.rglob("*"))
    assert {path.parts[len(place.pool.parts) + 1] for path in gone} >= {"given", "effect", "unlearned", "evaluation"}
    listed = [entry["where"] for entry in done.surfaces if entry["state"] == REMAINS]
    for kind in ("dataset", "design", "ensemble", "estimator"):
        assert f"{place.pool}/artifacts/{kind}" in listed
    from safetensors import safe_open

    for path in place.pool.glob("artifacts/ensemble/*/*.safetensors"):
        with safe_open(path, "pt") as file:
            assert set(file.keys()) <= {"logits", "masks", "margins"}
    assert json.loads((place.pool / "pool.json").read_text())["probe"][0][1] == [0.0, 0.0]


def test_a_purge_of_the_ledger_keeps_records_and_the_network_as_it_is(place, monkeypatch):
    book = place.folder / "book"
    before = place.ledger().model.state_dict()
    monkeypatch.setattr(purge, "_purged_if_there", lambda *_: purge.Purge([], []))
    done = place.ledger().purge()
    left = sorted(str(path.relative_to(book)) for path in book.rglob("*") if path.is_file())
    records = ["request-00001/deletion.json", "request-00002/deletion.json", "request-00002/unlearned.safetensors"]
    assert left == ["head.json", "ledger.jsonl", *records]
    assert len(done.removed) == 5
    after = place.ledger()
    assert all(torch.equal(value, before[name]) for name, value in after.model.state_dict().items())
    assert after.gone == GONE
    assert after.delete(GONE[2:]).points.empty
    with pytest.raises(UserError, match="deleted by request 1 of the ledger, whose network was purged since"):
        after.delete(GONE[:2])
    text = (book / CHAIN).read_bytes()
    assert after.purge().removed == []
    assert (book / CHAIN).read_bytes() == text


def test_files_that_are_missing_without_a_purge_are_still_noticed(place):
    (place.folder / "book" / "request-00001" / "points.parquet").unlink()
    with pytest.raises(UserError, match=r"points\.parquet: is missing"):
        place.ledger().purge()


def test_a_purge_without_a_ledger_is_refused(tmp_path, whole):
    with pytest.raises(UserError, match="holds no ledger yet"):
        Place(tmp_path).ledger(pool=None).purge()
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_is_not_there_any_more_is_listed(whole, tmp_path):
    place = whole.copy(tmp_path / "place")
    whole_pool = whole.pool.rename(whole.pool.with_name("moved"))
    try:
        done = purge.purge_ledger(place.folder / "book", None, [], QUIET)
    finally:
        whole_pool.rename(whole.pool)
    assert [entry["what"] for entry in done.surfaces if entry["where"] == str(whole.pool)] == [
        "the pool of some requests, which is not there now"
    ]


# ---------------------------------------------------------------------- requests afterwards


def test_a_request_after_a_purge_comes_out_as_without_one(whole, tmp_path):
    one, other = whole.copy(tmp_path / "one"), purged_place(whole.copy(tmp_path / "other"))
    first, second = one.ledger().delete(LATER), other.ledger().delete(LATER)
    assert first.metrics == second.metrics
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    alone = other.unlearn(LATER)
    assert alone.metrics == one.unlearn(LATER).metrics
    assert other.files_with(GONE) == []


def test_rows_that_are_zeros_take_no_part(whole, tmp_path):
    place = purged_place(whole.copy(tmp_path / "place"))
    found = place.ledger(blank(place.train, GONE)).delete(LATER)
    assert not set(GONE) & set(found.points["point"])
    assert found.forgotten == sorted([*GONE, *LATER])
    place.unlearn(LATER)  # a network that still has the rows, and the data as it was


def test_zeros_that_the_pool_does_not_know_of_are_refused(whole, tmp_path):
    place = whole.copy(tmp_path / "place")
    with pytest.raises(
        UserError, match=r"other data; expected the same points, and rows that are zeros now to be purged"
    ):
        place.ledger(blank(place.train, GONE)).delete(LATER)
    purged_place(place)
    with pytest.raises(UserError, match="row 1 is all zeros, and was purged from the pool"):
        place.unlearn(LATER, blank(place.train, GONE))
    with pytest.raises(UserError, match="was trained on other data"):
        place.unlearn(LATER, blank(place.train, [2]))
    assert place.ledger(blank(place.train, GONE)).delete(LATER).forgotten == sorted([*GONE, *LATER])


def test_a_pool_that_was_prepared_when_rows_were_gone_is_refused(whole, tmp_path):
    place = whole.copy(tmp_path / "place")
    place.train = blank(place.train, GONE)
    shutil.rmtree(place.pool)
    place.prepare()
    with pytest.raises(UserError, match="was prepared when row 1 was zeros already"):
        place.ledger().delete(LATER)


def test_a_purged_pool_trains_nothing(whole, tmp_path):
    place = purged_place(whole.copy(tmp_path / "place"))
    with pytest.raises(UserError, match="was purged and trains no networks to compare with"):
        place.unlearn(LATER, verify=3)
    with pytest.raises(UserError, match=r"trains no more networks, and it has 40 subset models; expected size=40"):
        place.prepare(48)
    assert place.prepare(40).size == 40
    shard = max(place.pool.glob("artifacts/ensemble/*/shard-*.safetensors"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="cannot train them after a purge removed rows; expected another pool"):
        place.unlearn(LATER)
    (place.pool / "pool.json").unlink()
    with pytest.raises(UserError, match=r"its pool\.json is missing or damaged; expected another folder"):
        place.prepare(40)
    assert place.files_with(GONE) == []


def test_a_damaged_copy_of_the_data_is_mended_without_the_rows(whole, tmp_path):
    place = purged_place(whole.copy(tmp_path / "place"))
    expected = place.unlearn(LATER).metrics
    (copy,) = place.pool.glob("artifacts/dataset/*/examples.safetensors")
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + b"x")
    assert place.unlearn(LATER).metrics == expected
    assert copy.read_bytes() == content
    assert place.files_with(GONE) == []


# ---------------------------------------------------------------------- interruptions and damage


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", ["write_purged", "_overwrite", "_forget_probe", "_strip", "_take_place", "write_json"])
def test_an_interrupted_purge_of_a_pool_is_finished_by_the_next(whole, tmp_path, monkeypatch, step):
    place = whole.copy(tmp_path / "place")
    original = getattr(purge, step)

    def killed(*arguments: Any, **more: Any) -> None:
        original(*arguments, **more)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(purge, step, killed)
        with pytest.raises(Killed):
            purge_pool(place.pool, GONE, QUIET)
    purge_pool(place.pool, GONE, QUIET)
    reference = purged_place(whole.copy(tmp_path / "reference"))
    assert contents(place.pool) == contents(reference.pool)
    assert place.unlearn(LATER).metrics == reference.unlearn(LATER).metrics


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["append", "remove_purged"])
def test_an_interrupted_purge_of_a_ledger_is_told_and_finished(place, monkeypatch, step, capsys):
    from test_tampering import run

    book = place.folder / "book"
    monkeypatch.setattr(purge, "_purged_if_there", lambda *_: purge.Purge([], []))
    with monkeypatch.context() as patch:
        original = getattr(Chain, step)
        patch.setattr(Chain, step, lambda *arguments: (original(*arguments), killed())[0])
        with pytest.raises(Killed):
            purge.purge_ledger(book, None, [], QUIET)
    if step == "append":
        assert run(monkeypatch, book) == 1
        assert "purge the ledger again" in capsys.readouterr().err
    purge.purge_ledger(book, None, [], QUIET)
    assert run(monkeypatch, book) == 0
    assert read(book).unremoved == []


def killed() -> None:
    raise Killed


@pytest.mark.parametrize("name", ["artifacts", "artifacts/effect/0123", "artifacts/linked"])
def test_a_purge_follows_no_links_in_a_pool(whole, tmp_path, name):
    place = whole.copy(tmp_path / "place")
    other = tmp_path / "other"
    if name == "artifacts":
        shutil.move(place.pool / name, other)
    else:
        (other / "0123").mkdir(parents=True)
        (other / "0123" / "manifest.json").write_text("mine")
        (place.pool / name).parent.mkdir(exist_ok=True)
    (place.pool / name).symlink_to(other)
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is a link, and a purge follows none"):
        purge_pool(place.pool, GONE, QUIET)
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_a_pool_in_use_is_left_alone(whole, tmp_path):
    place = whole.copy(tmp_path / "place")
    with (
        Lock(place.pool / "artifacts" / ".locks" / "effect-1.lock"),
        pytest.raises(UserError, match="is in use by process"),
    ):
        purge_pool(place.pool, GONE, QUIET)
    assert place.files_with(GONE) != []


def test_what_cannot_be_purged_is_refused_and_nothing_is_changed(whole, tmp_path):
    place = whole.copy(tmp_path / "place")
    before = contents(place.pool)
    for rows, said in (([40], "40 is out of range; expected indices from 0 to 39"), ([-1], "-1 is out of range")):
        with pytest.raises(UserError, match=said):
            purge_pool(place.pool, rows, QUIET)
    assert contents(place.pool) == before
    (copy,) = place.pool.glob("artifacts/dataset/*/examples.safetensors")
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="its copy of the data is damaged; delete the pool"):
        purge_pool(place.pool, GONE, QUIET)


def test_a_damaged_list_of_what_was_purged_is_refused(whole, tmp_path):
    place = purged_place(whole.copy(tmp_path / "place"))
    path = place.pool / purged.FILE
    for content in ("", "{}", "null", "[" * 10**5, path.read_text().replace("12", "13", 1)):
        path.write_text(content)
        with pytest.raises(UserError, match=r"purged\.json: is damaged"):
            place.unlearn(LATER)


def test_rows_are_added_to_those_that_were_purged(whole, tmp_path):
    place = whole.copy(tmp_path / "place")
    purge_pool(place.pool, [1], QUIET)
    purge_pool(place.pool, [], QUIET)
    assert place.files_with([1, 12]) == place.files_with([12])
    purge_pool(place.pool, [12, 20], QUIET)
    assert purged.purged_of(place.pool).rows == tuple(GONE)
    assert place.files_with(GONE) == []


def test_names_of_deleted_files_remain_in_the_records_alone(tmp_path):
    inputs, labels = data("float32", 40, 0)
    names = [f"holiday-{row:03d}.png" for row in range(40)]
    nothing = torch.zeros(40, dtype=torch.bool)
    examples = Examples(inputs, labels, 40, ["a", "b"], Normalisation(1.0, [0.0], [1.0]), nothing, names)
    book = Ledger(tmp_path, network(), examples, method="finetune epochs=1", progress=False)
    book.delete([names[3]])
    book.delete([7])
    listed = {entry["where"]: entry["what"] for entry in read_record(tmp_path / "request-00002")["surfaces"]}
    assert "names of their files" in listed["deletion.json"]
    assert "names of their files" in listed["report.html"]
    done = book.purge()
    found = [path for path in tmp_path.rglob("*") if path.is_file() and names[3].encode() in path.read_bytes()]
    assert {path.name for path in found} == {"deletion.json"}
    assert any("names of their files" in entry["what"] for entry in done.surfaces if entry["state"] == REMAINS)
