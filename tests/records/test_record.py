from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from browser import Browser, faults
from networks import blobs, trained
from safetensors.torch import load_file, save_model
from torch import nn

from dmm_exp import unlearn
from dmm_exp.data import Rows, content_hash
from dmm_exp.deletion.quality import Change
from dmm_exp.errors import UserError
from dmm_exp.metrics import margins
from dmm_exp.records import files, page, record
from dmm_exp.records.checkpoints import fill, weights_digest
from dmm_exp.records.pool import Pool
from dmm_exp.records.result import Unlearned

GONE = [3, 5, 8, 21]
ORACLES = 100
DISTANCES = {
    "given": 3.9,
    "unlearned": 1.31,
    "others": 1.0,
    "others_low": 0.5,
    "others_high": 1.5,
    "alone": 4.0,
    "alone_low": 3.0,
    "alone_high": 5.0,
    "method": 1.25,
    "method_from_others": 0.25,
    "method_from_others_low": -0.25,
    "method_from_others_high": 0.75,
    "method_from_alone": -2.75,
    "method_from_alone_low": -3.25,
    "method_from_alone_high": -2.25,
}


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return blobs(count, 3, 2, seed=seed)


def network() -> nn.Module:
    torch.manual_seed(0)
    return trained(nn.Linear(3, 2), *data(60, 0), steps=10)


def deleted() -> Unlearned:
    method = "finetune epochs=1"
    return unlearn(network(), data(60, 0), GONE, method=method, validation=data(20, 1), progress=False)


@pytest.fixture(scope="module")
def result() -> Unlearned:
    return deleted()


@pytest.fixture(scope="module")
def verified(result: Unlearned) -> Unlearned:
    """Return the same deletion as if networks had been retrained."""
    found = {"oracles": float(ORACLES)}
    for place, group in enumerate(("forget", "retain", "val")):
        found |= {f"klom/{group}/p95": 1.25 + place, f"klom_floor/{group}/p95": 0.75, f"klom_original/{group}/p95": 3.5}
        found |= {f"klom/{group}/p95_low": 1.0 + place, f"klom/{group}/p95_high": 1.5 + place}
        found |= {f"distance/{name}/{group}": value for name, value in DISTANCES.items()}
        found |= {f"accuracy/oracle/{group}": 0.875, f"accuracy/unlearned/{group}": 0.111}
    points = result.points.assign(margin_predicted=0.5, margin_retrained=-0.25, margin_retrained_std=0.125)
    return replace(result, verification=found, points=points)


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------------- the record


def test_a_record_says_what_when_how_and_with_what(result: Unlearned, tmp_path: Path) -> None:
    found = files.read(result.save(tmp_path / "out"))
    inputs, labels = data(60, 0)
    assert found["removed"]["indices"] == GONE
    assert found["removed"]["rows"] == len(GONE)
    assert found["removed"]["sha256"] == content_hash(inputs[GONE], labels[GONE])
    assert found["removed"]["of"] == {"train": 60, "unseen": 20, "classes": 2}
    assert found["when"] == result.when
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["when"])
    assert found["method"]["name"] == "Finetune"
    assert found["method"]["settings"]["epochs"] == found["method"]["epochs"] == 1
    assert found["method"]["attribution"] is None
    assert not found["method"]["exact"]
    assert found["versions"]["packages"]["torch"] == torch.__version__
    assert found["warnings"] == result.warnings


def test_the_checkpoint_is_the_unlearned_network(result: Unlearned, tmp_path: Path) -> None:
    found = files.read(result.save(tmp_path))
    loaded = fill(nn.Linear(3, 2), tmp_path / "unlearned.safetensors")
    torch.testing.assert_close(loaded.state_dict(), result.model.state_dict(), rtol=0, atol=0)
    assert found["network"]["before"] == weights_digest(network())
    assert found["network"]["after"] == weights_digest(loaded) != weights_digest(network())


