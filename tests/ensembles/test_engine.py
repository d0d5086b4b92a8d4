"""What the engine does between two steps: passes, progress, clipping, BatchNorm, precision, checkpoints."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from trainers import TRAINER

from dmm_exp.data import Augmentation, Digits, Examples, Normalisation
from dmm_exp.ensembles import Ensemble, EnsembleModule, EnsembleTraining, Optimisation, member_seed
from dmm_exp.ensembles.optimisation import clip_norms
from dmm_exp.ensembles.schedules import Constant
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.errors import UserError

SGD = partial(torch.optim.SGD, lr=0.1)
NETWORKS = {
    "mlp": {"_target_": "dmm_exp.models.MLP", "hidden": [12]},
    "cnn": {"_target_": "dmm_exp.models.CNN", "channels": [4], "batch_norm": True},
}
FLAT = {"_target_": f"{__name__}.Flat"}


@dataclass
class Remembering:
    """A schedule that remembers what it was asked."""

    asked: list[float] = field(default_factory=list)
    nests: ClassVar[bool] = True

    def __call__(self, epoch: float, epochs: int) -> float:
        self.asked.append(epoch)
        return 1 / (1 + epoch)


class Flat(torch.nn.Sequential):
    """BatchNorm over single numbers, which needs at least two examples."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, n_classes))


