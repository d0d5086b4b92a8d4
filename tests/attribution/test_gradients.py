"""Estimators from gradients: against the packages, explicit gradients, and models that tell the truth."""

import logging
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.func import functional_call, grad, vmap

from dmm_exp.attribution import Evidence, GradientEstimator, Gradients, SubsetModels, Trak, TrakFactored
from dmm_exp.attribution.factored import FactoredFeatures, Factors, factors_of
from dmm_exp.attribution.gradients import fitted_scale
from dmm_exp.attribution.trak import MARGIN, EveryLogit
from dmm_exp.attribution.work import FeatureExtraction, GradientJob, gradient_chunk
from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import instantiate
from dmm_exp.data import Digits, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining, RandomSubsets, member_seed
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.files.writing import checksum, write_json
from dmm_exp.store import Artifact, Draft
from dmm_exp.store.manifest import MANIFEST, sealed

CONF = Path(config_directory())
TRAINER = yaml.safe_load((CONF / "trainer" / "default.yaml").read_text()) | {"accelerator": "cpu"}
MLP = {"_target_": "dmm_exp.models.MLP", "hidden": [12]}
CNN = {"_target_": "dmm_exp.models.CNN", "channels": [4]}
LOGISTIC = {**MLP, "hidden": []}
NETWORKS = {"mlp": MLP, "cnn": CNN, "logistic": LOGISTIC}
FILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "attribution").glob("*.yaml"))}
METHODS = {name: config for name, config in FILES.items() if "checkpoints" in config}
SMALL = {"checkpoints": 2, "proj_dim": 36, "block_size": 100}
SMALLER = {"trak": {"damping": 0.1}}
N_TRAIN, POINTS = 120, 150


def estimator_of(name, **settings):
    return instantiate({**METHODS[name], **SMALL, **SMALLER.get(name, {}), **settings})


@lru_cache
def examples():
    everything = Digits(Normalisation(16, [0.305], [0.376])).load()
    tensors = {name: getattr(everything, name)[:POINTS] for name in ("inputs", "labels", "corrupted")}
    return replace(everything, **tensors, n_train=N_TRAIN)


def trained(network, members, role, indices):
    build = model_factory(network, examples())
    ensemble = Ensemble.initialise(build, [member_seed(0, role, i, "initialisation") for i in members])
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    module = EnsembleTraining(subsets=indices, epochs=8, batch_size=16, optimizer=sgd, schedule=None)
    module.attach(ensemble, examples(), seed=0, role=role, members=members)
    module.fit(trainer_factory(TRAINER))
    return ensemble


@lru_cache
def originals(network="mlp"):
    return trained(NETWORKS[network], range(2), "original", AllBut(N_TRAIN, ()).indices(range(2)))


@lru_cache
def pool(network="mlp"):
    subsets = RandomSubsets(N_TRAIN, 0.5, 0, complementary=True)
    ensemble = trained(NETWORKS[network], range(60), "subset", subsets.indices(range(60)))
    return SubsetModels(subsets.masks(range(60)), ensemble.logits(examples().inputs), block=2)


def features(estimator, network="mlp"):
    module = FeatureExtraction(estimator, originals(network), examples(), range(2))
    return module.run(trainer_factory(TRAINER)(inference_mode=False))


def groups():
    values = torch.ones(POINTS, dtype=torch.long)
    values[:10], values[N_TRAIN:] = 0, 2
    return values


def evidence(estimator, network="mlp"):
    return Evidence(groups(), N_TRAIN, pool=pool(network)[:40], gradients=Gradients(**features(estimator, network)))


