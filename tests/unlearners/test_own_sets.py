"""Members that each have a forget set of their own are unlearned together as they would be one at a time."""

from dataclasses import replace

import pytest
import torch
from tiny_tasks import METHODS, configured, everything, fitting, make, tiny

from dmm_exp.unlearners import UnlearningTask

OWN = [name for name in METHODS if make(name).own_sets]
FORGET, RETAIN = 6, 50
RETAIN_ALONE = [
    "finetune",
    "l1_sparse",
    "retrain",
    "rewind",
    "noisy_finetune",
    "cf_k",
    "eu_k",
    "ct",
]  # what these look at


def own_sets(name: str = "finetune", seed: int = 0) -> UnlearningTask:
    """Return three originals, each with six examples to forget and fifty to keep."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(100, generator=generator) for _ in range(3)])
    forget, retain = order[:, :FORGET].sort().values, order[:, FORGET : FORGET + RETAIN].sort().values
    return replace(fitting(name), forget=forget, retain=retain, members=[7, 3, 3])


def gently(name: str):
    """Return a method whose steps are not all rounding where a gradient is (Adam divides by its size)."""
    settings = configured(name)
    if settings.get("optimizer", {}).get("_target_") == "torch.optim.Adam":
        settings["optimizer"] = {**settings["optimizer"], "eps": 1e-2}
    return make(name, **settings)


@pytest.mark.parametrize("name", OWN)
def test_a_stack_of_members_with_sets_of_their_own_equals_each_member_alone(name):
    task = own_sets(name)
    together = gently(name).unlearn(task)
    for row in range(3):
        alone = gently(name).unlearn(task.alone(row))
        assert alone.sample_gradients == together.sample_gradients
        for key, value in everything(alone).items():
            expected = everything(together)[key][row]
            torch.testing.assert_close(value[0], expected, atol=2e-4, rtol=2e-4, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("do_nothing", "dm_direct")])
def test_what_a_member_has_to_forget_matters_to_this_member_alone(name):
    task = own_sets(name)
    others = replace(task, forget=task.forget.clone())
    others.forget[1] = task.retain[1, :FORGET]
    before, after = (gently(name).unlearn(each).logits for each in (task, others))
    assert torch.equal(before[1], after[1]) == (name in RETAIN_ALONE)
    assert torch.equal(before[[0, 2]], after[[0, 2]])


def test_the_task_of_one_member_has_the_sets_of_this_member():
    task = own_sets()
    assert torch.equal(task.of(1).forget, task.forget[1])
    assert torch.equal(task.alone(2).retain, task.retain[2])
    assert (task.n_forget, task.n_retain, task.n_train) == (FORGET, RETAIN, FORGET + RETAIN)
    assert task.alone(0).members == [7]
    assert tiny().of(1) is tiny()


def test_all_but_some_take_members_with_sets_of_their_own_together():
    assert sorted(set(METHODS) - set(OWN)) == ["amun", "function", "sisa", "ssd", "unsir"]
