"""The contract that every unlearner keeps, whichever it is: all of them, each from its YAML file."""

import inspect
from dataclasses import replace

import pytest
import torch
from hydra.utils import get_object
from tiny_tasks import (
    ANSWERS,
    CONF,
    FINE_TUNING,
    IN_PART,
    METHODS,
    STILL,
    UNTRAINED,
    chunk,
    configured,
    everything,
    fitting,
    make,
    movement,
    same,
    tiny,
    unlearn,
    usual,
)

import dmm_exp.unlearners
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.ensembles import member_generator
from dmm_exp.errors import UserError
from dmm_exp.unlearners import FineTuning, Unlearner

RANDOM = [*FINE_TUNING, "function", "influence", "retrain", "rewind", "sisa"]  # these draw random numbers
MOVED = [name for name in METHODS if name not in (*STILL, *ANSWERS)]
FORGET, RETAIN, TRAINING_SET = 20, 80, 100


def subclasses(cls):
    return {sub for child in cls.__subclasses__() for sub in {child} | subclasses(child)}


# ---------------------------------------------------------------------- one class, one file


def test_every_unlearner_has_a_file_and_every_file_an_unlearner():
    exported = {getattr(dmm_exp.unlearners, name) for name in dmm_exp.unlearners.__all__}
    concrete = {cls for cls in subclasses(Unlearner) if not inspect.isabstract(cls)}
    concrete = {cls for cls in concrete if cls.__module__.startswith("dmm_exp.unlearners.")}
    concrete = {cls for cls in concrete if not cls.__module__.endswith(".probes")}  # which are for audits
    described = [get_object(config["_target_"]) for config in METHODS.values()]
    assert set(described) == concrete
    assert concrete <= exported
    assert len(described) == len(concrete)


@pytest.mark.parametrize("name", METHODS)
def test_every_unlearner_is_made_from_its_file(name):
    check_targets({"unlearner": METHODS[name]})
    method = instantiate(METHODS[name])
    assert isinstance(method, Unlearner)
    assert isinstance(method, FineTuning) == (name in FINE_TUNING)


@pytest.mark.parametrize("name", [name for name in METHODS if len(METHODS[name]) > 1])
def test_a_file_names_every_option_of_its_unlearner(name):
    written = set(METHODS[name]) - {"_target_"}
    with pytest.raises(UserError, match="it takes") as refusal:
        check_targets({"unlearner": {**METHODS[name], "no_such_option": 1}})
    accepted = str(refusal.value).partition("it takes")[2].partition(" (")[0].partition(";")[0]
    assert written == {option.strip() for option in accepted.split(",") if option.strip()}


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option_is_refused(name):
    with pytest.raises(UserError, match="takes no 'no_such_option'"):
        check_targets({"unlearner": {**METHODS[name], "no_such_option": 1}})


@pytest.mark.parametrize("name", METHODS)
def test_the_first_line_of_a_file_says_what_it_is(name):
    assert (CONF / "unlearner" / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


# ---------------------------------------------------------------------- what goes in, what comes out


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("name", METHODS)
def test_originals_are_never_changed(name, network):
    task = fitting(name, network)
    before = {key: value.clone() for key, value in task.originals.tensors().items()}
    inputs, labels = task.examples.inputs.clone(), task.examples.labels.clone()
    unlearn(name, task)
    assert all(torch.equal(value, before[key]) for key, value in task.originals.tensors().items())
    assert torch.equal(task.examples.inputs, inputs)
    assert torch.equal(task.examples.labels, labels)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("name", METHODS)
def test_answers_are_finite_and_those_of_its_models(name, network):
    task, result = fitting(name, network), usual(name, network)
    assert result.logits.shape == (3, 130, 10)
    assert result.logits.dtype == torch.float32
    assert all(torch.isfinite(value).all() for value in everything(result).values())
    if result.ensemble is not None:
        assert torch.equal(result.ensemble.logits(task.examples.inputs), result.logits)
    assert (result.ensemble is None) == (name in ANSWERS) == (not make(name).returns_models)


@pytest.mark.parametrize("name", MOVED)
def test_every_model_moves(name):
    assert (movement(usual(name), fitting(name)) > 0).all()


@pytest.mark.parametrize("name", [name for name in FINE_TUNING if name not in IN_PART])
def test_fine_tuning_moves_every_tensor_of_every_model(name):
    before = fitting(name).originals.params
    for key, value in usual(name).ensemble.params.items():
        assert ((value - before[key]).flatten(1) != 0).any(1).all(), key


def test_doing_nothing_moves_nothing():
    assert torch.equal(movement(usual("do_nothing"), tiny()), torch.zeros(3))
    assert torch.equal(usual("dm_direct").logits, tiny().targets)


# ---------------------------------------------------------------------- randomness


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_tensors(name):
    torch.manual_seed(1)
    assert same(unlearn(name, fitting(name)), usual(name))


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_other_models(name):
    other = unlearn(name, replace(fitting(name), seed=1)).logits
    assert (other != usual(name).logits).flatten(1).any(1).all()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in RANDOM])
def test_a_method_that_draws_nothing_does_not_depend_on_the_seed(name):
    assert same(unlearn(name, replace(fitting(name), seed=1)), usual(name))


@pytest.mark.parametrize("name", RANDOM)
def test_members_have_randomness_of_their_own(name):
    """The same original twice, under two numbers, is unlearned in two ways."""
    task = fitting(name)
    stack = type(task.originals).stack
    twins = replace(task, originals=stack([task.originals.member(0)] * 2), early=stack([task.early.member(0)] * 2))
    twins = replace(twins, members=range(2))
    first, second = unlearn(name, replace(twins, targets=task.targets[[0, 0]])).logits
    assert not torch.equal(first, second)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("name", METHODS)
