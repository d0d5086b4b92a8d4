"""Images as people have them: every mode of Pillow, turned, transparent, damaged, hostile; and what is kept of them."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from dmm_exp.data import pictures
from dmm_exp.data.formats.parquet import encoded
from dmm_exp.data.pictures import Decoding, Pictures, file_content
from dmm_exp.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged files
SIDE = 4
RAMP = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) * 16
COLOUR = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def decode(content: bytes, channels: int = 1, **options: object) -> np.ndarray:
    return Decoding(SIDE, channels, **options).decode(content, "x.png")


def refused(content: bytes, words: str, channels: int = 3) -> str:
    with pytest.raises(UserError, match=words) as caught:
        decode(content, channels)
    assert str(caught.value).startswith("x.png")
    return str(caught.value)


# ---------------------------------------------------------------------- modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_8_bit_images_are_what_pillow_converts_them_to(mode: str, channels: int):
    image = Image.fromarray(COLOUR).convert("RGB" if mode == "RGBX" else mode)
    content = saved(image, "JPEG" if mode == "YCbCr" else "TIFF" if mode != "P" else "PNG")
    with Image.open(io.BytesIO(content)) as again:
        expected = np.asarray(again.convert({1: "L", 3: "RGB"}[channels])).reshape(SIDE, SIDE, channels)
    assert np.array_equal(decode(content, channels), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_divided_by_257(form: str, order: str):
    values = (RAMP.astype(np.uint16) * 257).astype(f"{order}u2")
    content = saved(Image.fromarray(values), form)
    assert np.array_equal(decode(content)[0], RAMP)
    assert np.array_equal(decode(content, 3), np.stack([RAMP] * 3))


def test_16_bits_are_rounded_and_not_cut():
    values = np.full((SIDE, SIDE), 129, np.uint16)  # 129/257 = 0.502
    assert np.all(decode(saved(Image.fromarray(values))) == 1)


def test_netpbm_of_more_than_8_bits_has_the_range_that_it_says():
    grey = b"P5 4 4 1023\n" + (RAMP.astype(np.uint16) * 4).astype(">u2").tobytes()
    assert np.abs(decode(grey)[0].astype(int) - RAMP).max() <= 1


def test_12_bit_tiff_files_have_a_range_of_12_bits():
    rows = b"".join(bytes([0xFF, 0xF0, 0x00] * (SIDE // 2)) for _ in range(SIDE))  # 4095, 0, 4095, 0
    tags = [(256, SIDE), (257, SIDE), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, SIDE), (279, len(rows))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert decode(content)[0].tolist() == [[255, 0, 255, 0]] * SIDE


def test_floating_numbers_from_0_to_1_fill_8_bits():
    values = RAMP.astype(np.float32) / 255
    assert np.array_equal(decode(saved(Image.fromarray(values), "TIFF"))[0], RAMP)


@pytest.mark.parametrize("wrong", [255.0, -0.1, np.nan, np.inf])
def test_other_floating_numbers_are_refused(wrong: float):
    values = np.full((SIDE, SIDE), wrong, np.float32)
    refused(saved(Image.fromarray(values), "TIFF"), r"floating numbers, not all in \[0, 1\]")


def test_32_bit_whole_numbers_are_refused():
    refused(saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "whole numbers of 32 bits")


def test_a_mode_whose_range_is_not_known_is_refused():
    refused(saved(Image.new("LAB", (SIDE, SIDE)), "TIFF"), "its mode is LAB")


# ---------------------------------------------------------------------- transparency


def half_transparent(mode: str) -> Image.Image:
    image = Image.fromarray(COLOUR).convert(mode)
    image.putalpha(Image.fromarray(np.array([[255, 0] * 2] * SIDE, np.uint8)))
    return image


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("RGBA", "TIFF")])
@pytest.mark.parametrize("background", [255, 0, 100])
def test_what_is_transparent_shows_the_background(mode: str, form: str, background: int):
    options = {"lossless": True} if form == "WEBP" else {}
    found = decode(saved(half_transparent(mode), form, **options), 3, background=background)
    assert np.all(found[:, :, 1::2] == background)
    opaque = np.asarray(Image.fromarray(COLOUR).convert("L").convert("RGB") if mode == "LA" else COLOUR)
    assert np.array_equal(found[:, :, ::2], opaque.transpose(2, 0, 1)[:, :, ::2])


def test_a_transparent_colour_shows_the_background_in_every_mode_that_has_one():
    palette = Image.fromarray(RAMP).convert("P")
    for image in (Image.fromarray(RAMP), palette, Image.fromarray(RAMP.astype(np.uint16) * 257)):
        clear = int(np.asarray(image)[0, 1])
        found = decode(saved(image, "PNG", transparency=clear))
        assert found[0, 0, 1] == 255
        assert found[0, 1, 0] == RAMP[1, 0]


def test_hidden_colours_below_what_is_transparent_do_not_show():
    image = half_transparent("RGBA")
    pixels = np.asarray(image).copy()
    pixels[:, 1::2, :3] = 77
    assert np.array_equal(decode(saved(Image.fromarray(pixels)), 3), decode(saved(image), 3))


@pytest.mark.parametrize("background", [-1, 256])
def test_a_background_is_a_grey_value(background: int):
    with pytest.raises(UserError, match="from 0 to 255"):
        Decoding(SIDE, background=background)


# ---------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_images_are_upright_as_their_exif_orientation_says(form: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(COLOUR), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode(content, 3), expected.transpose(2, 0, 1))
    assert np.array_equal(decode(content, 3), COLOUR.transpose(2, 0, 1)) == (orientation == 1)


def test_16_bit_images_are_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 3
    content = saved(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG", exif=exif)
    assert np.array_equal(decode(content)[0], RAMP[::-1, ::-1])


def test_damaged_exif_data_say_nothing():
    content = saved(Image.fromarray(COLOUR), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(content, 3).shape == (3, SIDE, SIDE)


# ---------------------------------------------------------------------- what is refused


def test_a_file_cut_anywhere_is_refused_or_whole():
    for form in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"):
        content = saved(Image.fromarray(COLOUR), form)
        for kept in range(0, len(content) - 1, max(len(content) // 20, 1)):
            try:
                decode(content[:kept], 3)
            except UserError as error:
                assert str(error).startswith("x.png")  # noqa: PT017


def test_every_byte_may_be_wrong():
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "ICO", "TGA", "PPM", "PCX", "SGI", "JPEG2000"):
        content = bytearray(saved(Image.fromarray(COLOUR), form))
        for place in random.integers(0, len(content), 40):
            damaged = bytearray(content)
            damaged[place] = random.integers(256)
            try:
                decode(bytes(damaged), 3, resize=True)
            except UserError:
                continue


def bomb(side: int) -> bytes:
    """Return a PNG file that says it is square and this large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    refused(bomb(60_000), "too many pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(bomb(60_000), "too many pixels")


def test_nothing_in_an_image_is_run(monkeypatch: pytest.MonkeyPatch):
    from PIL import EpsImagePlugin

    def run(*arguments: object) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n%%EOF\n"
    refused(content, "its format is not supported")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_ordinary_file_is_neither_waited_for_nor_read(make: Callable[[Path], object], tmp_path: Path):
    make(tmp_path / "x.png")
    with pytest.raises(UserError, match="cannot be read as an image"):
        file_content(tmp_path / "x.png")


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path):
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(pictures.ENCODED_BYTES + 1)
    with pytest.raises(UserError, match="more than"):
        file_content(tmp_path / "x.png")