class Uneven(EnsembleModule):
    """Odd epochs have two passes of different batch sizes, even ones a single pass: 4 steps, then 3 + 4 steps."""

    def __init__(self, **options) -> None:
        super().__init__(Optimisation(**options))
        self.seen: list[Tensor] = []
        self.rates: list[float] = []

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        return 20 + torch.randperm(30, generator=generator)

    def passes(self, epoch: int, row: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        short = [(torch.randperm(7, generator=generator), 3)]
        return short * (epoch % 2) + [(self.sample(row, generator), self.batch_size)]

    def losses(self, indices: Tensor) -> Tensor:
        self.seen.append(indices)
        self.rates.append(float(self.trainer.optimizers[0].param_groups[0]["lr"]))
        return self.cross_entropy(indices)


STEPS = [4, 7, 4]


@pytest.fixture(scope="module")
def digits() -> Examples:
    return Digits(Normalisation(16, [0.305], [0.376])).load()


def fresh(network: str, digits: Examples, members: range) -> Ensemble:
    seeds = [member_seed(0, "original", index, "initialisation") for index in members]
    return Ensemble.initialise(model_factory({**NETWORKS, "flat": FLAT}[network], digits), seeds)


def fit(module: EnsembleModule, digits: Examples, *, network: str = "mlp", members: range = range(3), **trainer):
    """Return an ensemble that ``module`` has trained, and what it was before."""
    before, ensemble = (fresh(network, digits, members) for _ in range(2))
    module.attach(ensemble, digits, seed=0, role="original", members=members)
    module.fit(trainer_factory({**TRAINER, **trainer}))
    return ensemble, before


def uneven(**options) -> Uneven:
    return Uneven(**{"epochs": 3, "batch_size": 8, "optimizer": SGD, "schedule": Remembering(), **options})


def training(members: int = 3, kind: type[EnsembleTraining] = EnsembleTraining, **options) -> EnsembleTraining:
    subsets = torch.arange(60).expand(members, -1)
    return kind(subsets=subsets, **{"epochs": 2, "batch_size": 16, "optimizer": SGD, "schedule": None, **options})


def by_hand(module: EnsembleModule, before: Ensemble, digits: Examples, row: int, *, limit=None, schedule=None):
    """Train one member over the module's batches, in a plain loop; return its model."""
    model = before.member(row).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(module.epochs):
        batches = list(module.batches(epoch))
        for step, batch in enumerate(batches):
            if schedule is not None:
                optimizer.param_groups[0]["lr"] = 0.1 * schedule(epoch + step / len(batches), module.epochs)
            optimizer.zero_grad()
            functional.cross_entropy(model(digits.inputs[batch[row]]), digits.labels[batch[row]]).backward()
            if limit is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
    return model


def assert_equal(ensemble: Ensemble, row: int, model: torch.nn.Module) -> None:
    for name, value in model.named_parameters():
        torch.testing.assert_close(ensemble.params[name][row], value, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------- passes and progress


def test_a_schedule_is_asked_for_the_fraction_of_epochs_of_different_lengths(digits):
    module = uneven()
    fit(module, digits)
    expected = [epoch + step / steps for epoch, steps in enumerate(STEPS) for step in range(steps)]
    assert module.optimisation.schedule.asked == pytest.approx(expected)
    assert module.rates == pytest.approx([0.1 / (1 + epoch) for epoch in expected])


def test_progress_is_the_schedules(digits):
    module = uneven()
    fit(module, digits)
    assert [module.progress(step) for step in (0, 2, 4, 11, 13, 15, 99)] == pytest.approx([0, 0.5, 1, 2, 2.5, 3, 3])


def test_every_batch_is_seen_in_the_order_of_the_passes(digits):
    module = uneven()
    fit(module, digits)
    expected = [batch for epoch in range(3) for batch in module.batches(epoch)]
    assert [len(list(module.batches(epoch))) for epoch in range(3)] == STEPS
    assert len(module.seen) == len(expected)
    assert all(torch.equal(seen, batch) for seen, batch in zip(module.seen, expected, strict=True))
    assert module.sample_gradients == 30 + 37 + 30


def test_no_batch_holds_rows_of_two_passes_and_sizes_are_nearly_equal(digits):
    module = uneven()
    fit(module, digits)
    batches = list(module.batches(1))
    assert [batch.shape[1] for batch in batches] == [3, 2, 2, 8, 8, 7, 7]
    first, second = torch.cat(batches[:3], 1), torch.cat(batches[3:], 1)
    assert first.sort().values.tolist() == [list(range(7))] * 3
    assert second.sort().values.tolist() == [list(range(20, 50))] * 3


def test_members_and_epochs_have_orders_of_their_own(digits):
    module = uneven()
    fit(module, digits)
    orders = [tuple(row.tolist()) for epoch in (0, 2) for row in torch.cat(list(module.batches(epoch)), 1)]
    assert len(set(orders)) == 6


def test_rows_of_several_numbers_stay_together(digits):
    class Pairs(Uneven):
        def sample(self, row, generator):
            points = super().sample(row, generator)
            return torch.stack([points, points + 100], dim=1)

        def passes(self, epoch, row, generator):
            return [(self.sample(row, generator), self.batch_size)]

        def losses(self, indices):
            return super().losses(indices[..., 1])

    module = Pairs(epochs=1, batch_size=8, optimizer=SGD, schedule=Constant())
    fit(module, digits)
    batches = list(module.batches(0))
    assert [batch.shape for batch in batches] == [(3, 8, 2), (3, 8, 2), (3, 7, 2), (3, 7, 2)]
    assert all((batch[..., 1] == batch[..., 0] + 100).all() for batch in batches)
    assert all(torch.equal(seen, batch[..., 1]) for seen, batch in zip(module.seen, batches, strict=True))


def test_uneven_epochs_train_as_a_plain_loop_over_their_batches_does(digits):
    module = uneven()
    ensemble, before = fit(module, digits)
    for row in range(3):
        assert_equal(ensemble, row, by_hand(module, before, digits, row, schedule=Remembering()))


def test_history_is_the_mean_over_the_batches_of_an_epoch(digits):
    module = uneven(optimizer=partial(torch.optim.SGD, lr=0.0))
    _, before = fit(module, digits)
    for epoch, found in enumerate(module.history()):
        losses = [
            functional.cross_entropy(before(digits.inputs[batch])[row], digits.labels[batch[row]])
            for batch in module.batches(epoch)
            for row in range(3)
        ]
        assert found == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


# ---------------------------------------------------------------------- clipping


def gradients(module: EnsembleModule, digits: Examples, ensemble: Ensemble, batch: Tensor) -> None:
    module.attach(ensemble, digits, seed=0, role="original", members=range(len(ensemble)))
    module.losses(batch).sum().backward()


@pytest.mark.parametrize("network", NETWORKS)
def test_clipping_is_that_of_each_member_alone(network, digits):
    ensemble, batch = fresh(network, digits, range(4)), torch.arange(40).view(4, 10)
    norms = []
    for row in range(4):
        model = ensemble.member(row).train()
        functional.cross_entropy(model(digits.inputs[batch[row]]), digits.labels[batch[row]]).backward()
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))
    limit = sum(sorted(norms)[1:3]) / 2  # two members are longer, two are shorter
    module = training(4, clip_norm=limit)
    gradients(module, digits, ensemble, batch)
    clip_norms(ensemble.parameters(), limit)
    for row in range(4):
        model = ensemble.member(row).train()
        functional.cross_entropy(model(digits.inputs[batch[row]]), digits.labels[batch[row]]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        for name, value in model.named_parameters():
            torch.testing.assert_close(ensemble.params[name].grad[row], value.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "trainer"),
    [({"clip_norm": 0.5}, {}), ({}, {"gradient_clip_val": 0.5}), ({"clip_norm": 0.5}, {"gradient_clip_val": 9.0})],
    ids=["clip_norm", "gradient_clip_val", "both"],
)
def test_training_with_a_limit_equals_a_plain_loop_with_that_limit(options, trainer, digits):
    module = training(**options)
    ensemble, before = fit(module, digits, **trainer)
    unclipped, _ = fit(training(), digits)
    for row in range(3):
        assert_equal(ensemble, row, by_hand(module, before, digits, row, limit=0.5))
    assert not torch.allclose(ensemble.logits(digits.inputs[:9]), unclipped.logits(digits.inputs[:9]), atol=1e-2)


