"""What methods with wrong labels and with teachers do: every method has a test that doing nothing fails."""

import pytest
import torch
from scipy.stats import chisquare
from tiny_tasks import (
    METHODS,
    apart,
    digits,
    full,
    instantiate,
    loss,
    movement,
    originals,
    ready,
    same,
    sgd,
    task,
    tiny,
    unlearn,
)
from torch.nn import functional

from dmm_exp.errors import UserError
from dmm_exp.unlearners.distillation import divergence

# ---------------------------------------------------------------------- random labels and SalUn


def drawn(name, epoch):
    """Return the labels of the forget set that an epoch teaches, ``[members, forget]``, and those of the retain set."""
    rows = torch.cat(list(ready(name, task()).batches(epoch)), dim=1)
    ordered = rows.gather(1, rows[..., 0].argsort(1)[..., None].expand_as(rows))
    points, labels = ordered.unbind(-1)
    assert torch.equal(points, torch.arange(task().examples.n_train).expand(3, -1))
    return labels[:, task().forget], labels[:, task().retain]


@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_wrong_labels_are_wrong_and_right_ones_right(name):
    wrong, right = drawn(name, 0)
    assert (wrong != digits().labels[task().forget]).all()
    assert ((wrong >= 0) & (wrong < 10)).all()
    assert (right == digits().labels[task().retain]).all()


@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_wrong_labels_are_drawn_anew_for_every_member_and_epoch(name):
    labels = [tuple(row.tolist()) for epoch in range(3) for row in drawn(name, epoch)[0]]
    assert len(set(labels)) == 9


def test_wrong_labels_are_uniform_over_the_other_classes():
    method, forget = instantiate(METHODS["random_label"]), task().forget
    counts = torch.zeros(10)
    for seed in range(200):
        rows = method.sample(task(), torch.Generator().manual_seed(seed))
        chosen = rows[torch.isin(rows[:, 0], forget)]
        counts += ((chosen[:, 1] - digits().labels[chosen[:, 0]]) % 10).bincount(minlength=10)
    assert counts[0] == 0
    assert counts.sum() == 200 * len(forget)
    assert chisquare(counts[1:].numpy()).pvalue > 0.001


@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_random_labels_raise_the_loss_on_the_forget_set_and_not_on_the_retain_set(name):
    settings = {"epochs": 3, "optimizer": sgd(lr=0.1, momentum=0.9)}
    before, after = originals(task()), full(name, task(), **settings).logits
    assert loss(after, task().forget) > 2 * loss(before, task().forget)
    assert loss(after, task().retain) < 1.5 * loss(before, task().retain)


def saliency(task, row):
    """Return the absolute gradient of the forget set's cross-entropy of one member, flat, by plain autograd."""
    model, examples = task.originals.member(row).eval(), task.examples
    functional.cross_entropy(model(examples.inputs[task.forget]), examples.labels[task.forget]).backward()
    return {name: value.grad.abs() for name, value in model.named_parameters()}


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("fraction", [0.2, 0.5])
@pytest.mark.parametrize(
    "optimizer",
    [sgd(lr=0.05, momentum=0.9, weight_decay=0.1), {**sgd(lr=0.01, weight_decay=0.5), "_target_": "torch.optim.AdamW"}],
    ids=["SGD", "AdamW"],
)
def test_salun_changes_exactly_the_share_with_the_largest_gradients(optimizer, fraction, network):
    """Bit for bit the others stay, under momentum and weight decay too."""
    some = tiny(network)
    result = unlearn("salun", some, optimizer=optimizer, fraction=fraction, epochs=3)
    for row in range(3):
        expected = saliency(some, row)
        changed = {
            name: value[row] != some.originals.params[name][row] for name, value in result.ensemble.params.items()
        }
        importance = torch.cat([value.flatten() for value in expected.values()])
        free = torch.cat([changed[name].flatten() for name in expected])
        assert int(free.sum()) == round(fraction * free.numel())
        assert importance[free].min() >= importance[~free].max() * (1 - 1e-3)


def test_saluns_saliency_is_that_of_plain_autograd_whatever_the_batch():
    fit = ready("salun", task(), batch_size=7)
    found = fit.method.saliency(fit)
    for row in range(3):
        for name, value in saliency(task(), row).items():
            torch.testing.assert_close(found[name][row], value, atol=1e-6, rtol=1e-4)


def test_salun_with_all_weights_is_random_label():
    optimizer = sgd(momentum=0.9)
    of_all = unlearn("salun", tiny(), fraction=1.0, optimizer=optimizer)
    assert same(of_all, unlearn("random_label", tiny(), optimizer=optimizer))


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_share_of_weights_out_of_range_is_refused(fraction):
    with pytest.raises(UserError, match=r"unlearner\.fraction"):
        instantiate({**METHODS["salun"], "fraction": fraction})


# ---------------------------------------------------------------------- teachers


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_is_torchs_times_the_squared_temperature(temperature):
    teacher, student = torch.randn(2, 3, 5, 10, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none"
    )
    found = divergence(teacher, student, temperature)
    torch.testing.assert_close(found, temperature**2 * expected.sum(-1))
    assert found.shape == (3, 5)
    assert divergence(teacher, teacher, temperature).abs().max() < 1e-5


