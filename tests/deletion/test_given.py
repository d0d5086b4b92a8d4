"""What a person hands over is checked, and is not changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS, Pairs, Tied, batch_normed, blobs, cnn, dropping, frozen, mlp, scaled, trained
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dmm_exp.data import Examples, Normalisation, Rows
from dmm_exp.deletion.given import given
from dmm_exp.deletion.rows import forget_rows
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised

WIDTH, CLASSES, ROWS = 4, 3, 24
DATA = blobs(ROWS, WIDTH, CLASSES)


def known(model: Any = None, train: Any = DATA, **more: Any) -> Any:
    return given(nn.Linear(WIDTH, CLASSES) if model is None else model, train, **more)


def rows_of(indices: list[int]) -> Rows:
    return Rows(torch.tensor(indices), ROWS)


def refused(call: Callable[[], object]) -> str:
    """Return the one sentence with which something is refused."""
    with pytest.raises(UserError) as error:
        call()
    said = str(error.value)
    assert len(said.splitlines()) == 1
    return said


def examples_like(data: Any) -> Examples:
    return given(nn.Linear(WIDTH, CLASSES), data).examples


# ---------------------------------------------------------------------- networks


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_network_comes_back_as_it_was(make, dtype):
    network = make(WIDTH, CLASSES).to(dtype).train()
    first = next(value for value in network.parameters() if value.requires_grad)
    first.grad = torch.ones_like(first)
    if dtype == torch.float32 or make.__name__ == "casting":
        found = known(network)
    else:  # inputs reach the network as float32 on its way through
        found = known(network, (DATA[0].to(dtype), DATA[1]))
    back = found.restore(found.ensemble.member(0))
    assert type(back) is type(network)
    assert [module.training for module in back.modules()] == [module.training for module in network.modules()]
    for name, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
        assert back.state_dict()[name].dtype == value.dtype
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in network.parameters()]
    assert torch.equal(first.grad, torch.ones_like(first))


def test_tied_weights_stay_tied():
    found = known(Tied(WIDTH, CLASSES))
    member = found.ensemble.member(0).network
    assert member.second.weight is member.first.weight
    back = found.restore(found.ensemble.member(0))
    assert back.second.weight is back.first.weight
    assert len(found.ensemble.params) == 5


def test_frozen_weights_are_nothing_to_train_and_survive_a_new_initialisation():
    network = frozen(WIDTH, CLASSES)
    found = known(network)
    assert sorted(found.ensemble.params) == ["network.3.bias", "network.3.weight"]
    fresh = found.build().network
    assert torch.equal(fresh[1].weight, network[1].weight)
    assert not torch.equal(fresh[3].weight, network[3].weight)


def test_a_network_that_is_frozen_as_a_whole_is_trained_as_a_whole():
    network = mlp(WIDTH, CLASSES).requires_grad_(False)
    found = known(network)
    assert len(found.ensemble.params) == 4
    assert not any(value.requires_grad for value in found.restore(found.ensemble.member(0)).parameters())


def test_a_fresh_network_is_another_one_every_time_and_of_the_same_architecture():
    found = known(batch_normed(WIDTH, CLASSES))
    one, other = found.build(), found.build()
    assert not torch.equal(one.network[1].weight, other.network[1].weight)
    assert torch.equal(found.probe(), found.probe())
    again = known(batch_normed(WIDTH, CLASSES))
    assert again.network == found.network
    assert torch.equal(again.probe(), found.probe())


def test_attention_can_be_initialised_anew():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=True)
    network = nn.Sequential(nn.Unflatten(1, (1, WIDTH)), layer, nn.Flatten(), nn.Linear(WIDTH, CLASSES))
    fresh = known(network).build().network
    assert not torch.equal(fresh[1].self_attn.in_proj_weight, layer.self_attn.in_proj_weight)


def test_what_cannot_be_initialised_anew_takes_a_factory():
    assert "'2'" in refused(known(scaled(WIDTH, CLASSES)).build)
    fresh = known(scaled(WIDTH, CLASSES), factory=lambda: scaled(WIDTH, CLASSES)).build()
    assert isinstance(fresh.network, nn.Sequential)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (nn.Linear(WIDTH, CLASSES), "factory is a Linear"),
        (3, "factory is a int"),
        (lambda: None, "factory returned a NoneType"),
        (lambda: 1 / 0, "factory raised ZeroDivisionError"),
        (lambda: nn.Linear(WIDTH + 1, CLASSES), "another network"),
        (lambda: mlp(WIDTH, CLASSES), "another network"),
    ],
)
def test_a_factory_that_makes_something_else_is_refused(factory, said):
    assert said in refused(lambda: known(factory=factory))


class Answers(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(WIDTH, CLASSES), answer

    def forward(self, inputs: Tensor) -> Any:
        return self.answer(self.layer(inputs))


class Stubborn(nn.Linear):
    def __deepcopy__(self, _: Any) -> Any:
        raise RuntimeError("this layer\ncannot be copied")


def with_value(value: float) -> nn.Module:
    network = nn.Linear(WIDTH, CLASSES)
    nn.init.constant_(network.bias, value)
    return network


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (3, "model is a int"),
        (nn.Linear, "model is a type"),
        (nn.ReLU(), "has no parameters"),
        ("no_such_file.pt", "factory="),
        (nn.LazyLinear(CLASSES), "'weight' holds no numbers yet"),
        (nn.Linear(WIDTH, CLASSES, device="meta"), "'weight' holds no numbers yet"),
        (nn.Linear(WIDTH, CLASSES, dtype=torch.complex64), "'weight' is complex64"),
        (with_value(float("nan")), "'bias' holds numbers that are NaN or infinite"),
        (with_value(float("inf")), "'bias' holds numbers that are NaN or infinite"),
        (Stubborn(WIDTH, CLASSES), "cannot be copied"),
        (nn.Linear(WIDTH + 1, CLASSES), f"cannot be applied to inputs [8, {WIDTH}]"),
        (nn.Linear(WIDTH, 1), "gives float32 [8, 1]"),
        (nn.Linear(WIDTH, 2), "labels go up to 2, the network gives 2 logits"),
        (nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.Softmax(1)), "gives probabilities"),
        (Answers(lambda logits: logits[:, None]), f"gives float32 [8, 1, {CLASSES}]"),
        (Answers(lambda logits: logits[:3]), f"gives float32 [3, {CLASSES}]"),
        (Answers(lambda logits: logits.argmax(1)), "gives int64 [8]"),
        (Answers(lambda logits: logits.long()), f"gives int64 [8, {CLASSES}]"),
        (Answers(lambda logits: (logits,)), "gives a tuple"),
        (Answers(lambda logits: None), "gives a NoneType"),
        (Answers(lambda logits: logits / 0), "not finite"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(model, said):
    assert said in refused(lambda: given(model, DATA))


class Counting(nn.Linear):
    """Answers otherwise from call to call."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs) * self.calls


