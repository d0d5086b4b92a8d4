"""The record lists where something of the deleted rows is: every file that a deletion writes is on the list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import blobs, mlp

from dmm_exp import Ledger, prepare, train, unlearn
from dmm_exp.records import files
from dmm_exp.records.surfaces import ELSEWHERE, ERASED, REMAINS

RECIPE = {"epochs": 8, "batch_size": 16}
TRAIN, UNSEEN = blobs(40, 4, 2), blobs(20, 4, 2, seed=1)
NEUTRAL = ("manifest.json", "layout.json", "facts.json", ".lock", "head.json", "receipt.txt", "chunk_size.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surfaces")
    torch.manual_seed(0)
    network = train(mlp(4, 2), TRAIN, RECIPE)
    options: dict[str, Any] = {"validation": UNSEEN, "progress": False}
    prepare(network, TRAIN, RECIPE, folder / "pool", size=40, **options)
    options |= {"pool": folder / "pool", "method": "dmm epochs=1"}
    unlearn(network, TRAIN, [3], verify=3, **options).save(folder / "verified")
    ledger = Ledger(folder / "book", network, TRAIN, **options)
    ledger.delete([3])
    ledger.delete([5]).save(folder / "out")
    exact = unlearn(network, TRAIN, [3], method="retrain", recipe=RECIPE, progress=False)
    exact.save(folder / "exact")
    return folder


def listed(found: dict[str, Any]) -> list[str]:
    return [surface["where"] for surface in found["surfaces"]]


def test_every_file_that_a_deletion_writes_is_on_a_list(folder):
    places = [place for name in ("verified", "out") for place in listed(files.read(folder / name))]
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name not in NEUTRAL):
        name = str(path)
        of_pool = any(f"artifacts/{kind}" in place for place in places for kind in [path.parts[-3]])
        of_pool = of_pool or any(path.parts[-3] in place.split("/artifacts/")[-1].split(", ") for place in places)
        by_name = any(path.name == place for place in places)
        by_folder = any(name.startswith(place.removesuffix("...")) for place in places if place.startswith("/"))
        assert of_pool or by_name or by_folder, path


def test_each_surface_says_where_what_in_which_state_and_what_to_do(folder):
    for name in ("verified", "out", "exact"):
        for surface in files.read(folder / name)["surfaces"]:
            assert set(surface) == {"where", "what", "state", "how"}
            assert all(isinstance(text, str) and text for text in surface.values())
            assert surface["state"] in (ERASED, REMAINS, ELSEWHERE)


def test_what_was_not_made_is_not_listed(folder):
    verified, single, exact = (files.read(folder / name) for name in ("verified", "out", "exact"))
    assert any("evaluation" in place for place in listed(verified))
    assert not any("evaluation" in place for place in listed(single))
    assert not any("ledger.jsonl" in place for place in listed(verified))
    assert not any("artifacts" in place for place in listed(exact))
    earlier = [surface["what"] for surface in single["surfaces"] if surface["where"].endswith("request-...")]
    assert earlier == ["1 networks as earlier requests left them, which know rows that were deleted later"]


def test_an_exact_network_has_nothing_of_the_rows(folder):
    states = {name: files.read(folder / name)["surfaces"][0]["state"] for name in ("out", "exact")}
    assert states == {"out": REMAINS, "exact": ERASED}


def test_the_page_shows_the_list_and_no_picture(folder):
    page = (folder / "out" / "report.html").read_text()
    found = files.read(folder / "out")["surfaces"]
    assert page.count("not ours to reach") >= sum(surface["state"] == ELSEWHERE for surface in found)
    assert all(surface["where"] in page for surface in found)
    assert "<img" not in page
    assert "data:image" not in page
