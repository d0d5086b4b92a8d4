"""Probes: what they do to models, and that models which forgot for real do not remember."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_tasks import loss, originals, same, task

from dmm_exp.ensembles import member_seed
from dmm_exp.ensembles.schedules import Constant
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised
from dmm_exp.unlearners.probes import INT8_LEVELS, Perturbed, Quantized, Relearn


def relearn(shown: float = 0.0) -> Relearn:
    return Relearn(
        shown=shown, epochs=3, batch_size=32, optimizer=partial(torch.optim.SGD, lr=0.1), schedule=Constant()
    )


def test_relearning_fits_what_it_is_shown_and_keeps_no_models():
    result = relearn().unlearn(task())
    assert result.ensemble is None
    assert result.sample_gradients == 3 * task().n_retain
    assert loss(result.logits, task().retain) < loss(originals(task()), task().retain)


@pytest.mark.parametrize("shown", [-0.1, 1.0])
def test_not_all_forgotten_rows_can_be_shown(shown):
    with pytest.raises(UserError, match=f"shown={shown}: expected a share"):
        relearn(shown)


def test_noise_is_in_units_of_the_normalisation_and_averages_over_draws():
    probe, tasked = Perturbed(size=0.5, draws=3), task()
    network, inputs = tasked.originals.member(0), tasked.examples.inputs
    assert isinstance(network, Normalised)
    noise = [
        torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed)) * 0.5 / network.slope[0]
        for seed in seeds(probe)
    ]
    with torch.no_grad():
        wanted = sum(network(inputs.float() + one) for one in noise) / 3
    torch.testing.assert_close(probe.unlearn(tasked).logits[0], wanted)


def seeds(probe: Perturbed) -> list[int]:
    return [member_seed(probe.seed, "perturbed", draw, "noise") for draw in range(probe.draws)]


def test_little_noise_changes_little_and_much_noise_much():
    before = originals(task())
    changes = [
        float((Perturbed(size=size, draws=2).unlearn(task()).logits - before).abs().mean()) for size in (1e-4, 1)
    ]
    assert changes[0] < 0.01 < 0.5 < changes[1]


@pytest.mark.parametrize(("size", "draws"), [(0.0, 1), (-1.0, 1), (0.1, 0)])
def test_noise_without_size_or_draws_is_refused(size, draws):
    with pytest.raises(UserError, match="expected a size above 0, and at least 1 draw"):
        Perturbed(size=size, draws=draws)


def test_int8_has_at_most_255_levels_a_row_and_keeps_the_largest_weight():
    values = torch.randn(2, 3, 4000, generator=torch.Generator().manual_seed(0))
    rounded = Quantized(to="int8").rounded(values)
    scale = values.abs().amax(2, keepdim=True) / INT8_LEVELS
    assert ((rounded - values).abs() <= scale * 0.5001).all()
    assert all(len(row.unique()) <= 255 for row in rounded.flatten(0, 1))
    torch.testing.assert_close(rounded.abs().amax(2), values.abs().amax(2))
    vectors = torch.randn(2, 7)
    assert Quantized(to="int8").rounded(vectors) is vectors
    assert not Quantized(to="int8").rounded(torch.zeros(1, 2, 2)).any()


def test_int8_rounds_filters_by_their_outputs():
    values = torch.randn(2, 3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    by_row = Quantized(to="int8").rounded(values.flatten(2)).view_as(values)
    torch.testing.assert_close(Quantized(to="int8").rounded(values), by_row)


@pytest.mark.parametrize("to", ["int8", "bfloat16"])
def test_rounded_weights_change_answers_a_little_and_leave_the_originals_alone(to):
    before = originals(task()).clone()
    answers = Quantized(to=to).unlearn(task()).logits
    assert 0 < (answers - before).abs().max() < 0.2 * before.abs().max()
    assert torch.equal(originals(task()), before)


def test_another_type_is_refused():
    with pytest.raises(UserError, match="to=int4: expected int8 or bfloat16"):
        Quantized(to="int4")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("probe", [relearn(), Perturbed(size=0.3, draws=2), Quantized(to="int8")])
def test_a_probe_of_a_member_does_not_depend_on_the_others(probe):
    whole, alone = task(), task().alone(1)
    torch.testing.assert_close(probe.unlearn(alone).logits[0], probe.unlearn(whole).logits[1], rtol=1e-4, atol=1e-4)
    assert same(probe.unlearn(replace(whole)), probe.unlearn(whole))
