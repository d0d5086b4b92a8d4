"""Pools that stay on disk: the same answers as from memory, from blocks that are no larger than asked for."""

from __future__ import annotations

import pytest
import torch

from dmm_exp.attribution import (
    Datamodel,
    Debiased,
    EmpiricalBayes,
    Evidence,
    FeldmanZhang,
    SparseDatamodel,
    SubsetModels,
)
from dmm_exp.attribution import datamodel as datamodel_module
from dmm_exp.ensembles import RandomSubsets, memory
from dmm_exp.ensembles.work import rounded
from dmm_exp.errors import UserError
from dmm_exp.metrics import margins
from dmm_exp.scores import memorization_columns
from dmm_exp.store import Artifact, Draft, Spec, Stacked, Store, stacked

MEMBERS, N_TRAIN, POINTS, CLASSES, CHUNK = 120, 60, 90, 3, 50
LABELS = torch.arange(POINTS) % CLASSES
FORGET = torch.tensor([3, 4, 17, 40])
GROUPS = torch.ones(POINTS, dtype=torch.long).index_fill(0, FORGET, 0)
GROUPS[N_TRAIN:] = 2
BLOCK = 8192  # bytes: five points of all members' logits
ESTIMATORS = {
    "feldman_zhang": FeldmanZhang,
    "datamodel": lambda: Datamodel(tuning_outputs=10),
    "debiased": lambda: Debiased(tuning_outputs=10),
    "empirical_bayes": lambda: EmpiricalBayes(tuning_outputs=10, prior_examples=20, prior_points=5),
    "lasso": lambda: SparseDatamodel(outputs_at_once=100, path_length=4, tolerance=1e-5),
}


class Silent:
    def warn(self, text: str) -> None:
        raise AssertionError(text)

    note = warn


def subset_models(members: int = MEMBERS, alpha: float = 0.5, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return masks and logits of models on which examples act, on themselves most."""
    generator = torch.Generator().manual_seed(1)
    weights = 0.3 * torch.randn(N_TRAIN, POINTS, CLASSES, generator=generator)
    weights[torch.arange(N_TRAIN), torch.arange(N_TRAIN), LABELS[:N_TRAIN]] += 3
    masks = RandomSubsets(N_TRAIN, alpha, seed, complementary=True).masks(range(members))
    noise = torch.randn(members, POINTS, CLASSES, generator=torch.Generator().manual_seed(seed))
    return {"masks": masks, "logits": torch.einsum("mn,npc->mpc", masks.float(), weights) + noise}


def written(root, tensors, chunk=CHUNK) -> Artifact:
    """Write tensors in shards of some members, as an ensemble's artifact."""
    members = len(tensors["masks"])
    spec = Spec("ensemble", {"members": members, "names": sorted(tensors), "chunk": chunk})

    def make(draft: Draft) -> None:
        layout = draft.layout([[start, min(start + chunk, members)] for start in range(0, members, chunk)])
        for shard, (start, stop) in enumerate(layout):
            draft.write_shard(shard, {name: value[start:stop] for name, value in tensors.items()}, {})

    return Store(root, Silent()).obtain(spec, make)


@pytest.fixture
def on_disk(monkeypatch):
    """Leave everything on disk, and read small blocks of it; returns the sizes of all that is read, in bytes."""
    monkeypatch.setattr(stacked, "WHOLE_BYTES", 0)
    monkeypatch.setattr(stacked, "BLOCK_BYTES", BLOCK)
    sizes, read = [], Stacked._read

    def watched(self, points):
        found = read(self, points)
        sizes.append(found.numel() * 4)
        return found

    monkeypatch.setattr(Stacked, "_read", watched)
    return sizes


def opened(artifact: Artifact, block: int = 2) -> SubsetModels:
    return SubsetModels(artifact.lazy("masks"), artifact.lazy("logits"), block, LABELS)


def answers(name: str, pool: SubsetModels, **more) -> dict[str, torch.Tensor]:
    """Return all that an estimator says, of the forget set and of other directions."""
    learned = ESTIMATORS[name]().learn(Evidence(GROUPS, N_TRAIN, pool=pool, **more))
    effect = learned.effect(FORGET)
    directions = RandomSubsets(N_TRAIN, 0.5, 7, complementary=False).masks(range(6)).float() - pool.inclusion
    found = {"effect": effect.mean, "predicted": learned.predict_at(directions, torch.arange(0, POINTS, 4))}
    return found if effect.standard_error is None else found | {"error": effect.standard_error}


def test_a_tensor_on_disk_gives_what_was_written(tmp_path, on_disk):
    tensors = subset_models()
    tensors["halves"] = tensors["logits"].half()
    artifact = written(tmp_path, tensors)
    points = torch.tensor([5, 0, 88, 5])
    for name, whole in tensors.items():
        lazy, expected = artifact.lazy(name), whole.float() if whole.is_floating_point() else whole
        assert isinstance(lazy, Stacked)
        assert (lazy.shape, lazy.dtype, len(lazy)) == (tuple(whole.shape), expected.dtype, MEMBERS)
        if name == "masks":
            points = points.clamp(max=N_TRAIN - 1)
        assert torch.equal(lazy[:, points], expected[:, points])
        assert torch.equal(lazy[:, 7:-3], expected[:, 7:-3])
        assert torch.equal(lazy[49:51][:, :], expected[49:51])
        assert torch.equal(lazy[20:110][40:-5, points], expected[20:110][40:-5, points])
        assert torch.equal(lazy[-30:][:, 1:2], expected[-30:, 1:2])
    assert max(on_disk) <= 4 * tensors["logits"].numel()


def test_a_small_tensor_is_read_whole(tmp_path):
    tensors = subset_models()
    found = opened(written(tmp_path, tensors))
    assert torch.equal(found.logits, tensors["logits"])
    assert torch.equal(found.masks, tensors["masks"])


@pytest.mark.parametrize("members", [120, 40])  # more than training examples, and fewer
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_says_the_same_of_a_pool_on_disk(tmp_path, on_disk, monkeypatch, name, members):
    tensors = subset_models(members)
    pool = opened(written(tmp_path, tensors))
    assert isinstance(pool.logits, Stacked)
    found = answers(name, pool)
    monkeypatch.undo()
    expected = answers(name, SubsetModels(**tensors, block=2, labels=LABELS))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))