def test_the_same_deletion_has_the_same_record_but_for_times(result: Unlearned) -> None:
    def timeless(made: Unlearned) -> str:
        found = record.content(replace(made, when="now", cost=replace(made.cost, seconds=1.0)), "0")
        return json.dumps(found, sort_keys=True)

    assert timeless(deleted()) == timeless(result)
    assert timeless(replace(result, seed=1)) != timeless(result)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda found: found["removed"]["indices"].append(9), "was changed after it was written"),
        (lambda found: found["quality"].update(verified=True), "was changed after it was written"),
        (lambda found: found.pop("checksum"), "was changed after it was written"),
    ],
)
def test_a_changed_record_is_refused(result: Unlearned, tmp_path: Path, change: Any, sentence: str) -> None:
    path = result.save(tmp_path) / "deletion.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        files.read(tmp_path)


def test_a_changed_or_missing_checkpoint_is_refused(result: Unlearned, tmp_path: Path) -> None:
    network_file = result.save(tmp_path) / "unlearned.safetensors"
    content = bytearray(network_file.read_bytes())
    content[-1] ^= 1
    network_file.write_bytes(content)
    with pytest.raises(UserError, match=r"unlearned\.safetensors: was changed .* not the network of deletion\.json"):
        files.read(tmp_path / "deletion.json")
    network_file.unlink()
    with pytest.raises(UserError, match="is missing"):
        files.read(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]", "3"])
def test_what_is_no_record_is_refused_in_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "deletion.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"deletion\.json: [^\n]+$"):
        files.read(tmp_path)


def test_numbers_that_are_not_finite_are_null(result: Unlearned, tmp_path: Path) -> None:
    metrics = result.metrics | {"margin/unlearned/forget": float("nan")}
    points = result.points.assign(margin_unlearned=np.nan)
    folder = replace(result, metrics=metrics, points=points).save(tmp_path)
    assert files.read(folder)["quality"]["metrics"]["margin/unlearned/forget"] is None
    assert not re.search(r"\bnan\b|\bNone\b|\bInfinity\b", text_of(folder))


def test_a_deletion_that_cannot_be_written_leaves_the_folder_as_it_was(result: Unlearned, tmp_path: Path) -> None:
    class Stateful(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    result.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="'_extra_state' of its state is a dict, which safetensors cannot hold"):
        replace(result, model=Stateful(3, 2)).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"deletion.json", "points.parquet", "report.html", "unlearned.safetensors"}
    with pytest.raises(UserError, match="is a file; expected a folder"):
        result.save(tmp_path / "deletion.json")


# ---------------------------------------------------------------------- tensors that share memory