@pytest.mark.parametrize("path", ["../secret.png", "/dev/zero", "/etc/hostname"])
def test_a_table_of_images_names_no_files_elsewhere(path: str, tmp_path: Path):
    with pytest.raises(UserError, match="does not lie in"):
        encoded({"bytes": None, "path": path}, "row 0", tmp_path)


# ---------------------------------------------------------------------- what is said


def sources(contents: list[bytes]) -> list[tuple[Pictures, np.ndarray]]:
    made = Pictures(len(contents), lambda row: contents[row], lambda row: f"{row}.png", str(hash(tuple(contents))))
    return [(made, np.arange(len(contents)))]


def test_what_was_changed_is_said_once_for_each_kind(caplog: pytest.LogCaptureFixture):
    exif = Image.Exif()
    exif[0x0112] = 6
    colour = Image.fromarray(COLOUR)
    turned = saved(colour, "JPEG", exif=exif)
    moving = saved(colour, "GIF", save_all=True, append_images=[colour.rotate(90)])
    wide = saved(Image.fromarray(RAMP.astype(np.uint16)))
    with caplog.at_level(logging.WARNING):
        Decoding(SIDE).array(sources([saved(colour), turned, turned, moving, wide, saved(half_transparent("RGBA"))]))
    assert [record.getMessage() for record in caplog.records] == [
        "2 images were turned upright, as the EXIF orientation says: the first is 1.png",
        "1 image was reduced to the first frame of several: 3.png",
        "1 image was scaled from 16 bits to 8 bits: 4.png",
        "1 image was put over a grey background where transparent (dataset.decoding.background=255): 5.png",
    ]


