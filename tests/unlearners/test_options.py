"""Options that every fine-tuning method has: optimizers, schedules, checkpoints, clipping, BatchNorm, precision."""

from dataclasses import replace

import pytest
import torch
from tiny_tasks import (
    ELSEWHERE,
    FADING,
    FINE_TUNING,
    METHODS,
    TRAINER,
    everything,
    fitting,
    make,
    movement,
    same,
    sgd,
    tiny,
    unlearn,
    usual,
)

from dmm_exp.config.instantiate import check_targets
from dmm_exp.ensembles.work import trainer_factory
from dmm_exp.errors import UserError

OPTIMIZERS = {
    "Adam": {"lr": 0.003},
    "AdamW": {"lr": 0.003, "weight_decay": 0.1},
    "SGD": {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "RMSprop": {"lr": 0.001},
}
SCHEDULES = {
    "Constant": {},  # that of most files
    "OneCycle": {"peak": 0.5},
    "Exponential": {"decay": 0.5},
    "Cosine": {"end": 0.1},
    "MultiStep": {"milestones": [1], "factor": 0.1},
}
BATCH_NORM = [("finetune", "cnn"), ("salun", "cnn"), ("scrub", "cnn")]  # some of them, on running statistics too
every_method = pytest.mark.parametrize("name", FINE_TUNING)
from_the_originals = pytest.mark.parametrize("name", [name for name in FINE_TUNING if name not in ELSEWHERE])


def schedule(name, **settings):
    return {"_target_": f"dmm_exp.ensembles.schedules.{name}", **settings}


def distance(left, right):
    """Return how far the members' parameters are apart ``[members]``."""
    parts = [(value - right.ensemble.params[name]).flatten(1) for name, value in left.ensemble.params.items()]
    return torch.cat(parts, dim=1).detach().norm(dim=1)


# ---------------------------------------------------------------------- optimizers and schedules


@every_method
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_runs(name, optimizer):
    settings = {"_target_": f"torch.optim.{optimizer}", "_partial_": True, **OPTIMIZERS[optimizer]}
    result = unlearn(name, fitting(name), optimizer=settings)
    assert torch.isfinite(result.logits).all()
    assert (movement(result, fitting(name)) > 0).all()


@every_method
def test_every_schedule_runs_and_makes_a_difference(name):
    results = [unlearn(name, fitting(name), schedule=schedule(which, **SCHEDULES[which])) for which in SCHEDULES]
    for index, result in enumerate(results):
        assert torch.isfinite(result.logits).all()
        assert (movement(result, fitting(name)) > 0).all()
        assert all((distance(result, other) > 0).all() for other in results[:index])


@every_method
def test_a_learning_rate_that_falls_to_zero_stops_at_the_milestone(name):
    settings = {"schedule": schedule("MultiStep", milestones=[1], factor=0), "batch_norm": "frozen"}
    stopped, short = (unlearn(name, fitting(name), epochs=n, optimizer=sgd(), **settings) for n in (3, 1))
    if name in FADING:  # what it does depends on the number of epochs
        short = unlearn(name, fitting(name), epochs=[1, 3], optimizer=sgd(), **settings).checkpoints[1]
    assert same(stopped, short)


@every_method
def test_without_a_schedule_the_learning_rate_is_constant(name):
    constant = usual(name) if "Constant" in METHODS[name]["schedule"]["_target_"] else None
    constant = constant or unlearn(name, fitting(name), schedule=schedule("Constant"))
    assert same(unlearn(name, fitting(name), schedule=None), constant)


# ---------------------------------------------------------------------- epochs and checkpoints


@from_the_originals
def test_no_epochs_are_the_originals(name):
    result = unlearn(name, fitting(name), epochs=0)
    assert (movement(result, fitting(name)) == 0).all()
    assert torch.equal(result.logits, fitting(name).originals.logits(fitting(name).examples.inputs))


@every_method
def test_whether_checkpoints_are_shorter_runs_is_what_the_schedule_says(name):
    for which, settings in SCHEDULES.items():
        nests = which not in ("OneCycle", "Cosine") and name not in FADING
        assert make(name, schedule=schedule(which, **settings)).nests == nests, which
    assert make(name, schedule=None).nests == (name not in FADING)


@pytest.mark.parametrize(("name", "network"), [*((name, "mlp") for name in FINE_TUNING), *BATCH_NORM])
def test_a_checkpoint_is_a_shorter_run(name, network):
    decay = schedule("Exponential", decay=0.5)
    result = unlearn(name, fitting(name, network), epochs=[3, 1], schedule=decay)
    assert list(result.checkpoints) == [1]
    long, short = (unlearn(name, fitting(name, network), epochs=n, schedule=decay) for n in (3, 1))
    assert same(result, long)
    assert (result.sample_gradients, result.history) == (long.sample_gradients, long.history)
    if make(name, schedule=decay).nests:
        assert same(result.checkpoints[1], short)
        assert result.checkpoints[1].history == short.history
    assert result.checkpoints[1].sample_gradients == short.sample_gradients
    assert not same(result, result.checkpoints[1])


def test_under_a_schedule_that_does_not_nest_a_checkpoint_is_no_shorter_run():
    result = unlearn("finetune", tiny(), epochs=[1, 3], schedule=schedule("Cosine"))
    assert not same(result.checkpoints[1], unlearn("finetune", tiny(), epochs=1, schedule=schedule("Cosine")))


def test_the_penalty_of_l1_sparse_makes_its_checkpoints_no_shorter_runs():
    result = unlearn("l1_sparse", tiny(), epochs=[1, 3])
    assert not same(result.checkpoints[1], unlearn("l1_sparse", tiny(), epochs=1))


# ---------------------------------------------------------------------- clipping, BatchNorm, precision


@from_the_originals
def test_clipping_bounds_how_far_a_member_can_go(name):
    """One step of plain descent moves a member by at most the learning rate times the largest norm."""
    settings = {"optimizer": sgd(), "epochs": 1, "batch_size": 1000}
    settings |= {key: 1000 for key in METHODS[name] if key == "forget_batch_size"}
    whole, clipped = (unlearn(name, fitting(name), **settings, clip_norm=limit) for limit in (None, 1e-3))
    steps = 2 if "forget_batch_size" in settings else 1
    assert (movement(clipped, fitting(name)) <= steps * 0.01 * 1e-3 * 1.01).all()
    assert (movement(clipped, fitting(name)) > 0).all()
    assert (movement(whole, fitting(name)) > 2 * movement(clipped, fitting(name))).all()


OTHER_STATISTICS = ["negmerge", "noisy_finetune"]  # the originals' to the end; a new network's to begin with


@pytest.mark.parametrize("name", [name for name in FINE_TUNING if name not in OTHER_STATISTICS])
def test_frozen_statistics_stay_bit_identical_and_free_ones_move(name):
    before = fitting(name, "cnn").originals.stats
    frozen, free = (unlearn(name, fitting(name, "cnn"), batch_norm=how) for how in ("frozen", "train"))
    assert any("running_mean" in key for key in before)
    for key, value in before.items():
        assert torch.equal(frozen.ensemble.stats[key], value), key
        assert (free.ensemble.stats[key] != value).flatten(1 if value.ndim > 1 else 0).any(), key
    assert (movement(frozen, fitting(name, "cnn")) > 0).all()


@pytest.mark.parametrize(("name", "network"), [*((name, "mlp") for name in FINE_TUNING), *BATCH_NORM])
def test_bfloat16_agrees_roughly_with_float32(name, network):
    task = fitting(name, network)
    plain, mixed = (
        unlearn(name, task, optimizer=sgd(), precision=precision) for precision in ("32-true", "bf16-mixed")
    )
    assert all(value.dtype != torch.bfloat16 for value in everything(mixed).values())
    assert torch.isfinite(mixed.logits).all()
    apart = distance(plain, mixed)
    assert (apart > 0).all()
    assert (apart < 0.3 * movement(plain, task)).all()


def test_without_a_precision_it_is_that_of_the_trainer():
    mixed = replace(tiny(), make_trainer=trainer_factory({**TRAINER, "precision": "bf16-mixed"}))
    assert same(unlearn("finetune", mixed), unlearn("finetune", tiny(), precision="bf16-mixed"))
    assert same(unlearn("finetune", mixed, precision="32-true"), usual("finetune"))


@every_method
@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": -1},
        {"epochs": []},
        {"epochs": [0, 2]},
        {"batch_size": 0},
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
        {"optimizer": sgd(lr=-1)},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(name, setting):
    with pytest.raises(UserError, match=r"epochs|clip_norm|learning rate"):
        make(name, **setting)


@every_method
@pytest.mark.parametrize("setting", [{"batch_norm": "frosen"}, {"precision": "16"}, {"epochs": "many"}], ids=str)
def test_words_that_mean_nothing_are_refused(name, setting):
    (key,) = setting
    with pytest.raises(UserError, match=f"unlearner.{key}="):
        check_targets({"unlearner": {**METHODS[name], **setting}})