def test_a_limit_of_ones_own_holds_when_the_trainer_clips_values(digits):
    module = training(clip_norm=1e-6)
    ensemble, before = fit(module, digits, gradient_clip_val=9.0, gradient_clip_algorithm="value")
    moved = max(float((value - before.params[name]).abs().max()) for name, value in ensemble.params.items())
    assert 0 < moved < 1e-4


def test_a_schedule_reaches_its_end_when_gradients_are_accumulated(digits):
    module = training(schedule=(schedule := Remembering()))
    fit(module, digits, accumulate_grad_batches=2)
    assert schedule.asked[0] == 0
    assert schedule.asked == pytest.approx(
        [step / len(schedule.asked) * module.epochs for step in range(len(schedule.asked))]
    )


def test_a_module_that_is_attached_again_starts_anew(digits):
    module = training()
    first, _ = fit(module, digits)
    history, cost = module.history(), module.sample_gradients
    again, _ = fit(module, digits)
    assert (module.history(), module.sample_gradients) == (history, cost)
    assert all(torch.equal(value, again.params[name]) for name, value in first.params.items())


def test_a_batch_of_one_example_cannot_be_normalised_and_says_so(digits):
    module = EnsembleTraining(
        subsets=torch.zeros(1, 1, dtype=torch.long), epochs=1, batch_size=1, optimizer=SGD, schedule=None
    )
    with pytest.raises(UserError, match="batch_norm=frozen"):
        fit(module, digits, network="flat", members=range(1))


def test_a_clipped_member_does_not_depend_on_the_others(digits):
    together, _ = fit(training(3, clip_norm=0.3), digits)
    alone, _ = fit(training(1, clip_norm=0.3), digits, members=range(2, 3))
    for name, value in alone.params.items():
        torch.testing.assert_close(together.params[name][2], value[0], atol=1e-5, rtol=1e-4)


def test_a_limit_that_nothing_reaches_changes_nothing(digits):
    engine = {"members": "together"}  # fused steps without a limit add up in another order
    (limited, _), (free, _) = (fit(training(clip_norm=limit), digits, engine=engine) for limit in (1e6, None))
    assert all(torch.equal(value, free.params[name]) for name, value in limited.params.items())


def test_a_gradient_of_zero_stays_zero(digits):
    module, ensemble = training(1, clip_norm=0.1), fresh("mlp", digits, range(1))
    gradients(module, digits, ensemble, torch.arange(5)[None])
    for value in ensemble.parameters():
        value.grad.zero_()
    clip_norms(ensemble.parameters(), 0.1)
    assert all((value.grad == 0).all() for value in ensemble.parameters())


# ---------------------------------------------------------------------- BatchNorm and precision


@pytest.mark.parametrize("members", [1, 3])
def test_frozen_statistics_stay_bit_identical_and_free_ones_move(members, digits):
    frozen, before = fit(training(members, batch_norm="frozen"), digits, network="cnn", members=range(members))
    free, _ = fit(training(members), digits, network="cnn", members=range(members))
    for name, value in before.stats.items():
        assert torch.equal(frozen.stats[name], value), name
        assert not torch.equal(free.stats[name], value), name
    assert not torch.equal(frozen.logits(digits.inputs[:9]), before.logits(digits.inputs[:9]))