def test_nothing_is_said_of_ordinary_images(caplog: pytest.LogCaptureFixture):
    Decoding(SIDE).array(sources([saved(Image.fromarray(COLOUR)), saved(Image.fromarray(COLOUR).convert("RGBA"))]))
    assert not caplog.records


# ---------------------------------------------------------------------- what is kept


def kept(folder: Path, contents: list[bytes] | None = None, **options: object) -> np.ndarray:
    contents = contents or [saved(Image.fromarray(COLOUR)), saved(Image.fromarray(RAMP))]
    return Decoding(SIDE, keep_in=str(folder), **options).array(sources(contents))


def the_file(folder: Path) -> Path:
    (file,) = folder.rglob("*.npy")
    return file


def test_kept_images_are_an_artifact_with_a_checksum_and_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = kept(tmp_path)
    manifest = json.loads((the_file(tmp_path).parent / "manifest.json").read_text())
    assert list(manifest["files"]) == [pictures.FILE]
    monkeypatch.setattr(Decoding, "_fill", None)  # nothing is decoded
    assert np.array_equal(kept(tmp_path), first)


@pytest.mark.parametrize("size", [0, 100, None])
def test_damaged_kept_images_are_said_and_made_again(
    size: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first = np.array(kept(tmp_path))
    with the_file(tmp_path).open("r+b") as file:
        if size is None:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x07")
        else:
            file.truncate(size)
    assert np.array_equal(kept(tmp_path), first)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "is damaged (pictures.npy)" in said
    assert np.array_equal(kept(tmp_path), first)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("other", [{"channels": 1}, {"background": 0}, {"resize": True}, {"contents": [b""]}])
def test_kept_images_of_other_files_or_settings_are_others(other: dict, tmp_path: Path):
    kept(tmp_path)
    if "contents" in other:
        kept(tmp_path, [saved(Image.fromarray(COLOUR))])
    else:
        settings = {"size": SIDE, "keep_in": str(tmp_path)} | other
        Decoding(**settings).array(sources([saved(Image.fromarray(COLOUR)), saved(Image.fromarray(RAMP))]))
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_two_that_want_the_same_images_decode_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    decoded, fill = [], Decoding._fill

    def counted(self: Decoding, *arguments: object) -> object:
        decoded.append(threading.get_ident())
        return fill(self, *arguments)

    monkeypatch.setattr(Decoding, "_fill", counted)
    threads = [threading.Thread(target=kept, args=(tmp_path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 1


def test_an_interrupted_decoding_leaves_nothing_that_counts(tmp_path: Path):
    with pytest.raises(UserError):
        kept(tmp_path, [saved(Image.fromarray(COLOUR)), b"no image"])
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_where_images_are_to_be_kept_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*choose another folder \(dataset\.decoding\.keep_in=DIR\)"):
        kept(tmp_path / "file")


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_scaled_by_the_rule_for_files(channels: int):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (3, channels, 12, 9), np.uint8)
    decoding = Decoding(size=6, channels=channels, resize=True)
    files = [saved(Image.fromarray(image.transpose(1, 2, 0).squeeze())) for image in images]
    assert np.array_equal(decoding.scaled(images), [decoding.decode(file, "a file") for file in files])
    same = draw.integers(0, 256, (2, channels, 6, 6), np.uint8)
    assert decoding.scaled(same) is same


def test_only_images_of_8_bits_are_scaled_and_only_where_asked():
    shape = (1, 12, 12)
    assert Decoding(size=6, channels=1, resize=True).takes(np.dtype(np.uint8), shape)
    assert not Decoding(size=6, channels=1).takes(np.dtype(np.uint8), shape)
    assert not Decoding(size=6, channels=1, resize=True).takes(np.dtype(np.float32), shape)
    assert not Decoding(size=6, channels=3, resize=True).takes(np.dtype(np.uint8), shape)
    assert Decoding(size=12, channels=1).takes(np.dtype(np.float32), shape)