def test_the_default_says_the_same_with_larger_models_on_disk(tmp_path, on_disk, monkeypatch):
    whole = [subset_models(), subset_models(48, 0.75, 3)]
    pool, larger = (opened(written(tmp_path, tensors), block) for tensors, block in zip(whole, (2, 4), strict=True))
    originals = torch.randn(5, POINTS, CLASSES, generator=torch.Generator().manual_seed(5))
    found = answers("empirical_bayes", pool, larger=larger, originals=originals)
    monkeypatch.undo()
    pool, larger = (
        SubsetModels(**tensors, block=block, labels=LABELS) for tensors, block in zip(whole, (2, 4), strict=True)
    )
    for key, value in answers("empirical_bayes", pool, larger=larger, originals=originals).items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))


@pytest.mark.parametrize("name", ["feldman_zhang", "datamodel", "debiased", "empirical_bayes"])
def test_no_estimator_reads_more_of_the_logits_than_a_block_at_a_time(tmp_path, on_disk, monkeypatch, name):
    monkeypatch.setattr("dmm_exp.attribution.evidence.COUNTED_AT_ONCE", BLOCK // 4)
    monkeypatch.setattr("dmm_exp.attribution.priors.BLOCK_VALUES", BLOCK // 4)
    tensors = subset_models()
    pool = opened(written(tmp_path, tensors))
    answers(name, pool)
    sample = 4 * MEMBERS * CLASSES * 10  # λ is chosen on ten outputs of a group at once, of at most ten points
    assert max(on_disk) <= max(BLOCK, sample)
    assert sum(on_disk) >= tensors["logits"].numel() * 4  # and yet all of them


def test_lasso_reads_as_many_outputs_as_it_solves_together(tmp_path, on_disk):
    pool = opened(written(tmp_path, subset_models()))
    estimator = SparseDatamodel(outputs_at_once=40, path_length=2, tolerance=0.5)
    estimator.learn(Evidence(GROUPS, N_TRAIN, pool=pool))
    assert sorted(on_disk)[-2] <= 4 * MEMBERS * CLASSES * 15  # forty outputs are of fifteen points at most
    assert max(on_disk) == 4 * MEMBERS * N_TRAIN  # all masks, which it needs whole


def test_memorization_is_the_same_from_disk(tmp_path, on_disk):
    tensors = subset_models()
    pool = opened(written(tmp_path, tensors))
    found = memorization_columns(pool.logits, pool.masks, LABELS)
    expected = memorization_columns(tensors["logits"], tensors["masks"], LABELS)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name
    assert max(on_disk) <= BLOCK


def test_rounded_logits_come_with_margins_that_are_not():
    logits = subset_models()["logits"]
    found = rounded(logits, LABELS)
    assert found["logits"].dtype == torch.float16
    assert torch.equal(found["logits"], logits.half())
    assert found["margins"].numpy() == pytest.approx(margins(logits, LABELS), abs=1e-5)
    assert abs(margins(found["logits"].float(), LABELS) - margins(logits, LABELS)).max() > 1e-4


def test_memorization_of_rounded_logits_comes_from_the_margins(tmp_path, on_disk):
    tensors = subset_models()
    artifact = written(tmp_path, tensors | rounded(tensors["logits"], LABELS))
    pool = opened(artifact)
    found = memorization_columns(pool.logits, pool.masks, LABELS, artifact.lazy("margins"))
    expected = memorization_columns(tensors["logits"], tensors["masks"], LABELS)
    rough = memorization_columns(pool.logits, pool.masks, LABELS)
    for name in ("memorization", "memorization_se"):
        apart, roughly = (abs(values[name] - expected[name]).max() for values in (found, rough))
        assert apart < 1e-6
        assert apart < 0.1 * roughly
    assert found["memorization_correctness"] == pytest.approx(expected["memorization_correctness"], abs=0.02)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_effects_from_rounded_logits_are_close(tmp_path, name):
    tensors = subset_models()
    pool = opened(written(tmp_path, tensors | rounded(tensors["logits"], LABELS)))
    assert pool.logits.dtype == torch.float32
    found = answers(name, pool)["effect"]
    expected = answers(name, SubsetModels(**tensors, block=2, labels=LABELS))["effect"]
    assert float((found - expected).norm() / expected.norm()) < 0.01
    assert not torch.equal(found, expected)


def test_a_logit_too_large_for_half_precision_is_one_sentence():
    logits = torch.zeros(2, 4, CLASSES)
    logits[1, 2, 0] = -65505
    rounded(logits, LABELS[:4])  # which float16 still rounds to its largest number
    logits[1, 2, 0] = -70000
    with pytest.raises(UserError, match=r"pool\.logits_dtype=float16: a logit of size 70,000 is beyond 65,504"):
        rounded(logits, LABELS[:4])
    logits[1, 2, 0] = torch.nan  # of a model that diverged, which is said elsewhere
    assert rounded(logits, LABELS[:4])["logits"].isnan().any()


@pytest.mark.parametrize("name", ["datamodel", "debiased", "empirical_bayes", "lasso"])
def test_a_pool_whose_matrices_do_not_fit_is_refused_before_they_are_made(monkeypatch, name):
    monkeypatch.setattr(memory, "machine_memory", lambda: 1e4)
    monkeypatch.setattr(datamodel_module.torch.linalg, "eigh", None)
    with pytest.raises(UserError, match=r"pool\.size: .* of 120 members and 60 training examples would take about"):
        answers(name, SubsetModels(**subset_models(), block=2, labels=LABELS))


def test_the_difference_of_means_needs_no_matrix_that_might_not_fit(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 0)
    assert answers("feldman_zhang", SubsetModels(**subset_models(), block=2))["effect"].abs().max() > 0


def test_this_machine_has_some_memory():
    assert 1e8 < memory.machine_memory() < 1e15


def test_a_damaged_shard_of_a_pool_on_disk_is_found_before_it_is_read(tmp_path, on_disk):
    artifact = written(tmp_path, subset_models())
    path = artifact.path / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    store = Store(tmp_path, Silent())
    assert store.damaged_files(artifact.spec) == [path.name]
    assert store.find(artifact.spec) is None
