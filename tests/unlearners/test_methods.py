"""What the references, matching, ascent and descent do: every method has a test that doing nothing fails."""

from dataclasses import replace

import pytest
import torch
from tiny_tasks import (
    METHODS,
    adam,
    entropies,
    full,
    instantiate,
    loss,
    movement,
    originals,
    ready,
    same,
    sgd,
    task,
)

from dmm_exp.ensembles import AllBut, Ensemble
from dmm_exp.errors import UserError

# ---------------------------------------------------------------------- references


def test_doing_nothing_is_the_originals():
    assert torch.equal(full("do_nothing", task()).logits, originals(task()))


def test_retraining_never_sees_the_forget_set():
    labels = task().examples.labels.clone()
    labels[task().forget] = (labels[task().forget] + 1) % 10
    other = replace(task(), examples=replace(task().examples, labels=labels))
    assert same(full("retrain", other), full("retrain", task()))


def test_retraining_starts_anew():
    result = full("retrain", task())
    other = Ensemble.initialise(task().build, [1, 2, 3])
    assert same(full("retrain", replace(task(), originals=other)), result)
    assert not torch.allclose(result.logits, originals(task()), atol=0.1)


# ---------------------------------------------------------------------- matching


@pytest.mark.parametrize("name", ["dmm", "oracle_matching"])
def test_matching_takes_more_than_half_of_the_squared_distance_to_the_targets(name):
    forget, targets = task().forget, task().targets
    before = originals(task())[:, forget] - targets[:, forget]
    settings = {"epochs": 10, "forget_multiplier": 5, "optimizer": adam()}
    after = full(name, task(), **settings).logits[:, forget] - targets[:, forget]
    assert after.square().mean() < 0.5 * before.square().mean()


def test_each_member_matches_its_own_targets():
    result = full("dmm", task()).logits[:, task().forget]
    distance = (result[:, None] - task().targets[None, :, task().forget]).square().mean((2, 3))
    assert distance.argmin(1).tolist() == [0, 1, 2]


def test_matching_its_own_answers_leaves_a_model_unchanged():
    own = replace(task(), targets=originals(task()))
    result = full("oracle_matching", own, optimizer=sgd())
    torch.testing.assert_close(result.logits, own.targets, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weight", [None, 0.7])
def test_the_matching_loss_is_the_mean_squared_distance_of_logits_and_weighted_that_of_margins(weight):
    method = ready("dmm", task(), margin_weight=weight)
    points = torch.stack([task().forget, task().retain[:20], task().retain[20:40]])
    expected = []
    for row, own in enumerate(points):
        logits, targets, labels = originals(task())[row, own], task().targets[row, own], task().examples.labels[own]
        apart = [
            values[point, label] - torch.cat([values[point, :label], values[point, label + 1 :]]).logsumexp(0)
            for values in (logits, targets)
            for point, label in enumerate(labels.tolist())
        ]
        margins = torch.stack(apart).view(2, -1)
        squares = (margins[0] - margins[1]).square().mean()
        expected.append(float((logits - targets).square().mean() + (weight or 0) * squares))
    assert method.losses(points).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_a_negative_weight_of_margins_is_refused():
    with pytest.raises(UserError, match=r"unlearner\.margin_weight=-1\.0: expected null or a number of at least 0"):
        instantiate({**METHODS["dmm"], "margin_weight": -1.0})


def test_matching_draws_another_retain_sample_for_every_member_and_epoch():
    method, forget = ready("dmm", task(), retain_multiplier=10), set(task().forget.tolist())
    epochs = [torch.cat(list(method.batches(epoch)), dim=1) for epoch in (0, 1)]
    samples = [tuple(sorted(set(row.tolist()) - forget)) for rows in epochs for row in rows]
    assert len(set(samples)) == 6
    assert all(len(sample) == 200 for sample in samples)
    assert all(((rows == task().forget[0]).sum(1) == METHODS["dmm"]["forget_multiplier"]).all() for rows in epochs)


@pytest.mark.parametrize("setting", [{"forget_multiplier": 0}, {"retain_multiplier": -1}], ids=str)
def test_multipliers_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match="multiplier"):
        instantiate({**METHODS["dmm"], **setting})


