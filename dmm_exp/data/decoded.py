"""Decoding of one image file to 8-bit pixels, upright and without transparency: a rule for every mode of Pillow.

| mode | how it is converted |
|---|---|
| 1, L, P, RGB, RGBX, CMYK, YCbCr, HSV | by Pillow's ``convert`` |
| LA, La, PA, RGBA, RGBa, and others with a transparent colour | put over a grey background |
| I;16 in any byte order; I of PNG and PNM files, where it means 16 bits | divided by 257, rounded; of 12-bit TIFF files by 4095/255 |
| F | times 255, rounded, if all values are in [0, 1]; otherwise refused |
| I of other files, LAB, and all others | refused: their range is not known |
"""  # noqa: E501

from __future__ import annotations

import io
import threading
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np

from dmm_exp.errors import UserError, reason_of

RULES = 2  # version of the rules above; part of the key of stored decoded images
MODES = {1: "L", 3: "RGB"}
AS_PILLOW = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
# Pillow knows these, but other programs draw them; Ghostscript, for example, executes the content of an EPS file.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
ONE_PICTURE = ("MPO", "PSD")  # formats whose further frames are other versions of the first, or its layers
ORIENTATION = 0x0112  # tag of EXIF
BITS = 258  # tag of TIFF
LARGE = 1 << 24  # images with more pixels than this are decoded one at a time

# Notes about images of which something was lost or changed.
TURNED = "turned upright, as the EXIF orientation says"
COMPOSED = "put over a grey background where transparent (dataset.decoding.background={background})"
SCALED = "scaled from {range} to 8 bits"
FIRST_FRAME = "reduced to the first frame of several"

_one_at_a_time = threading.Lock()


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that are decoded."""
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.OPEN if name not in NOT_DECODED)


def decoded(content: bytes, name: str, channels: int, background: int) -> tuple[Any, list[str]]:
    """Return an image of Pillow in 8 bits, ``L`` or ``RGB``, and what was changed about it.

    Args:
        content: of the file.
        name: of the image in error messages.
        channels: 1 for grey, 3 for colour.
        background: grey value from 0 to 255 behind transparent pixels.

    Raises:
        UserError: it is not a complete image, too large, or of a mode whose range is not known.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            _check_size(image)
            with _one_at_a_time if image.width * image.height > LARGE else nullcontext():
                return _in_8_bits(image, channels, background)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not a complete image (its format is not supported)") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {_too_large(error)}") from error
    except Exception as error:  # a damaged file may raise any exception in one of Pillow's many readers
        raise UserError(f"{name} is not a complete image ({reason_of(error)})") from error


def _check_size(image: Any) -> None:
    """Refuse images of too many pixels by Pillow's own limit, even where that limit was switched off."""
    from PIL import Image

    if image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or 2**28):
        raise UserError(_too_large(f"{image.width} × {image.height}"))


def _too_large(what: object) -> str:
    return f"it has too many pixels to be decoded safely ({what}); make it smaller, or remove it"


def _in_8_bits(image: Any, channels: int, background: int) -> tuple[Any, list[str]]:
    notes = [FIRST_FRAME] if getattr(image, "is_animated", False) and image.format not in ONE_PICTURE else []
    before = _orientation(image)
    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        flat, note = _scaled(image, background)
        notes.append(note)
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        flat, is_composed = _composed(image, background)
        notes += [COMPOSED.format(background=background)] if is_composed else []
    elif image.mode in AS_PILLOW:
        flat = image
    else:
        raise UserError(f"its mode is {image.mode}, whose range is not known; expected an image in L, RGB or RGBA")
    notes += [TURNED] if {before, _orientation(image)} != {1} else []
    upright = _upright(flat, image)
    return (upright.convert("RGB") if upright.mode == "HSV" else upright).convert(MODES[channels]), notes


def _composed(image: Any, background: int) -> tuple[Any, bool]:
    """Return an image in colour over a grey background, and whether anything of it was transparent."""
    from PIL import Image

    straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode, image.mode)
    coloured = image.convert(straight).convert("RGBA")
    if coloured.getextrema()[3][0] == 255:
        return coloured.convert("RGB"), False
    behind = Image.new("RGBA", image.size, (background, background, background, 255))
    return Image.alpha_composite(behind, coloured).convert("RGB"), True


def _scaled(image: Any, background: int) -> tuple[Any, str]:
    """Return values of more than 8 bits in 8 bits, and a note about it."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UserError("its values are floating numbers, not all in [0, 1]; save it in 8 or 16 bits")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8)), SCALED.format(range="[0, 1]")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise UserError("its values are whole numbers of 32 bits, whose range is not known; save it in 8 or 16 bits")
    bits = getattr(image, "tag_v2", {}).get(BITS, (16,))[0]
    top = 4095 if bits == 12 else 65535
    narrow = np.rint(np.clip(values, 0, top) * (255 / top)).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        narrow[values == clear] = background
    return Image.fromarray(narrow), SCALED.format(range="12 bits" if bits == 12 else "16 bits")


def _orientation(image: Any) -> int:
    """Return the EXIF orientation, from 1 (upright) to 8; damaged EXIF data count as upright."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged data may raise any exception
        return 1
    return found if found in range(1, 9) else 1


def _upright(flat: Any, image: Any) -> Any:
    """Return the converted image turned by the EXIF orientation of its source; Pillow turns TIFF files itself."""
    from PIL import ImageOps

    if _orientation(image) == 1:
        return flat
    flat.info = dict(image.info)
    return ImageOps.exif_transpose(flat)
