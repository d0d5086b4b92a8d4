"""Augmentation: what it does to an image, and what its random numbers depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmm_exp.data.augmentation import Augmentation
from dmm_exp.data.counter import mixed
from dmm_exp.errors import UserError

EVERYTHING = Augmentation(flip=True, crop_padding=2, cutout=3)
SEEDS = torch.tensor([11, -(2**62) - 7, 2**62 + 5])


def images(members: int = 3, batch: int = 40, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return images in which every pixel of a channel has its own value, none of which is 0."""
    pixels = torch.arange(1, 1 + 2 * 7 * 9).view(2, 7, 9).to(dtype)
    return pixels.expand(members, batch, 2, 7, 9).clone()


def points(members: int = 3, batch: int = 40) -> Tensor:
    return torch.arange(members * batch).view(members, batch)


def augmented(augmentation: Augmentation, step: int = 0, fill: tuple[float, ...] = (0.0,)) -> Tensor:
    return augmentation(images(), SEEDS, points(), step, fill)


def test_the_hash_is_splitmix64():
    # the first outputs of the published generator with seed 0 are hashes of multiples of its increment
    increments = torch.tensor([0x9E3779B97F4A7C15 - 2**64, 0x3C6EF372FE94F82A])
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [value % 2**64 for value in mixed(increments).tolist()] == expected


def test_nothing_is_done_by_default():
    inputs = images()
    assert Augmentation()(inputs, SEEDS, points(), 0) is inputs
    assert not Augmentation()


def test_a_flip_mirrors_about_half_of_the_images():
    inputs = images(batch=4000)
    result = Augmentation(flip=True)(inputs, SEEDS, points(batch=4000), 3)
    mirrored = (result == inputs.flip(-1)).flatten(2).all(2)
    same = (result == inputs).flatten(2).all(2)
    assert (mirrored ^ same).all()
    assert mirrored.float().mean(1) == pytest.approx(torch.full((3,), 0.5), abs=5 * 0.5 / 4000**0.5)


def test_a_crop_moves_the_image_and_fills_what_comes_in():
    inputs, padding = images(batch=2000), 2
    result = Augmentation(crop_padding=padding)(inputs, SEEDS, points(batch=2000), 0, fill=(0.0,))
    padded = torch.nn.functional.pad(inputs[0, 0], [padding] * 4)
    crops = [padded[:, down : down + 7, across : across + 9] for down in range(5) for across in range(5)]
    which = torch.stack([(result == crop).flatten(2).all(2) for crop in crops])
    assert (which.sum(0) == 1).all()
    counts = which.sum((1, 2)).float()
    assert counts == pytest.approx(torch.full((25,), 6000 / 25), abs=5 * (6000 / 25) ** 0.5)


def test_cutout_blanks_one_square():
    result = Augmentation(cutout=3)(images(batch=2000), SEEDS, points(batch=2000), 0)
    blank = result == 0
    assert torch.equal(blank[:, :, 0], blank[:, :, 1])
    assert torch.equal(result[~blank], images(batch=2000)[~blank])
    rows, columns = blank[:, :, 0].any(3).sum(2), blank[:, :, 0].any(2).sum(2)
    assert torch.equal(blank[:, :, 0].sum((2, 3)), rows * columns)
    assert set(rows.flatten().tolist()) == set(columns.flatten().tolist()) == {2, 3}  # 2 at the border
    assert blank[:, :, 0].any(0).any(0).all()  # every pixel is blanked in some image


def test_crops_and_blanks_are_filled_with_each_channels_value():
    inputs = torch.zeros(1, 50, 2, 6, 6)
    result = Augmentation(crop_padding=2, cutout=2)(inputs, SEEDS[:1], points(1, 50), 0, fill=(0.25, 7.0))
    assert set(result[0, :, 0].unique().tolist()) == {0.0, 0.25}
    assert set(result[0, :, 1].unique().tolist()) == {0.0, 7.0}
    rounded = EVERYTHING(images(), SEEDS, points(), 0, fill=(200.6,))
    assert (rounded == 201).any()
    assert rounded.dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_type_and_shape_stay_and_the_input_is_untouched(dtype: torch.dtype):
    inputs = images(dtype=dtype)
    result = EVERYTHING(inputs, SEEDS, points(), 1)
    assert (result.dtype, result.shape) == (inputs.dtype, inputs.shape)
    assert torch.equal(inputs, images(dtype=dtype))
    assert not torch.equal(result, inputs)


def test_a_member_alone_gets_what_it_gets_among_others():
    together = augmented(EVERYTHING, step=5)
    for row in range(3):
        alone = EVERYTHING(images(1), SEEDS[row : row + 1], points()[row : row + 1], 5)
        assert torch.equal(alone[0], together[row])


def test_the_order_and_size_of_a_batch_do_not_matter():
    whole = augmented(EVERYTHING)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    part = EVERYTHING(images(batch=25), SEEDS, points()[:, order[:25]], 0)
    assert torch.equal(part, whole[:, order[:25]])


def test_members_steps_and_points_are_augmented_differently():
    same_points = torch.zeros(3, 40, dtype=torch.long)
    by_member = EVERYTHING(images(), SEEDS, same_points, 0)
    assert torch.equal(by_member[:, 0], by_member[:, 1])  # a point twice in a batch: alike
    assert not torch.equal(by_member[0], by_member[1])
    assert not torch.equal(augmented(EVERYTHING, step=0), augmented(EVERYTHING, step=1))
    assert not torch.equal(augmented(EVERYTHING)[0, 0], augmented(EVERYTHING)[0, 1])


def test_a_step_and_a_filling_in_tensors_are_as_good_as_numbers():
    step = torch.tensor(0)
    for number in (0, 1, 2**40):
        step.fill_(number)
        result = EVERYTHING(images(), SEEDS, points(), step, torch.tensor([3.0, 9.0]))
        assert torch.equal(result, augmented(EVERYTHING, number, (3.0, 9.0)))


def test_global_random_state_is_neither_used_nor_moved():
    torch.manual_seed(1)
    first, state = augmented(EVERYTHING), torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(augmented(EVERYTHING), first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_images():
    arguments = (value.cuda() for value in (images(), SEEDS, points()))
    assert torch.equal(EVERYTHING(*arguments, 4, fill=(3.0,)).cpu(), augmented(EVERYTHING, 4, (3.0,)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_augmentation_goes_with_the_step_when_it_is_replayed():
    inputs, seeds, chosen, step, fill = (
        value.cuda() for value in (images(), SEEDS, points(), torch.tensor(0), torch.tensor([3.0]))
    )
    EVERYTHING(inputs, seeds, chosen, step, fill)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = EVERYTHING(inputs, seeds, chosen, step, fill)
    for number in (5, 6):
        step.fill_(number)
        graph.replay()
        assert torch.equal(result.cpu(), augmented(EVERYTHING, number, (3.0,)))


@pytest.mark.parametrize("key", ["crop_padding", "cutout"])
@pytest.mark.parametrize("value", [-1, 8])
def test_pixels_that_do_not_fit_the_image_are_refused(key: str, value: int):
    with pytest.raises(UserError, match=rf"augmentation\.{key}={value}"):
        augmented(Augmentation(**{key: value}))


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(UserError, match="images"):
        EVERYTHING(torch.zeros(3, 4, 10), SEEDS, points(batch=4), 0)