def test_scrub_moves_the_student_and_not_its_teacher():
    before, fit = originals(task()), ready("scrub", task(), epochs=2)
    result = fit.result()
    assert torch.equal(fit.kept["teacher"], before)
    assert torch.equal(originals(task()), before)
    assert (movement(result, task()) > 0.01).all()


def test_scrub_parts_from_the_original_on_the_forget_set_more_than_on_the_retain_set():
    before = originals(task())
    settings = {"epochs": 3, "forget_batch_size": 2, "beta": 0.001, "optimizer": sgd(lr=0.005, momentum=0.9)}
    parted, stayed = (full("scrub", task(), **settings, ascent_epochs=n).logits for n in (3, 0))
    assert (apart(before, parted, task().forget) > 5 * apart(before, stayed, task().forget)).all()
    assert (apart(before, parted, task().forget) > apart(before, parted, task().retain)).all()


def test_scrub_starts_where_its_ascent_has_no_slope():
    """Student and teacher are the same then: a first step of ascent moves nothing but rounding errors."""
    settings = {"epochs": 1, "ascent_epochs": 1, "gamma": 0.0, "beta": 0.0, "optimizer": sgd(lr=0.005, momentum=0.9)}
    result = full("scrub", task(), **settings)
    assert (movement(result, task()) < 1e-6).all()


def test_scrubs_loss_pushes_on_the_forget_set_and_pulls_on_the_retain_set():
    fit = ready("scrub", task(), gamma=0.7, beta=0.2, temperature=2.0)
    with torch.no_grad():
        for value in fit.ensemble.parameters():
            value.mul_(1.1)
    student, before = fit.ensemble.logits(task().examples.inputs), originals(task())
    forget, retain = task().forget.expand(3, -1), task().retain[:30].expand(3, -1)
    push = divergence(before[:, forget[0]], student[:, forget[0]], 2.0).mean(1)
    stay = divergence(before[:, retain[0]], student[:, retain[0]], 2.0).mean(1)
    entropy = torch.tensor([loss(student[row : row + 1], retain[0]) for row in range(3)])
    torch.testing.assert_close(fit.losses(forget), -push, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(fit.losses(retain), 0.7 * entropy + 0.2 * stay, atol=1e-4, rtol=1e-3)


def test_bad_teachers_are_untrained_on_the_forget_set_and_the_originals_on_the_retain_set():
    teacher, before, forget = ready("bad_teacher", task()).kept["teacher"], originals(task()), task().forget
    others = torch.tensor([point for point in range(task().examples.n_points) if point not in forget.tolist()])
    assert torch.equal(teacher[:, others], before[:, others])
    assert loss(before, forget) < 1
    assert loss(teacher, forget) > 2
    assert (teacher[0, forget] - teacher[1, forget]).abs().min() > 0


def test_bad_teaching_moves_the_forget_set_towards_the_untrained_network():
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001}
    settings = {"epochs": 10, "temperature": 1.0, "retain_fraction": 0.3, "optimizer": adam}
    fit = ready("bad_teacher", task(), **settings)
    before, after, teacher = originals(task()), fit.result().logits, fit.kept["teacher"]
    forget, retain = task().forget, task().retain
    assert (apart(teacher, after, forget) < 0.75 * apart(teacher, before, forget)).all()
    assert (apart(before, after, retain) < 0.05).all()
    assert loss(after, forget) > 1.4 * loss(before, forget)


def test_bad_teaching_loses_the_divergence_from_its_teachers():
    fit = ready("bad_teacher", task(), temperature=2.0)
    points = torch.stack([task().forget, task().retain[:20], task().retain[20:40]])
    before = originals(task())
    expected = [
        float(divergence(fit.kept["teacher"][row, own], before[row, own], 2.0).mean()) for row, own in enumerate(points)
    ]
    assert fit.losses(points).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert expected[0] > 1


def test_bad_teaching_sees_the_forget_set_and_a_fresh_share_of_the_retain_set():
    method, forget = ready("bad_teacher", task(), retain_fraction=0.1), set(task().forget.tolist())
    rows = [row.tolist() for epoch in (0, 1) for row in torch.cat(list(method.batches(epoch)), dim=1)]
    assert all(forget < set(row) and len(row) == len(set(row)) == 20 + round(0.1 * len(task().retain)) for row in rows)
    assert len({tuple(sorted(row)) for row in rows}) == 6


@pytest.mark.parametrize("name", ["scrub", "bad_teacher"])
def test_a_temperature_of_zero_is_refused(name):
    with pytest.raises(UserError, match=r"unlearner\.temperature"):
        instantiate({**METHODS[name], "temperature": 0.0})


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_share_of_the_retain_set_out_of_range_is_refused(fraction):
    with pytest.raises(UserError, match=r"unlearner\.retain_fraction"):
        instantiate({**METHODS["bad_teacher"], "retain_fraction": fraction})
