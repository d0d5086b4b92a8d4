"""Which tensors of a file become the network: all of one network and no others, or a sentence; never another result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Tied, batch_normed, blobs, mlp, trained
from safetensors.torch import save_file
from torch import Tensor, nn

from dmm_exp import Ledger, prepare, unlearn
from dmm_exp.errors import UserError
from dmm_exp.records.checkpoints import fill

WIDTH, CLASSES = 4, 3
Tensors = dict[str, Tensor]


def tensors_of(make: Callable[[int, int], nn.Module] = mlp, seed: int = 0) -> Tensors:
    torch.manual_seed(seed)
    return {name: value.clone() for name, value in make(WIDTH, CLASSES).state_dict().items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def written(folder: Path, content: Any, name: str = "a.pt") -> Path:
    (save_file if name.endswith("safetensors") else torch.save)(content, folder / name)
    return folder / name


def filled(path: Path, make: Callable[[int, int], nn.Module] = mlp, **more: Any) -> Tensors:
    torch.manual_seed(99)
    return dict(fill(make(WIDTH, CLASSES), path, **more).state_dict())


def refused(path: Path, make: Callable[[int, int], nn.Module] = mlp, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        filled(path, make, **more)
    said = str(error.value)
    assert len(said.splitlines()) == 1
    assert path.name in said
    return said


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


def no_bias(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8, bias=False), nn.ReLU(), nn.Linear(8, classes, bias=False))


# ---------------------------------------------------------------------- more of the network than it takes


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "model._orig_mod."])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_biases_that_the_network_does_not_have_are_refused(tmp_path, prefix, name):
    said = refused(written(tmp_path, under(prefix, tensors_of()), name), no_bias)
    assert "does not have" in said
    assert "1.bias'" in said
    assert "3.bias'" in said


@pytest.mark.parametrize(
    "more",
    [
        {"5.weight": torch.ones(2, 3)},
        {"1.lora_a": torch.ones(2, 3)},
        {"head.aux.weight": torch.ones(2, 3), "head.aux.bias": torch.ones(2)},
        {"2.running_mean": torch.ones(8), "2.running_var": torch.ones(8)},
        {"1.weight_scale": torch.ones(())},
        {"1.weight_mask": torch.ones(8, WIDTH)},
    ],
)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_every_further_tensor_of_the_network_is_refused_and_named(tmp_path, more, prefix):
    said = refused(written(tmp_path, under(prefix, tensors_of() | more)))
    assert f"'{prefix}{next(iter(more))}'" in said
    assert ("under 'net.'" in said) == bool(prefix)


def test_many_further_tensors_are_named_in_part(tmp_path):
    more = {f"{number}.weight": torch.ones(1) for number in range(10, 30)}
    assert "and 16 more" in refused(written(tmp_path, tensors_of() | more))


@pytest.mark.parametrize("beside", ["loss.weight", "metric.total", "criterion.class_weights", "n_averaged"])
def test_what_stands_beside_the_network_is_passed_over(tmp_path, beside):
    tensors = tensors_of()
    assert same(filled(written(tmp_path, under("model.", tensors) | {beside: torch.ones(3)})), tensors)


# ---------------------------------------------------------------------- several networks


PAIRS = {
    "teacher and student": ("teacher.", "student."),
    "net and ema": ("net.", "ema."),
    "online and target": ("online_network.", "target_network."),
    "one within the names of the other": ("", "ema."),
    "compiled": ("teacher._orig_mod.", "student.module."),
    "deeper": ("models.first.", "models.second."),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_of_two_networks_in_a_file_one_has_to_be_named(tmp_path, pair, name):
    one, other = tensors_of(seed=1), tensors_of(seed=2)
    first, second = PAIRS[pair]
    path = written(tmp_path, under(first, one) | under(second, other), name)
    first, second = first.replace("_orig_mod.", ""), second.replace("_orig_mod.", "")
    said = refused(path, key="request.prefix")
    assert "several networks" in said
    assert f"'{first}'" in said
    assert f"'{second}'" in said
    assert f"say which one with request.prefix={first}" in said or f"with request.prefix={second}" in said
    assert same(filled(path, prefix=first), one)
    assert same(filled(path, prefix=second), other)
    assert same(filled(path, prefix=second.removesuffix(".")), other)


@pytest.mark.parametrize(
    ("first", "second"),
    [("model", "model_ema"), ("state_dict", "ema_state_dict"), ("state_dict", "state_dict_ema"), ("net", "swa")],
)
def test_two_mappings_in_a_file_are_two_networks(tmp_path, first, second):
    one, other = tensors_of(seed=1), tensors_of(seed=2)
    path = written(tmp_path, {first: one, second: other, "epoch": 3})
    assert f"'{first}.'" in refused(path)
    assert f"'{second}.'" in refused(path)
    assert same(filled(path, prefix=f"{first}."), one)
    assert same(filled(path, prefix=second), other)


def test_the_end_of_a_prefix_is_enough_if_only_one_ends_so(tmp_path):
    one, other = tensors_of(seed=1), tensors_of(seed=2)
    path = written(tmp_path, {"state_dict": under("teacher.", one) | under("student.", other)})
    assert same(filled(path, prefix="student."), other)
    assert same(filled(path, prefix="state_dict.teacher"), one)
    twice = written(tmp_path, {"a": under("net.", one), "b": under("net.", other)}, "b.pt")
    assert "'a.net.', 'b.net.'" in refused(twice, prefix="net.")


def test_a_network_that_is_there_twice_with_the_same_numbers_is_one(tmp_path):
    tensors = tensors_of()
    assert same(filled(written(tmp_path, under("net.", tensors) | under("loss.net.", tensors))), tensors)


def test_of_two_networks_the_one_of_the_right_shape_is_meant(tmp_path):
    def wider(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, classes))

    tensors = tensors_of()
    path = written(tmp_path, under("teacher.", tensors_of(wider)) | under("student.", tensors))
    assert same(filled(path), tensors)
    assert "'teacher.1.weight' is [32, 4], that of the network [8, 4]" in refused(path, prefix="teacher.")


@pytest.mark.parametrize("prefix", ["assistant.", "tea", "eacher.", "", "."])
def test_a_prefix_that_no_network_has_is_refused(tmp_path, prefix):
    path = written(tmp_path, under("teacher.", tensors_of()))
    said = refused(path, prefix=prefix)
    assert "has no tensor for" in said
    assert "it has 'teacher.1.weight'" in said


def test_a_prefix_is_text_and_for_files(tmp_path):
    path = written(tmp_path, tensors_of())
    with pytest.raises(UserError, match="prefix=3: expected what stands before"):
        filled(path, prefix=3)
    with pytest.raises(UserError, match="is for names in a checkpoint"):
        unlearn(mlp(WIDTH, CLASSES), blobs(24, WIDTH, CLASSES), [1], prefix="net.", progress=False)


def test_every_way_from_a_checkpoint_takes_a_prefix(tmp_path):
    data = blobs(30, WIDTH, CLASSES)
    good, bad = trained(mlp(WIDTH, CLASSES), *data).state_dict(), tensors_of(seed=3)
    path = written(tmp_path, under("bad.", bad) | under("good.", dict(good)))
    make = lambda: mlp(WIDTH, CLASSES)  # noqa: E731
    few: dict[str, Any] = {"method": "finetune epochs=1", "progress": False}
    found = unlearn(path, data, [1], factory=make, prefix="good.", **few).model
    book = Ledger(tmp_path / "book", path, data, factory=make, prefix="good.", **few)
    assert same(dict(book.model.state_dict()), dict(good))
    assert same(dict(book.delete([1]).model.state_dict()), dict(found.state_dict()))
    with pytest.raises(UserError, match="several networks"):
        prepare(path, data, {"epochs": 1}, tmp_path / "pool", factory=make, size=40, progress=False)
    with pytest.raises(UserError, match="expected an even number"):  # the next thing that is checked
        prepare(path, data, {"epochs": 1}, tmp_path / "pool", factory=make, prefix="good.", size=1, progress=False)


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("prefix", ["old_", "1", "model", "model/", "model-"])
def test_names_that_only_end_alike_are_other_names(tmp_path, prefix):
    said = refused(written(tmp_path, under(prefix, tensors_of())))
    assert "has no tensor for '1.weight'" in said
    assert f"'{prefix}1.weight'" in said


@pytest.mark.parametrize(
    "nest",
    [
        lambda sd: {"net": sd},
        lambda sd: {"weights": sd, "epoch": 7, "note": "best", "lr": [0.1, 0.2]},
        lambda sd: {"checkpoint": {"network": sd}},
        lambda sd: {"model": under("module.", sd), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        lambda sd: {"state_dict": under("model.", sd) | {"loss.weight": torch.ones(2)}, "mean": torch.ones(3)},
    ],
)
def test_a_state_dict_may_be_anywhere_in_a_file(tmp_path, nest):
    tensors = tensors_of()
    assert same(filled(written(tmp_path, nest(tensors))), tensors)


def test_a_file_without_the_network_names_what_it_has(tmp_path):
    assert "'ema.3.weight'" in refused(written(tmp_path, {"ema": {"3.weight": torch.ones(2)}}))
    assert "(it has 'epoch', 'shadow')" in refused(written(tmp_path, {"epoch": 1, "shadow": [torch.ones(2)]}))


def test_one_name_for_two_tensors_is_refused(tmp_path):
    one, other = tensors_of(seed=1), tensors_of(seed=2)
    compiled = written(tmp_path, one | under("_orig_mod.", other))
    assert "'1.weight' and '_orig_mod.1.weight' are the same name" in refused(compiled)
    nested = written(tmp_path, {"net": {"1.weight": torch.ones(1)}, "net.1": {"weight": torch.zeros(1)}}, "b.pt")
    assert "are the same name" in refused(nested)


def test_a_mapping_that_holds_itself_ends(tmp_path):
    loop: dict[str, Any] = {"net": tensors_of()}
    loop["loop"] = loop
    assert same(filled(written(tmp_path, loop)), tensors_of())


# ---------------------------------------------------------------------- numbers of another kind


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value + 1j, "complex numbers (complex64)"),
        (lambda value: (100 * value).to(torch.int8), "whole numbers (int8)"),
        (lambda value: value > 0, "whole numbers (bool)"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "packed numbers (qint8)"),
        (lambda value: value.to_sparse(), "packed numbers (float32, torch.sparse_coo)"),
        (lambda value: value.to("meta"), "no numbers (float32)"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_numbers_of_another_kind_are_refused(tmp_path, change, said):
    tensors = tensors_of()
    tensors["3.weight"] = change(tensors["3.weight"])
    assert f"'3.weight' holds {said}" in refused(written(tmp_path, tensors))


@pytest.mark.parametrize("change", [lambda value: value.t(), lambda value: value[None], lambda value: value[0, 0]])
def test_numbers_of_another_shape_are_refused(tmp_path, change):
    tensors = tensors_of()
    tensors["3.weight"] = change(tensors["3.weight"])
    assert "that of the network [3, 8]" in refused(written(tmp_path, tensors))


@pytest.mark.parametrize("change", [lambda value: value.double(), lambda value: value.half(), lambda value: value * 1])
def test_precision_may_differ(tmp_path, change):
    tensors = {name: change(value) for name, value in tensors_of().items()}
    assert same(filled(written(tmp_path, tensors)), {name: value.float() for name, value in tensors.items()})


def test_views_and_expanded_tensors_are_read(tmp_path):
    tensors = tensors_of()
    tensors["3.weight"] = torch.arange(80.0).view(10, 8)[2:5]
    tensors["3.bias"] = torch.ones(1).expand(3)
    assert same(filled(written(tmp_path, tensors)), tensors)


# ---------------------------------------------------------------------- what is missing


def test_a_missing_counter_of_batches_is_no_loss(tmp_path):
    tensors = tensors_of(batch_normed)
    older = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    assert same(filled(written(tmp_path, older), batch_normed), tensors)


@pytest.mark.parametrize("lost", ["2.running_mean", "2.running_var", "2.weight", "4.bias", "1.weight"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_anything_else_that_is_missing_is_refused_by_name(tmp_path, lost, prefix):
    tensors = tensors_of(batch_normed)
    tensors.pop(lost)
    said = refused(written(tmp_path, under(prefix, tensors)), batch_normed)
    assert f"has no tensor for '{prefix}{lost}'" in said


class Buffers(nn.Sequential):
    """A network with a buffer that is saved and one that is not."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Linear(width, classes))
        self.register_buffer("kept", torch.rand(3))
        self.register_buffer("passing", torch.rand(3), persistent=False)


class Stateful(nn.Sequential):
    """A network that keeps something else than tensors."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Linear(width, classes))

    def get_extra_state(self) -> Any:
        return {"temperature": 2.0}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_buffers_that_are_saved_are_expected_and_others_are_not(tmp_path):
    tensors = tensors_of(Buffers)
    assert "passing" not in tensors
    assert same(filled(written(tmp_path, tensors), Buffers), tensors)
    tensors.pop("kept")
    assert "'kept'" in refused(written(tmp_path, tensors), Buffers)


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    path = written(tmp_path, nn.Linear(WIDTH, CLASSES).state_dict())
    with pytest.raises(UserError, match="_extra_state' of its state is a dict"):
        fill(Stateful(WIDTH, CLASSES), path)
    with pytest.raises(UserError, match="has no shape yet"):
        fill(nn.LazyLinear(CLASSES), path)


def test_layers_that_share_a_matrix_cannot_hold_two(tmp_path):
    tensors = tensors_of(Tied)
    assert same(filled(written(tmp_path, tensors), Tied), tensors)
    tensors["second.weight"] = tensors["first.weight"] + 1
    assert "layers share it" in refused(written(tmp_path, tensors), Tied)