class Wakeful(nn.BatchNorm1d):
    """Never leaves training mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(True)


def layered(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), *layers, nn.Linear(8, CLASSES))


def always_dropping(inputs: Tensor) -> Tensor:
    return nn.functional.dropout(inputs, 0.1)


@pytest.mark.parametrize(
    "model",
    [
        Answers(always_dropping),
        Answers(lambda logits: logits + 0.01 * torch.randn(logits.shape)),
        Answers(lambda logits: logits * float(np.random.rand())),
        Answers(lambda logits: logits[:, torch.randperm(CLASSES)]),
        Answers(lambda logits: nn.functional.rrelu(logits, training=True)),
        Counting(WIDTH, CLASSES),
    ],
)
def test_answers_that_differ_from_call_to_call_are_refused(model):
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    assert "differently in two calls, although it is in eval mode" in refused(lambda: given(model, DATA))
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    "model",
    [
        layered(nn.BatchNorm1d(8, track_running_stats=False)),
        layered(Wakeful(8)),
        Answers(lambda logits: logits - logits.mean(0)),
        Answers(lambda logits: logits / logits.norm()),
        Answers(lambda logits: logits.cumsum(0).flip(0)),
    ],
)
def test_answers_that_depend_on_the_batch_are_refused(model):
    assert "depends on the others in the batch" in refused(lambda: given(model, DATA))


@pytest.mark.parametrize(
    "model",
    [
        layered(nn.BatchNorm1d(8), nn.Dropout(0.5)),
        layered(nn.LayerNorm(8), nn.GELU()),
        layered(nn.GroupNorm(2, 8)),
        layered(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2), nn.Flatten()),
        Answers(lambda logits: logits.bfloat16().float()),
    ],
)
def test_a_network_that_answers_each_example_for_itself_is_accepted(model):
    given(model, DATA)


def test_one_or_two_rows_are_enough_to_ask():
    for rows in (1, 2, 3):
        given(nn.Linear(WIDTH, CLASSES), (DATA[0][:rows], DATA[1][:rows]))


def test_being_asked_leaves_nothing_behind():
    class Marked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(WIDTH, CLASSES)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(inputs)

    model = Marked()
    found = given(model, DATA)
    assert float(model.calls) == float(found.ensemble.stats["network.calls"]) == 0


# ---------------------------------------------------------------------- data


def test_every_kind_of_data_is_the_same_data():
    inputs, labels = DATA
    kinds = [
        [inputs, labels],
        (inputs.numpy(), labels.numpy()),
        (inputs.double(), labels.int()),
        (inputs.tolist(), labels.tolist()),
        (inputs, labels.to(torch.uint8)),
        TensorDataset(inputs, labels),
        Pairs(inputs, labels),
    ]
    for kind in kinds:
        found = examples_like(kind)
        assert torch.equal(found.inputs, inputs)
        assert torch.equal(found.labels, labels)
        assert (found.n_train, found.n_classes, found.inputs.dtype) == (ROWS, CLASSES, torch.float32)


def test_arrays_that_cannot_be_written_to_are_read():
    inputs = DATA[0].numpy().copy()
    inputs.setflags(write=False)
    assert torch.equal(examples_like((inputs, DATA[1])).inputs, DATA[0])


def test_images_stay_as_they_are_and_reach_the_network_as_numbers():
    images, labels = torch.arange(ROWS * 36).view(ROWS, 1, 6, 6).to(torch.uint8), DATA[1]
    network = cnn(CLASSES)
    found = given(network, (images, labels))
    assert found.examples.inputs.dtype == torch.uint8
    assert torch.allclose(found.ensemble.logits(images)[0], network(images.float()), atol=1e-4)


def test_unseen_points_follow_training_points():
    found = known(validation=blobs(5, WIDTH, CLASSES, seed=3)).examples
    assert (found.n_train, found.n_points) == (ROWS, ROWS + 5)


def test_a_function_that_trains_gets_inputs_as_the_network_does():
    inputs, labels = DATA
    rows, constants = torch.tensor([3, 1]), Normalisation(2.0, [0.5], [4.0])
    ours = Examples(inputs, labels, ROWS, list("abc"), constants, torch.zeros(ROWS, dtype=torch.bool))
    network = nn.Linear(WIDTH, CLASSES)
    found = given(network, ours)
    part = found.rows(rows)
    inner = found.ensemble.member(0).network(torch.stack([part[0][0], part[1][0]]))
    assert torch.allclose(inner, found.ensemble.logits(inputs[rows])[0], atol=1e-6)
    assert [int(part[i][1]) for i in range(2)] == labels[rows].tolist()
    own = known(train=Pairs(inputs, labels)).rows(rows)
    assert own[0][1] == int(labels[3])
    assert isinstance(own[0][1], int)


def test_what_a_dataset_draws_is_the_same_every_time():
    class Noisy(Pairs):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.inputs[index] + torch.randn(WIDTH), int(self.labels[index])

    network = nn.Linear(WIDTH, CLASSES)
    before = torch.get_rng_state()
    one, other = (given(network, Noisy(*DATA)).examples for _ in range(2))
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(before, torch.get_rng_state())


class Broken(Pairs):
    def __getitem__(self, index: int) -> Any:
        raise OSError("the disk\nis gone")


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (None, "train is a NoneType"),
        ("digits", "train is a str"),
        (DATA[0], "train is a Tensor"),
        ({"inputs": DATA[0]}, "train is a dict"),
        ((DATA[0],), "train is a tuple"),
        (TensorDataset(DATA[0]), "train is a tuple"),
        ((DATA[0][1:], DATA[1]), f"inputs [{ROWS - 1}, {WIDTH}] and labels [{ROWS}]"),
        ((DATA[0][:0], DATA[1][:0]), "at least one"),
        ((DATA[0][:, :0], DATA[1]), "at least one"),
        ((DATA[0][:, 0], DATA[1]), f"inputs [{ROWS}] and labels [{ROWS}]"),
        ((DATA[0], DATA[1][:, None]), f"labels [{ROWS}, 1]"),
        ((DATA[0], DATA[1].float()), "labels are float32"),
        ((DATA[0], DATA[1] - 1), "a label is -1"),
        ((DATA[0], DATA[1] + 1), "labels go up to 3"),
        ((DATA[0], DATA[1] + 2**50), "labels go up to 1125899906842626"),
        ((DATA[0], None), "train labels: cannot be made into a tensor"),
        ((DATA[0], ["a"] * ROWS), "train labels: cannot be made into a tensor"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "train inputs: cannot be made into a tensor"),
        ((DATA[0].to_sparse(), DATA[1]), "train inputs: cannot be made into a tensor"),
        ((DATA[0].to("meta"), DATA[1]), "train inputs: cannot be made into a tensor"),
        ((DATA[0].long(), DATA[1]), "a number of a word is -"),
        ((DATA[0].to(torch.int16), DATA[1]), "inputs are int16"),
        ((DATA[0] + 1j, DATA[1]), "inputs are complex64"),
        ((DATA[0] / 0, DATA[1]), "an input is NaN or infinite"),
        ((DATA[0].double() * 1e300, DATA[1]), "an input is NaN or infinite"),
        (TensorDataset(DATA[0], DATA[1] + 0.5), "labels are float32"),
        (Pairs(DATA[0][:-1], DATA[1]), "this dataset cannot be read (IndexError"),
        (Broken(*DATA), "this dataset cannot be read (OSError: the disk)"),
    ],
)
def test_data_that_do_not_fit_are_refused(train, said):
    assert said in refused(lambda: known(train=train))


def test_labels_of_a_dataset_must_be_whole():
    class Halves(Pairs):
        def __getitem__(self, index: int) -> Any:
            return self.inputs[index], float(self.labels[index]) + 0.5

    assert "labels being whole numbers" in refused(lambda: known(train=Halves(*DATA)))


def test_unseen_points_of_another_kind_are_refused():
    said = refused(lambda: known(validation=(torch.zeros(3, WIDTH + 1), torch.zeros(3, dtype=torch.long))))
    assert said == f"validation: its inputs are [{WIDTH + 1}] float32, those of train [{WIDTH}]" + " float32"


# ---------------------------------------------------------------------- rows


@pytest.mark.parametrize("kind", [list, tuple, set, torch.tensor, np.array, lambda rows: np.array(rows, np.uint8)])
def test_rows_of_every_kind_in_any_order_are_the_same_rows(kind):
    assert forget_rows(kind([7, 2, 5]), known().examples).tolist() == [2, 5, 7]


@pytest.mark.parametrize(
    ("forget", "said"),
    [
        ([], "is empty"),
        (torch.zeros(0, dtype=torch.long), "is empty"),
        ([0, ROWS], f"{ROWS} is out of range; expected indices from 0 to {ROWS - 1}"),
        ([-1], "-1 is out of range"),
        ([2**80], f"{2**80} is out of range"),
        (np.array([2**64 - 1], np.uint64), f"{2**64 - 1} is out of range"),
        ([3, 4, 3], "3 is listed more than once"),
        (range(ROWS), "is the whole training set"),
        (range(0, ROWS, CLASSES), "no example of class 0 would be left"),
        ([1.0, 2.0], "holds '1.0' (float)"),
        ([1, float("nan")], "holds 'nan' (float)"),
        (torch.tensor([1.5]).bfloat16(), "holds '1.5' (float)"),
        ([True] * ROWS, "is the whole training set"),
        (torch.zeros(ROWS, dtype=torch.bool), "is empty"),
        (torch.ones(ROWS + 1, dtype=torch.bool), f"is a mask of {ROWS + 1} rows"),
        (["1", "2"], "holds '1' (str)"),
        ("12", "forget=12: expected a file ending in"),
        (b"12", "forget is a bytes"),
        (5, "forget is a int"),
        (None, "forget is a NoneType"),
        ({1: 2}, "forget is a dict"),
        ([[1, 2], [3, 4]], "holds '[1, 2]' (list)"),
        (np.array([[1, 2], [3, 4]]), "forget has the shape [2, 2]"),
        ([[1], [2, 3]], "holds '[1]' (list)"),
        (torch.tensor(3), "forget has the shape []"),
        (torch.tensor([1]).to("meta"), "cannot be read as rows"),
        ([1, None], "holds 'None' (NoneType)"),
    ],
)
def test_rows_that_are_none_are_refused(forget, said):
    assert said in refused(lambda: forget_rows(forget, known().examples))


def test_a_class_may_vanish_if_that_is_meant():
    rows = range(0, ROWS, CLASSES)
    assert forget_rows(rows, known().examples, whole_classes=True).tolist() == list(rows)


def test_what_is_gone_cannot_go_again():
    assert "4 was deleted before" in refused(lambda: forget_rows([4, 5], known().examples, gone=rows_of([4])))


def test_a_class_may_not_vanish_over_several_requests():
    gone = rows_of(list(range(0, ROWS - CLASSES, CLASSES)))
    assert "no example of class 0" in refused(lambda: forget_rows([ROWS - CLASSES], known().examples, gone=gone))


def test_nothing_is_written_when_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    refused(lambda: known(train=(DATA[0], DATA[1] - 1)))
    refused(lambda: known(model=Path("missing.pt"), factory=lambda: nn.Linear(WIDTH, CLASSES)))
    assert os.listdir(tmp_path) == []


def test_dropout_and_normalisation_answer_as_in_eval_mode():
    for make in (dropping, batch_normed):
        network = trained(make(WIDTH, CLASSES), *DATA, steps=5)
        found = known(network.train())
        assert torch.allclose(found.ensemble.logits(DATA[0])[0], network.eval()(DATA[0]), atol=1e-6)
        assert isinstance(found.ensemble.member(0), Normalised)