def package_scores(estimator, folder):
    """Return the scores ``[n_train, points · classes]`` of the package used as its documentation says."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    data, model = examples(), originals().member(0)
    size = sum(value.numel() for value in model.parameters())
    projector = BasicProjector(
        size, estimator.proj_dim, estimator.seed, ProjectionType.normal, "cpu", block_size=estimator.proj_dim
    )
    projector.free_memory = lambda: None  # in 0.3.2 a projector of one block cannot be used after finalize_features
    settings = {"proj_dim": None, "projector": projector, "use_half_precision": False, "device": "cpu"}
    traker = TRAKer(model, EveryLogit(), N_TRAIN, save_dir=folder, logging_level=logging.ERROR, **settings)
    states = [originals().member(row).state_dict() for row in range(2)]
    for row, state in enumerate(states):
        traker.load_checkpoint(state, model_id=row)
        outputs = torch.full((N_TRAIN,), MARGIN)
        traker.featurize((data.inputs[:N_TRAIN], data.labels[:N_TRAIN], outputs), num_samples=N_TRAIN)
    traker.finalize_features()
    inputs, labels = (values.repeat_interleave(10, 0) for values in (data.inputs, data.labels))
    for row, state in enumerate(states):
        traker.start_scoring_checkpoint("all", state, row, num_targets=POINTS * 10)
        traker.score((inputs, labels, torch.arange(10).repeat(POINTS)), num_samples=POINTS * 10)
    return torch.from_numpy(np.array(traker.finalize_scores("all")))


def test_trak_equals_its_package_used_directly(tmp_path):
    estimator = Trak(proj_dim=40, checkpoints=2, block_size=33)
    learned = estimator.learn(evidence(estimator))
    directions = torch.randn(5, N_TRAIN, generator=torch.Generator().manual_seed(0))
    directions -= directions.mean(1, keepdim=True)  # what all examples do alike is left out here, but not there
    expected = (directions @ package_scores(estimator, tmp_path)).view(5, POINTS, 10)
    found = learned.unscaled(directions)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


LAYERS = {
    "linear": (nn.Linear(5, 4), (5,)),
    "linear without bias, by position": (nn.Linear(5, 4, bias=False), (3, 5)),
    "convolution": (nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 7, 6)),
    "dilated convolution without bias": (nn.Conv2d(2, 3, (2, 3), padding="same", dilation=2, bias=False), (2, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_factored_features_equal_the_explicit_projection_of_explicit_gradients(name):
    layer, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, *shape, generator=generator)
    factors = Factors(layer, 12, generator)
    output = layer(inputs)
    weights = torch.randn(output.shape[1:], generator=generator)

    def loss(params, one):
        return (functional_call(layer, params, (one[None],))[0] * weights).square().sum()

    params = {name: value.detach() for name, value in layer.named_parameters()}
    parts = vmap(grad(loss), (None, 0))(params, inputs)
    explicit = [parts["weight"].flatten(2)] + ([parts["bias"][..., None]] if "bias" in parts else [])
    expected = torch.cat(explicit, dim=2).flatten(1) @ factors.matrix().T
    gradients = torch.autograd.grad((output * weights).square().sum(), output)[0]
    with torch.no_grad():
        torch.testing.assert_close(factors.project(inputs, gradients), expected, rtol=1e-4, atol=1e-4)


NORMALISATIONS = {
    "BatchNorm of images": (nn.BatchNorm2d(4), (4, 3, 5)),
    "BatchNorm": (nn.BatchNorm1d(4), (4,)),
    "LayerNorm by position": (nn.LayerNorm(5), (3, 5)),
    "LayerNorm without shifts": (nn.LayerNorm((3, 5), bias=False), (3, 5)),
    "GroupNorm": (nn.GroupNorm(2, 4), (4, 3, 3)),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_gradients_of_scales_and_shifts_are_projected_whole(name):
    layer, shape = NORMALISATIONS[name]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in layer.parameters():
            value.add_(torch.randn(value.shape, generator=generator))
        layer.train()(3 * torch.randn(50, *shape, generator=generator) + 1)  # statistics of its own
    layer.eval()
    inputs = torch.randn(6, *shape, generator=generator)
    factors = factors_of(layer, 12, generator)
    output = layer(inputs)

    def loss(params, one):
        return functional_call(layer, params, (one[None],))[0].pow(3).sum()

    parts = vmap(grad(loss), (None, 0))({name: value.detach() for name, value in layer.named_parameters()}, inputs)
    expected = torch.cat([part.flatten(1) for part in parts.values()], dim=1) @ factors.matrix().T
    gradients = torch.autograd.grad(output.pow(3).sum(), output)[0]
    with torch.no_grad():
        torch.testing.assert_close(factors.project(inputs, gradients), expected, rtol=1e-4, atol=1e-3)


def test_factored_features_of_a_network_sum_its_layers():
    maker = FactoredFeatures(originals("cnn").member(0), examples(), 24, seed=3)
    points, model = torch.arange(7), originals("cnn").member(0)
    params = {name: value.detach() for name, value in model.named_parameters()}

    def logit(params, one):
        return functional_call(model, params, (one[None],))[0, 3]

    parts, expected = vmap(grad(logit), (None, 0))(params, examples().inputs[points]), 0
    for (name, layer), factors in zip(
        [(n, m) for n, m in model.named_modules() if m._parameters], maker.factors.values(), strict=True
    ):
        whole = torch.cat([parts[f"{name}.weight"].flatten(2), parts[f"{name}.bias"][..., None]], dim=2)
        assert whole.shape[1] == layer.weight.shape[0]
        expected = expected + whole.flatten(1) @ factors.matrix().T
    torch.testing.assert_close(maker.targets(points)[:, 3], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["trak", "trak_factored"])
def test_the_size_of_blocks_changes_nothing(name):
    whole, cut = (features(estimator_of(name, block_size=size)) for size in (1000, 37))
    for key, values in whole.items():
        torch.testing.assert_close(cut[key], values, rtol=1e-3, atol=1e-5 * float(values.abs().max()))


def finished(folder):
    """Return a folder of the making as an artifact."""
    files = {path.name: checksum(path) for path in folder.iterdir()}
    facts = {"kind": "by_hand", "format": 1, "config": {}, "inputs": {}, "files": files}
    facts |= {"seconds": {"wall": 0.0, "cpu": 0.0}, "dmm_exp": "0", "device": "cpu"}
    write_json(folder / MANIFEST, sealed(facts))
    return Artifact(folder, folder.name, cached=True)


def test_the_number_of_workers_and_their_order_change_nothing(tmp_path):
    folders = {name: tmp_path / name for name in ("dataset", "originals", "one", "two")}
    for folder in folders.values():
        folder.mkdir()
    examples().write(Draft(folders["dataset"]))
    Draft(folders["originals"]).write_shard(0, originals().tensors(), {})
    dataset, models = finished(folders["dataset"]), finished(folders["originals"])
    settings = {**METHODS["trak_factored"], **SMALL}
    job = GradientJob(
        estimator=settings, examples=dataset.path, originals=models.path, model=MLP, trainer=TRAINER,
        output=folders["one"], stop=2,
    )  # fmt: skip
    gradient_chunk(job)
    for row in (1, 0):
        gradient_chunk(replace(job, output=folders["two"], shard=row, start=row, stop=row + 1))
    together, apart = finished(folders["one"]), finished(folders["two"])
    for key in ("train", "weights", "targets"):
        assert torch.equal(together.stacked(key), apart.stacked(key))


class Given(GradientEstimator):
    """Takes features as they are."""

    def features(self, model, examples, number):
        raise NotImplementedError


def world_of_gradients(factor):
    """Return what is learnt where subset models answer ``factor`` times what the features predict."""
    generator = torch.Generator().manual_seed(0)
    train, targets = (torch.randn(2, *shape, 6, generator=generator) for shape in ((30,), (12, 3)))
    masks = RandomSubsets(30, 0.5, 0, True).masks(range(40))
    estimator = Given(checkpoints=2)
    gradients = Gradients(train, torch.ones(2, 30), targets)
    group = torch.tensor([0] * 4 + [1] * 6 + [2] * 2)
    blank = Evidence(group, 30, pool=SubsetModels(masks, torch.zeros(40, 12, 3)), gradients=gradients)
    logits = 5 + factor[group][:, None] * estimator.learn(blank).unscaled(masks.float())
    return estimator.learn(replace(blank, pool=SubsetModels(masks, logits)))


def test_calibration_recovers_the_factor_of_every_group():
    learned = world_of_gradients(torch.tensor([0.5, 3.0, 20.0]))
    assert [learned.factor[group] for group in range(3)] == pytest.approx([0.5, 3.0, 20.0], rel=1e-3)
    assert learned.facts()["factor"].keys() == {"0", "1", "2"}


def test_calibration_never_flips_the_sign():
    learned = world_of_gradients(torch.tensor([-1.0, 1.0, -4.0]))
    assert learned.effect(torch.arange(4)).mean[:4].abs().max() == 0
    assert learned.factor[0] == learned.factor[2] == 0
    assert learned.factor[1] == pytest.approx(1, rel=1e-3)


def test_a_prediction_of_nothing_has_no_scale():
    assert fitted_scale(torch.zeros(3), torch.ones(3)) == 0


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_finite_effect_on_every_logit(name, network):
    estimator = estimator_of(name)
    assert isinstance(estimator, GradientEstimator)
    estimator.check(originals(network).member(0))
    learned = estimator.learn(evidence(estimator, network))
    effect = learned.effect(torch.arange(10))
    assert effect.mean.shape == effect.standard_error.shape == (POINTS, 10)
    assert effect.mean.isfinite().all()
    assert learned.unscaled(torch.eye(N_TRAIN)[:10]).abs().min(0).values.max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_predicts_subset_models_that_it_has_not_seen(name):
    """In a convex problem, where little else than the training set tells models apart."""
    damped = {"damping": 1.0} if "damping" in METHODS[name] else {}
    estimator = estimator_of(name, **{**damped, "proj_dim": 256})
    learned = estimator.learn(evidence(estimator, "logistic"))
    unseen = SubsetModels(pool("logistic").masks[40:], pool("logistic").logits[40:])
    masks = unseen.masks.float()
    predicted, actual = learned.predict(masks - masks.mean(0)), unseen.logits - unseen.logits.mean(0)
    correlation = torch.corrcoef(torch.stack([predicted.flatten(), actual.flatten()]))[0, 1]
    assert correlation > 0.2


def test_a_layer_that_cannot_be_factored_is_named():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(UserError, match=r"layer '1' \(BatchNorm2d.*attribution=trak"):
        TrakFactored().check(model)
    with pytest.raises(UserError, match="neither linear nor an ordinary"):
        TrakFactored().check(nn.Conv2d(4, 4, 3, groups=2))
    TrakFactored().check(model_factory({**CNN, "batch_norm": True}, examples())())


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("trak", {"proj_dim": 0}, r"attribution\.proj_dim=0: expected a whole number of at least 1"),
        ("trak", {"damping": -1.0}, r"attribution\.damping=-1\.0: expected a number of at least 0"),
        ("trak_factored", {"checkpoints": 0}, r"attribution\.checkpoints=0"),
        ("trak_factored", {"calibration_members": 1}, r"attribution\.calibration_members=1: .* at least 2"),
        ("trak", {"block_size": 0}, r"attribution\.block_size=0"),
        ("trak_factored", {"seed": -1}, r"attribution\.seed=-1"),
    ],
)
def test_bad_numbers_are_named(name, setting, message):
    with pytest.raises(UserError, match=message):
        instantiate({**METHODS[name], **setting})
