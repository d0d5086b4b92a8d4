"""A store for plans: what is missing has an address, and no content."""

from pathlib import Path

import pytest

from dmm_exp.console.progress import Console
from dmm_exp.store import Draft, Missing, PlanningStore, Spec, Store

POOL = Spec("ensemble", {"role": "subset", "members": 3})


def stores(root: Path) -> tuple[Store, PlanningStore]:
    return Store(root, Console(quiet=True)), PlanningStore(root, Console(quiet=True))


def make(draft: Draft) -> None:
    draft.write_json("facts", {"kept": 1})


def refuse(draft: Draft) -> None:
    raise AssertionError("a plan makes nothing")


def test_a_promise_has_the_address_and_the_family_of_the_artifact(tmp_path: Path):
    real, plans = stores(tmp_path)
    promised = plans.obtain(POOL, refuse)
    assert not tmp_path.joinpath("ensemble").exists()
    made = real.obtain(POOL, make)
    assert (promised.digest, promised.path, promised.spec.family) == (made.digest, made.path, made.spec.family)
    assert list(plans.missing) == [made.digest]


@pytest.mark.parametrize("read", ["json", "table", "tensors", "stacked", "lazy"])
def test_the_content_of_a_promise_is_missing(tmp_path: Path, read: str):
    promised = stores(tmp_path)[1].obtain(POOL, refuse)
    with pytest.raises(Missing) as caught:
        getattr(promised, read)("facts")
    assert caught.value.spec == POOL


def test_what_is_there_is_no_promise(tmp_path: Path):
    real, plans = stores(tmp_path)
    real.obtain(POOL, make)
    assert plans.obtain(POOL, refuse).json("facts") == {"kept": 1}
    assert not plans.missing


def test_an_artifact_that_lacks_a_file_is_missing(tmp_path: Path):
    real, plans = stores(tmp_path)
    (real.obtain(POOL, make).path / "facts.json").unlink()
    plans.obtain(POOL, refuse)
    assert list(plans.missing) == [POOL.digest]
