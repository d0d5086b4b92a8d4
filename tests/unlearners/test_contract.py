"""The contract that every unlearner keeps, and what each of them does."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

from dmm_exp.cli import config_directory
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.data import Digits, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining, member_seed
from dmm_exp.ensembles.schedules import OneCycle
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.unlearners import FineTuning, UnlearningTask

FILES = sorted((Path(config_directory()) / "unlearner").glob("*.yaml"))
METHODS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
TRAINED = [name for name, config in METHODS.items() if "epochs" in config]
MEMBERS = range(3)
TRAINER = yaml.safe_load((Path(config_directory()) / "trainer" / "default.yaml").read_text()) | {"accelerator": "cpu"}


@pytest.fixture(scope="module")
def task():
    """Return three trained originals, 20 examples to forget, and targets that differ from what they answer."""
    digits = Digits(Normalisation(16, [0.305], [0.376])).load()
    build = model_factory({"_target_": "dmm_exp.models.MLP", "hidden": [24]}, digits)
    recipe = {
        "epochs": 3,
        "batch_size": 64,
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "schedule": OneCycle(),
    }
    make_trainer = trainer_factory(TRAINER)
    forget = torch.arange(0, 200, 10)
    retain = AllBut(digits.n_train, forget).indices(range(1))[0]
    originals = Ensemble.initialise(build, [member_seed(0, "original", i, "initialisation") for i in MEMBERS])
    training = EnsembleTraining(subsets=AllBut(digits.n_train, forget[:0]).indices(MEMBERS), **recipe)
    training.attach(originals, digits, seed=0, role="original", members=MEMBERS)
    training.fit(make_trainer)
    targets = originals.logits(digits.inputs)
    targets[:, forget, digits.labels[forget]] -= 4 * torch.rand(
        3, len(forget), generator=torch.Generator().manual_seed(0)
    )
    return UnlearningTask(originals, digits, forget, retain, 0, MEMBERS, targets, build, recipe, make_trainer)


def changed(task, **values):
    return UnlearningTask(**{**vars(task), **values})


def unlearn(name, task, **settings):
    return instantiate({**METHODS[name], **settings}).unlearn(task)


def loss(logits, labels, points):
    return float(functional.cross_entropy(logits[:, points].flatten(0, 1), labels[points].repeat(len(logits))))


@pytest.mark.parametrize("name", METHODS)
def test_originals_are_never_changed(name, task):
    before = {key: value.clone() for key, value in task.originals.tensors().items()}
    unlearn(name, task)
    after = task.originals.tensors()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_its_models(name, task):
    result = unlearn(name, task)
    assert result.logits.shape == (3, task.examples.n_points, 10)
    if result.ensemble is not None:
        torch.testing.assert_close(result.ensemble.logits(task.examples.inputs), result.logits)


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_models(name, task):
    torch.manual_seed(0)
    first = unlearn(name, task).logits
    torch.manual_seed(1)
    assert torch.equal(unlearn(name, task).logits, first)


@pytest.mark.parametrize("name", [*TRAINED, "retrain"])
def test_another_seed_other_models(name, task):
    assert not torch.equal(unlearn(name, changed(task, seed=1)).logits, unlearn(name, task).logits)


@pytest.mark.parametrize("name", METHODS)
def test_a_member_does_not_depend_on_the_chunk_it_is_unlearned_in(name, task):
    whole = unlearn(name, task).logits
    last = changed(task, originals=task.originals[2:], members=range(2, 3), targets=task.targets[2:])
    points = torch.cat([task.forget, torch.arange(1438, 1797)])
    torch.testing.assert_close(unlearn(name, last).logits[0, points], whole[2, points], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", TRAINED)
def test_the_models_move(name, task):
    ensemble = unlearn(name, task).ensemble
    for key, value in ensemble.params.items():
        assert not torch.equal(value, task.originals.params[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_cost_is_what_counting_by_hand_gives(name, task):
    forget, retain, config = len(task.forget), len(task.retain), METHODS[name]
    by_hand = {
        "do_nothing": 0,
        "dm_direct": 0,
        "retrain": 3 * retain,
        "gradient_ascent": config.get("epochs", 0) * forget,
        "finetune": config.get("epochs", 0) * retain,
    }
    matching = (
        config.get("epochs", 0) * (config.get("forget_multiplier", 0) + config.get("retain_multiplier", 0)) * forget
    )
    assert unlearn(name, task).sample_gradients == by_hand.get(name, matching)


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option_is_refused(name):
    with pytest.raises(UserError, match="takes no 'no_such_option'"):
        check_targets({"unlearner": {**METHODS[name], "no_such_option": 1}})


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("setting", [{"epochs": -1}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(name, setting):
    with pytest.raises(UserError, match="epochs"):
        instantiate({**METHODS[name], **setting})


@pytest.mark.parametrize("name", ["dmm", "oracle_matching", "dm_direct"])
def test_a_method_that_matches_says_when_there_is_nothing_to_match(name, task):
    with pytest.raises(TypeError, match="needs targets"):
        unlearn(name, changed(task, targets=None))


@pytest.mark.parametrize("name", ["dmm", "oracle_matching"])
def test_matching_takes_more_than_half_of_the_squared_distance_to_the_targets(name, task):
    before = task.originals.logits(task.examples.inputs)[:, task.forget] - task.targets[:, task.forget]
    after = unlearn(name, task).logits[:, task.forget] - task.targets[:, task.forget]
    assert after.square().mean() < 0.5 * before.square().mean()


def test_each_member_matches_its_own_targets(task):
    result = unlearn("dmm", task).logits[:, task.forget]
    distance = torch.stack([(result[0] - task.targets[i, task.forget]).square().mean() for i in range(3)])
    assert distance.argmin() == 0


def test_matching_its_own_answers_leaves_a_model_unchanged(task):
    own = changed(task, targets=task.originals.logits(task.examples.inputs))
    sgd = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01}
    result = unlearn("oracle_matching", own, optimizer=sgd)
    torch.testing.assert_close(result.logits, own.targets, atol=1e-4, rtol=1e-4)


def test_dm_direct_answers_the_targets_and_has_no_models(task):
    result = unlearn("dm_direct", task)
    assert torch.equal(result.logits, task.targets)
    assert result.ensemble is None


def test_doing_nothing_is_the_originals(task):
    assert torch.equal(unlearn("do_nothing", task).logits, task.originals.logits(task.examples.inputs))


def test_retraining_never_sees_the_forget_set(task):
    labels = task.examples.labels.clone()
    labels[task.forget] = (labels[task.forget] + 1) % 10
    other = type(task.examples)(**{**vars(task.examples), "labels": labels})
    assert torch.equal(unlearn("retrain", changed(task, examples=other)).logits, unlearn("retrain", task).logits)


def test_retraining_starts_anew(task):
    first, second = unlearn("retrain", task), unlearn("retrain", changed(task, originals=task.originals[:].copy()))
    assert torch.equal(first.logits, second.logits)
    assert not torch.allclose(first.logits, task.originals.logits(task.examples.inputs), atol=0.1)


def test_gradient_ascent_raises_the_loss_on_what_must_go(task):
    labels = task.examples.labels
    before = loss(task.originals.logits(task.examples.inputs), labels, task.forget)
    assert loss(unlearn("gradient_ascent", task).logits, labels, task.forget) > 1.2 * before


def test_finetuning_lowers_the_loss_on_what_stays(task):
    labels = task.examples.labels
    before = loss(task.originals.logits(task.examples.inputs), labels, task.retain)
    assert loss(unlearn("finetune", task).logits, labels, task.retain) < 0.9 * before


def test_finetuning_never_sees_the_forget_set(task):
    method = instantiate(METHODS["finetune"])
    assert isinstance(method, FineTuning)
    method.task = task
    assert not set(method.sample(0, torch.Generator()).tolist()) & set(task.forget.tolist())


def test_matching_draws_another_retain_sample_for_every_member_and_epoch(task):
    method = instantiate(METHODS["dmm"])
    method.task = task
    samples = [method.sample(0, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    retain = [set(sample.tolist()) - set(task.forget.tolist()) for sample in samples]
    assert retain[0] != retain[1]
    assert all((sample == task.forget[0]).sum() == METHODS["dmm"]["forget_multiplier"] for sample in samples)


def test_exact_effects_make_dm_direct_equal_retraining_for_a_linear_model_with_squared_loss():
    """Ridge regression in closed form: logits − (f_S − f_{S∖F}) are the retrained model's logits."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(40, size, generator=generator, dtype=torch.double) for size in (6, 3))

    def fitted(kept):
        gram = inputs[kept].T @ inputs[kept] + 0.1 * torch.eye(6, dtype=torch.double)
        return inputs @ torch.linalg.solve(gram, inputs[kept].T @ targets[kept])

    everything, forget = torch.arange(40), torch.tensor([3, 17])
    kept = AllBut(40, forget).indices(range(1))[0]
    effect = fitted(everything) - fitted(kept)
    torch.testing.assert_close(fitted(everything) - effect, fitted(kept), atol=1e-12, rtol=1e-12)