def test_frozen_batch_norm_normalises_with_the_running_statistics(digits):
    module = training(1, batch_norm="frozen", epochs=1)
    ensemble, before = fit(module, digits, network="cnn", members=range(1))
    model = before.member(0).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in module.batches(0):
        optimizer.zero_grad()
        functional.cross_entropy(model(digits.inputs[batch[0]]), digits.labels[batch[0]]).backward()
        optimizer.step()
    assert_equal(ensemble, 0, model)


@pytest.mark.parametrize("network", NETWORKS)
def test_bfloat16_agrees_roughly_with_float32(network, digits):
    results = {p: fit(training(precision=p), digits, network=network)[0] for p in ("32-true", "bf16-mixed", None)}
    exact, rough, trainers = (ensemble.logits(digits.inputs[:200]) for ensemble in results.values())
    assert torch.equal(exact, trainers)
    assert torch.isfinite(rough).all()
    assert not torch.equal(rough, exact)
    assert (rough - exact).square().mean().sqrt() < 0.1 * exact.std()
    assert all(value.dtype == torch.float32 for value in results["bf16-mixed"].params.values())


# ---------------------------------------------------------------------- epochs


@pytest.mark.parametrize(
    ("asked", "epochs", "checkpoints"),
    [(4, 4, []), (0, 0, []), ([3], 3, []), ([1, 3], 3, [1]), ([5, 1, 3, 1], 5, [1, 3])],
)
def test_several_numbers_of_epochs_are_the_largest_with_checkpoints_at_the_others(asked, epochs, checkpoints):
    module = training(epochs=asked)
    assert (module.epochs, module.optimisation.stops[:-1]) == (epochs, checkpoints)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"epochs": []}, r"epochs=\[\]"),
        ({"epochs": [0, 2]}, r"epochs=\[0, 2\]"),
        ({"epochs": -1}, "epochs=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"clip_norm": 0}, "clip_norm=0"),
        ({"clip_norm": -2.0}, r"clip_norm=-2\.0"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(setting, said):
    with pytest.raises(UserError, match=said):
        training(**setting)


# ---------------------------------------------------------------------- augmentation

MOVED = Augmentation(flip=True, crop_padding=1, cutout=2)


def augmented(members: range, augmentation: Augmentation = MOVED) -> tuple[Ensemble, EnsembleTraining]:
    data = Digits(Normalisation(16, [0.305], [0.376])).load()
    subsets = torch.arange(200).expand(len(members), -1)
    module = EnsembleTraining(
        subsets=subsets, epochs=2, batch_size=50, optimizer=SGD, schedule=Constant(), augmentation=augmentation
    )
    ensemble, _ = fit(module, data, members=members)
    return ensemble, module


def test_an_augmented_member_depends_on_its_seed_alone():
    together, alone = augmented(range(3))[0], augmented(range(2, 3))[0]
    for name, value in alone.params.items():
        torch.testing.assert_close(together.params[name][2], value[0], atol=1e-5, rtol=1e-4)


def test_augmentation_changes_what_is_learnt_and_no_augmentation_changes_nothing():
    plain, _ = augmented(range(2), Augmentation())
    moved, _ = augmented(range(2))
    assert not torch.allclose(plain.params["network.head.weight"], moved.params["network.head.weight"], atol=1e-3)
    data = Digits(Normalisation(16, [0.305], [0.376])).load()
    subsets = torch.arange(200).expand(2, -1)
    module = EnsembleTraining(subsets=subsets, epochs=2, batch_size=50, optimizer=SGD, schedule=Constant())
    without, _ = fit(module, data, members=range(2))
    assert all(torch.equal(value, plain.params[name]) for name, value in without.params.items())


def test_images_are_augmented_anew_in_every_step_and_filled_with_the_mean():
    _, module = augmented(range(2))
    indices = torch.arange(50).expand(2, -1)
    module.steps.fill_(3)
    third = module.see(indices)
    module.steps.fill_(4)
    assert not torch.equal(module.see(indices), third)
    blank = Augmentation(cutout=8)(module.inputs[indices], module.member_seeds, indices, 0, module.fill)
    assert (blank != module.inputs[indices]).any()
    assert (blank[blank != module.inputs[indices]] == round(0.305 * 16)).all()  # images are whole numbers


class Interrupted(EnsembleTraining):
    """Ctrl-C is pressed at the first step."""

    def losses(self, indices: Tensor) -> Tensor:
        raise KeyboardInterrupt


def test_ctrl_c_while_training_reaches_the_caller_and_the_next_one_will_too(digits):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(training(kind=Interrupted), digits)
    assert signal.getsignal(signal.SIGINT) == before