def test_dm_direct_answers_the_targets_and_has_no_models():
    result = full("dm_direct", task())
    assert torch.equal(result.logits, task().targets)
    assert not torch.equal(result.logits, originals(task()))
    assert result.ensemble is None


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


# ---------------------------------------------------------------------- gradient ascent, fine-tuning, both in turn


def test_gradient_ascent_raises_the_loss_on_what_must_go():
    before = loss(originals(task()), task().forget)
    settings = {"epochs": 3, "optimizer": sgd(lr=0.06, momentum=0.9)}
    assert loss(full("gradient_ascent", task(), **settings).logits, task().forget) > 1.2 * before


def test_finetuning_lowers_the_loss_on_what_stays():
    before = loss(originals(task()), task().retain)
    settings = {"epochs": 3, "optimizer": sgd(lr=0.1, momentum=0.9)}
    assert loss(full("finetune", task(), **settings).logits, task().retain) < 0.9 * before


@pytest.mark.parametrize("name", ["finetune", "l1_sparse"])
def test_finetuning_goes_over_the_retain_set_and_never_sees_the_forget_set(name):
    rows = torch.cat(list(ready(name, task()).batches(0)), dim=1)
    assert torch.equal(rows.sort().values, task().retain.expand(3, -1))


def test_ascent_descent_climbs_on_the_forget_set_and_descends_on_the_retain_set():
    forget, retain = task().forget.expand(3, -1), task().retain[:30].expand(3, -1)
    up, down = (entropies(task(), points).mean(1) for points in (forget, retain))
    method = ready("ascent_descent", task())
    torch.testing.assert_close(method.losses(forget), -up, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(method.losses(retain), down, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(method.losses(torch.cat([forget, retain], 1)), down - up, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ascent_descent", "scrub"])
def test_only_the_first_epochs_begin_with_a_pass_of_ascent(name, monkeypatch):
    """Seen at work: for each epoch, whether its batches are of the forget set (F) or of the retain set (r)."""
    method, phases = instantiate({**METHODS[name], "epochs": 4, "ascent_epochs": 2, "forget_batch_size": 7}), {}
    losses = type(method).losses

    def remember(self, fit, indices):
        forgotten = torch.isin(indices, task().forget)
        assert forgotten.all() or not forgotten.any()
        phases[fit.current_epoch] = phases.get(fit.current_epoch, "") + ("F" if forgotten.all() else "r")
        return losses(self, fit, indices)

    monkeypatch.setattr(type(method), "losses", remember)
    method.unlearn(task())
    descent = "r" * -(-len(task().retain) // 64)
    assert phases == {0: "FFF" + descent, 1: "FFF" + descent, 2: descent, 3: descent}


def test_ascent_before_descent_leaves_a_higher_loss_on_the_forget_set():
    settings = {"epochs": 2, "optimizer": sgd(lr=0.02, momentum=0.9)}
    both, neither = (full("ascent_descent", task(), **settings, ascent_epochs=n).logits for n in (2, 0))
    assert loss(both, task().forget) > 1.2 * loss(neither, task().forget)


@pytest.mark.parametrize(("name", "settings"), [("ascent_descent", {}), ("scrub", {"gamma": 1.0, "beta": 0.0})])
def test_descent_alone_is_finetuning(name, settings):
    """On the whole retain set in every step, since the order of points is another."""
    shared = {"epochs": 3, "optimizer": sgd(lr=0.1, momentum=0.9), "batch_size": 5000}
    found, expected = full(name, task(), **shared, **settings, ascent_epochs=0), full("finetune", task(), **shared)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=1e-3)
    assert (movement(found, task()) > 0.01).all()


@pytest.mark.parametrize("setting", [{"ascent_epochs": -1}, {"forget_batch_size": 0}], ids=str)
@pytest.mark.parametrize("name", ["ascent_descent", "scrub"])
def test_ascent_out_of_range_is_refused(name, setting):
    with pytest.raises(UserError, match=r"ascent_epochs=.*forget_batch_size="):
        instantiate({**METHODS[name], **setting})


# ---------------------------------------------------------------------- L1-sparse


def test_l1_sparse_has_more_weights_near_zero_than_finetuning():
    settings = {"epochs": 3, "optimizer": METHODS["l1_sparse"]["optimizer"]}

    def near_zero(result):
        values = torch.cat([value.flatten(1) for value in result.ensemble.params.values()], dim=1)
        return (values.abs() < 1e-3).sum(1)

    sparse, dense = full("l1_sparse", task(), **settings, penalty=5e-3), full("finetune", task(), **settings)
    assert (near_zero(sparse) > 3 * near_zero(dense)).all()
    assert same(full("l1_sparse", task(), **settings, penalty=0.0), dense)


@pytest.mark.parametrize("done", [0.0, 0.5, 2.0, 3.5, 4.0])
def test_the_penalty_of_l1_sparse_fades_linearly_to_zero(done):
    points = task().retain[:30].expand(3, -1)
    sizes = sum(value.abs().flatten(1).sum(1) for value in task().originals.params.values())
    fit = ready("l1_sparse", task(), penalty=0.01, epochs=4)
    fit.elapsed = done
    expected = entropies(task(), points).mean(1) + 0.01 * (1 - done / 4) * sizes
    torch.testing.assert_close(fit.losses(points), expected, atol=1e-4, rtol=1e-4)


def test_the_penalty_of_l1_sparse_is_whole_at_the_first_step_and_nearly_gone_at_the_last(monkeypatch):
    method, shares = instantiate({**METHODS["l1_sparse"], "epochs": 2, "batch_size": 200}), []
    losses = type(method).losses
    monkeypatch.setattr(
        type(method),
        "losses",
        lambda self, fit, points: shares.append(1 - fit.progress() / 2) or losses(self, fit, points),
    )
    method.unlearn(task())
    steps = 2 * -(-len(task().retain) // 200)
    assert shares == pytest.approx([1 - step / steps for step in range(steps)])


# ---------------------------------------------------------------------- NegGrad+


def pairs(task):
    return torch.stack([task.retain[:20], task.forget], dim=1).expand(3, -1, -1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_neggrad_plus_weighs_the_retain_set_against_the_forget_set(alpha):
    retain, forget = (entropies(task(), points).mean(1) for points in pairs(task()).unbind(-1))
    found = ready("neggrad_plus", task(), alpha=alpha).losses(pairs(task()))
    torch.testing.assert_close(found, alpha * retain - (1 - alpha) * forget, atol=1e-5, rtol=1e-4)
    if alpha == 0:
        torch.testing.assert_close(found, -forget, atol=1e-5, rtol=1e-4)


def test_neggrad_plus_without_its_ascent_is_finetuning():
    settings = {"epochs": 2, "optimizer": METHODS["neggrad_plus"]["optimizer"]}
    first, second = full("neggrad_plus", task(), **settings, alpha=1.0), full("finetune", task(), **settings)
    torch.testing.assert_close(first.logits, second.logits, atol=1e-4, rtol=1e-4)
    assert (movement(first, task()) > 0.01).all()


def test_neggrad_plus_pairs_every_retain_point_once_and_cycles_the_forget_set():
    rows = torch.cat(list(ready("neggrad_plus", task()).batches(0)), dim=1)
    retain, forget = rows.unbind(-1)
    assert torch.equal(retain.sort().values, task().retain.expand(3, -1))
    times = torch.stack([(forget == point).sum(1) for point in task().forget])
    assert times.min() == len(task().retain) // 20
    assert times.max() <= len(task().retain) // 20 + 1
    assert (forget[:, :200].unique().numel()) == 20


def test_neggrad_plus_raises_the_loss_on_the_forget_set_while_it_descends():
    settings = {"epochs": 2, "optimizer": METHODS["neggrad_plus"]["optimizer"]}
    plain, ascending = (full("neggrad_plus", task(), **settings, alpha=a).logits for a in (1.0, 0.9))
    assert loss(ascending, task().forget) > 1.5 * loss(plain, task().forget)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_weight_out_of_range_is_refused(alpha):
    with pytest.raises(UserError, match=r"unlearner\.alpha"):
        instantiate({**METHODS["neggrad_plus"], "alpha": alpha})