class Tied(nn.Module):
    """Two layers with one weight, and a buffer that is a part of another one, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("whole", torch.arange(16.0).reshape(4, 4))
        self.register_buffer("part", self.get_buffer("whole")[:, :2].T)


def test_tied_weights_are_written_and_read(result: Unlearned, tmp_path: Path) -> None:
    tied, fresh = Tied(), Tied()
    replace(result, model=tied).save(tmp_path)
    fill(fresh, tmp_path / "unlearned.safetensors")
    assert fresh.second.weight is fresh.first.weight
    torch.testing.assert_close(fresh.state_dict(), tied.state_dict(), rtol=0, atol=0)
    assert load_file(tmp_path / "unlearned.safetensors").keys() == tied.state_dict().keys()


def test_a_file_that_names_a_tied_weight_once_is_read(tmp_path: Path) -> None:
    kept, fresh = Tied(), Tied()
    del kept.whole, kept.part, fresh.whole, fresh.part
    save_model(kept, str(tmp_path / "x.safetensors"))
    assert len(load_file(tmp_path / "x.safetensors")) == 3 < len(kept.state_dict())
    torch.testing.assert_close(fill(fresh, tmp_path / "x.safetensors").state_dict(), kept.state_dict())


def test_a_digest_knows_names_types_shapes_and_every_number() -> None:
    one = nn.Linear(2, 2)
    others = [nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(4, 1), nn.Sequential(nn.Linear(2, 2))]
    for other in others[:2]:
        other.load_state_dict(one.state_dict())
    others[3][0].load_state_dict(one.state_dict())
    assert weights_digest(others[0]) == weights_digest(one)
    assert len({weights_digest(found) for found in (one, *others[1:])}) == 4
    with torch.no_grad():
        others[0].bias[1] += 1e-6
    assert weights_digest(others[0]) != weights_digest(one)
    assert weights_digest(one.to(torch.bfloat16))


# ---------------------------------------------------------------------- what is certain and what is not


def test_without_retrained_networks_it_is_called_not_verified(result: Unlearned, tmp_path: Path) -> None:
    folder = result.save(tmp_path)
    found = files.read(folder)
    assert not found["quality"]["verified"]
    assert found["quality"]["klom_p95"] is None
    assert found["quality"]["in_words"][0].startswith("Not verified")
    assert "no proof, mathematical or legal" in " ".join(found["not_guaranteed"])
    assert "Not verified" in text_of(folder)
    assert "KLoM P95" not in text_of(folder)


def test_with_retrained_networks_klom_stands_between_its_ends(verified: Unlearned, tmp_path: Path) -> None:
    folder = verified.save(tmp_path)
    found = files.read(folder)
    klom = {"value": 1.25, "low": 1.0, "high": 1.5, "floor": 0.75, "doing_nothing": 3.5}
    assert found["quality"]["klom_p95"]["forget"] == klom
    assert found["quality"]["retrained_networks"] == ORACLES
    sentence = found["quality"]["in_words"][-1]
    for number in ("1.25 nats", "1.00 to 1.50", "0.75", "3.50"):
        assert number in sentence
    few = replace(verified, verification=verified.verification | {"oracles": 20.0})
    assert "KLoM" not in " ".join(record.content(few, "0")["quality"]["in_words"])
    assert '<td>1.25<span class="note">1.00 to 1.50' in text_of(folder)


def test_without_an_interval_klom_stands_alone(verified: Unlearned, tmp_path: Path) -> None:
    ends = {f"klom/{group}/p95_{end}": float("nan") for group in ("forget", "retain", "val") for end in ("low", "high")}
    replace(verified, verification=verified.verification | ends | {"oracles": 5.0}).save(tmp_path)
    text = text_of(tmp_path)
    assert '<td>1.25<span class="note"></span></td>' in text
    assert "– to –" not in text


def test_words_of_the_places_stand_below_their_heads(browser: Browser, verified: Unlearned, tmp_path: Path) -> None:
    browser.open(verified.save(tmp_path) / "report.html")
    sides = "[...document.querySelectorAll('#surfaces th, #surfaces td')].map(cell => getComputedStyle(cell).textAlign)"
    assert set(browser.value(sides)) == {"left"}


def test_metrics_of_other_networks_do_not_pass_for_those_of_this_one(verified: Unlearned, tmp_path: Path) -> None:
    folder = verified.save(tmp_path)
    found = files.read(folder)["quality"]
    assert found["metrics"] == verified.metrics
    assert found["verification"]["accuracy/unlearned/forget"] == 0.111
    numbers = re.search(r'<section id="numbers">(.*?)</section>', text_of(folder), re.DOTALL)[1]
    assert "11.1 %" not in numbers
    assert "87.5 %" in numbers


def test_retraining_is_called_exact(result: Unlearned) -> None:
    settings = {"_target_": "dmm_exp.unlearners.Retrain"}
    found = record.content(replace(result, method=settings), "0")
    assert found["method"]["exact"]
    assert "owe nothing to the deleted rows" in " ".join(found["guaranteed"])
    assert "approximate" not in " ".join(found["not_guaranteed"])
    assert page.words.headline(found).startswith("The network was retrained without 4 of 60")
    assert "Not verified" not in " ".join(found["quality"]["in_words"])


def test_retraining_that_keeps_a_layer_is_not_called_exact(result: Unlearned) -> None:
    settings = {"_target_": "dmm_exp.unlearners.Retrain"}
    found = record.content(replace(result, method=settings, kept=["0.weight"]), "0")
    assert not found["method"]["exact"]
    assert found["method"]["kept"] == ["0.weight"]
    assert "owe nothing" not in " ".join(found["guaranteed"])
    assert "'0.weight'" in " ".join(found["not_guaranteed"])
    assert "but for '0.weight'" in page.words.headline(found)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "can be told from doing nothing and cannot be told from retraining"),
        ({"unlearned": 1.6}, "can be told from doing nothing and can be told from retraining"),
        ({"unlearned": 3.5}, "cannot be told from doing nothing and can be told from retraining"),
        ({"unlearned": 5.1}, "can be told from retraining, and lies farther from it than doing nothing"),
        ({"alone_low": 0.9}, "there is little to unlearn here"),
        ({"method_from_others_low": 0.1}, "in this way can be told from doing nothing and can be told from retraining"),
        ({"method_from_others": -0.25, "method_from_others_high": -0.1}, "They vary less than retrained networks"),
        ({"method_from_alone_high": 0.1}, "in this way cannot be told from doing nothing and cannot be told from"),
    ],
)  # fmt: skip
def test_the_words_say_what_the_comparison_can_tell(verified: Unlearned, change: Any, sentence: str) -> None:
    numbers = {f"distance/{name}/forget": value for name, value in change.items()}
    found = record.content(replace(verified, verification=verified.verification | numbers), "0")
    assert sentence in " ".join(found["quality"]["in_words"])


def test_the_verdict_stands_in_the_record(verified: Unlearned) -> None:
    found = record.content(verified, "0")["quality"]["verdict"]
    assert found["network"] == {
        "from_retraining": False,
        "from_doing_nothing": True,
        "worse": False,
        "apart": True,
    }
    assert found["method"] == found["network"]


def test_a_pool_that_is_kept_is_named_with_when_it_pays(result: Unlearned, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"size": 40, "training": {}, "network": {}, "dataset": "", "probe": [], "seed": 0}
    pool = Pool(tmp_path, seconds=100.0, retraining=11.0, models=80, lds=0.5, **facts)
    with_pool = replace(result, pool=pool, cost=replace(result.cost, seconds=1.0))
    found = record.content(with_pool, "0")
    assert found["pool"]["break_even_requests"] == 10
    assert any(surface["where"].startswith(f"{tmp_path}/artifacts") for surface in found["surfaces"])
    assert "pays off after about 10 requests" in page.words.cost(found)[-1]
    gone = record.content(replace(with_pool, pool=replace(pool, folder=tmp_path / "gone")), "0")
    assert not any("artifacts" in surface["where"] for surface in gone["surfaces"])
    for seconds in (5.6, 10.9, 11.0, 12.0):  # a difference near zero gives no number
        slow = record.content(replace(with_pool, cost=replace(result.cost, seconds=seconds)), "0")
        assert slow["pool"]["break_even_requests"] is None
        assert "retraining is cheaper here, and exact" in page.words.cost(slow)[-1]


# ---------------------------------------------------------------------- points and the page


def test_points_hold_the_margins_of_every_network(result: Unlearned, tmp_path: Path) -> None:
    points = pd.read_parquet(result.save(tmp_path) / "points.parquet")
    inputs, labels = (torch.cat(parts) for parts in zip(data(60, 0), data(20, 1), strict=True))
    for name, net in (("given", network()), ("unlearned", result.model)):
        expected = margins(net(inputs).detach()[None], labels.numpy())[0]
        np.testing.assert_allclose(points[f"margin_{name}"], expected, rtol=1e-5, atol=1e-5)
    assert points["group"].value_counts().to_dict() == {"retain": 56, "val": 20, "forget": 4}
    assert points["point"][points["group"] == "forget"].tolist() == GONE
    assert points["label"].tolist() == labels.tolist()
    means = points.groupby("group")["margin_unlearned"].mean()
    assert means["forget"] == pytest.approx(result.metrics["margin/unlearned/forget"], rel=1e-5)


def test_retrained_networks_are_summed_up_by_mean_and_spread() -> None:
    labels, logits = torch.tensor([0, 1, 1]), torch.randn(5, 3, 2)
    examples = SimpleNamespace(labels=labels, class_names=["a", "b"], n_points=3, n_train=2)
    deletion: Any = SimpleNamespace(examples=examples, given=SimpleNamespace(blank=()))
    change = Change(deletion, Rows(torch.tensor([0]), 2), logits[:1], logits[1:2], logits[2:3])
    table = change.table(logits)
    each = margins(logits, labels.numpy())
    np.testing.assert_allclose(table["margin_retrained"], each.mean(0))
    np.testing.assert_allclose(table["margin_retrained_std"], each.std(0, ddof=1))
    np.testing.assert_allclose(table["margin_predicted"], each[2])
    assert table["class_name"].tolist() == ["a", "b", "b"]


def test_the_page_asks_nothing_of_the_network(verified: Unlearned, tmp_path: Path) -> None:
    text = text_of(verified.save(tmp_path))
    assert "default-src 'none'" in text
    assert not re.findall(r"<(?:link|iframe|object|base)\b", text)
    references = re.findall(r'\b(?:src|href|srcset|action)="([^"]*)"', text)
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert "http" not in re.sub(r"<meta http-equiv=|http://www\.w3\.org/2000/svg", "", text)
    assert set(re.findall(r'<figure id="(\w+)"', text)) == {"deleted_rows", "margins"}


def test_names_of_classes_and_warnings_are_escaped(verified: Unlearned, tmp_path: Path) -> None:
    evil = "</script><b>x</b>"
    points = verified.points.assign(class_name=evil)
    text = text_of(replace(verified, points=points, warnings=[evil]).save(tmp_path))
    assert evil not in text
    assert "<b>x</b>" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text


def test_deleted_rows_are_sorted_by_what_they_should_become(verified: Unlearned) -> None:
    draw = np.random.default_rng(0)
    points = pd.concat([verified.points] * 60, ignore_index=True).assign(group="forget")
    points["margin_retrained"] = draw.normal(size=len(points))
    (panel,) = page._rows_chart(points).panels
    goal = next(mark for mark in panel.marks if mark.form == "line" and mark.role == "oracle")
    assert 50 < len(goal.x) <= page.SHOWN
    assert (np.diff(goal.y) >= 0).all()
    assert panel.hover.titles[0].startswith("row ")
    assert page._rows_chart(points).caption.endswith(
        f"{len(goal.x)} of 4,800 rows are shown, evenly spaced in this order."
    )
    few = page._rows_chart(points[:3]).panels[0]
    assert next(mark for mark in few.marks if mark.role == "oracle").ends.shape == (2, 3)


def test_one_deleted_row_and_no_unseen_points_have_a_page(result: Unlearned) -> None:
    points = result.points[result.points["point"].isin([3, 4])]
    found = record.content(replace(result, metrics={"margin/given/forget": 1.0, "margin/unlearned/forget": 0.5}), "0")
    assert "deleted rows (n = 1)" in page.render(found, points)
    assert "unseen points (n" not in page.render(found, points)


def test_the_page_is_right_on_every_screen_and_on_paper(browser: Browser, verified: Unlearned, tmp_path: Path) -> None:
    text = page.render(record.content(verified, "0"), verified.points)
    (tmp_path / "deletion.html").write_text(text, encoding="utf-8")
    assert faults(browser, tmp_path / "deletion.html") == []