def test_a_member_does_not_depend_on_the_chunk_it_is_unlearned_in(name, network):
    """But for rounding, which Adam would make as large as its steps wherever a gradient is nothing else."""
    settings = configured(name)
    if settings.get("optimizer", {}).get("_target_") == "torch.optim.Adam":
        settings["optimizer"] = {**settings["optimizer"], "eps": 1e-2}
    task = fitting(name, network)
    alone, together = (unlearn(**settings, name=name, task=some) for some in (chunk(task, 1, 2), task))
    for key, value in everything(alone).items():
        expected = everything(together)[key][1]
        torch.testing.assert_close(value[0], expected, atol=2e-4, rtol=2e-4, msg=lambda text, key=key: f"{key}: {text}")


# ---------------------------------------------------------------------- sizes and costs


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("forget", [1, 30])
@pytest.mark.parametrize("name", METHODS)
def test_forget_sets_may_be_small_or_large(name, forget, network):
    result = usual(name, network, forget)
    assert all(torch.isfinite(value).all() for value in everything(result).values())
    if name in MOVED:
        assert (movement(result, fitting(name, network, forget)) > 0).all()


def ascents(c, f, r):
    """Return the forget points that SFR-on sees: a batch before every few batches of the retain set."""
    return c["epochs"] * -(-r // (c["forget_every"] * c["batch_size"])) * min(f, c["forget_batch_size"])


def hits(shards, f):
    """Return how many of the first rows of a hundred each shard holds."""
    order = torch.randperm(100, generator=member_generator(0, "shard", 0, "subset"))
    return [int((part < f).sum()) for part in order.view(shards, -1)]


BY_HAND = {
    "do_nothing": lambda c, f, r: 0,
    "dm_direct": lambda c, f, r: 0,
    "retrain": lambda c, f, r: 4 * r,
    "rewind": lambda c, f, r: (4 - c["rewind_to"]) * r,
    "sisa": lambda c, f, r: 4 * sum(25 - hit for hit in hits(c["shards"], f) if hit),
    "function": lambda c, f, r: r,
    "ssd": lambda c, f, r: f + r,
    "influence": lambda c, f, r: f + c["iterations"] * 2 * c["curvature_sample"],
    "gradient_ascent": lambda c, f, r: c["epochs"] * f,
    **dict.fromkeys(("finetune", "l1_sparse", "cf_k", "eu_k", "ct"), lambda c, f, r: c["epochs"] * r),
    "sfron": lambda c, f, r: f + r + ascents(c, f, r) + c["epochs"] * r,
    "boundary_shrink": lambda c, f, r: f + round(f / 3) + c["epochs"] * f,
    "jit": lambda c, f, r: c["epochs"] * (c["neighbours"] + 1) * f,
    "negmerge": lambda c, f, r: len(c["rates"]) * c["epochs"] * f,
    "unsir": lambda c, f, r: (
        (c["noise_steps"] + c["impair_epochs"] * c["repeats"]) * c["noise_size"]
        + c["epochs"] * round(c["retain_fraction"] * r)
    ),
    "noisy_finetune": lambda c, f, r: c["noisy_steps"] * min(c["batch_size"], r) + c["epochs"] * r,
    "msg": lambda c, f, r: min(f, r) + f + c["epochs"] * r,
    "neggrad_plus": lambda c, f, r: c["epochs"] * 2 * r,
    "ascent_descent": lambda c, f, r: min(c["ascent_epochs"], c["epochs"]) * f + c["epochs"] * r,
    "scrub": lambda c, f, r: min(c["ascent_epochs"], c["epochs"]) * f + c["epochs"] * r + round((f + r) / 3),
    "bad_teacher": lambda c, f, r: c["epochs"] * (f + round(c["retain_fraction"] * r)) + round((f + r) / 3),
    "random_label": lambda c, f, r: c["epochs"] * (f + r),
    "salun": lambda c, f, r: f + c["epochs"] * (f + r),
    **dict.fromkeys(
        ("dmm", "oracle_matching"),
        lambda c, f, r: c["epochs"] * (c["forget_multiplier"] * f + min(r, round(c["retain_multiplier"] * f))),
    ),
}
COSTLY = {
    "ascent_descent": {"epochs": 3, "ascent_epochs": 1},
    "scrub": {"epochs": 3, "ascent_epochs": 2},
    "sfron": {"forget_every": 2},
}


@pytest.mark.parametrize("forget", [1, 20])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "amun"])  # as long as it looks
def test_cost_is_what_counting_by_hand_gives(name, forget):
    settings = COSTLY.get(name, {})
    task = fitting(name, "mlp", forget)
    expected = BY_HAND[name](configured(name, **settings), forget, TRAINING_SET - forget)
    assert unlearn(name, task, **settings).sample_gradients == expected


@pytest.mark.parametrize("name", FINE_TUNING)
def test_history_has_a_finite_loss_for_every_epoch(name):
    history = usual(name).history
    assert len(history) == 2
    assert torch.isfinite(torch.tensor(history)).all()


@pytest.mark.parametrize("name", UNTRAINED)
def test_methods_without_epochs_have_no_checkpoints(name):
    method = make(name)
    assert (method.epochs, list(method.checkpoints), method.nests) == (0, [], False)


@pytest.mark.parametrize("name", ["dmm", "oracle_matching", "dm_direct"])
def test_a_method_that_matches_says_when_there_is_nothing_to_match(name):
    with pytest.raises(TypeError, match="needs targets"):
        unlearn(name, replace(fitting(name), targets=None))
