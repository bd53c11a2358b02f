"""Stored images as arrays: a part of each, decoded and brought to a size in one step."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gnsnn_jax._types import Shaped
from gnsnn_jax.errors import extra

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]  # width and height, as Pillow has them
Box = tuple[float, float, float, float]  # left, upper, right and lower edge, in pixels of the stored image
Part = Callable[[Size, np.random.Generator], Box]

MODES: Mapping[int, str] = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels
# A JPEG may decode to fewer pixels while as many times the pixels wanted are left; Pillow's own thumbnails keep 2.
_REDUCING_GAP = 2.0


def whole_image(size: Size, random: np.random.Generator) -> Box:
    return (0.0, 0.0, float(size[0]), float(size[1]))


@dataclass(frozen=True)
class Centre:
    """The square in the middle whose side is a share of the shorter side of the image."""

    share: float

    def __call__(self, size: Size, random: np.random.Generator) -> Box:
        side = self.share * min(size)
        left, upper = ((length - side) / 2 for length in size)
        return (left, upper, left + side, upper + side)


def random_part(size: Size, random: np.random.Generator) -> Box:
    """A part of 8 to 100 % of the area, its ratio of width to height 3/4 to 4/3, as `resized_crop` on the device."""
    area = random.uniform(0.08, 1.0) * size[0] * size[1]
    ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    width, height = min(math.sqrt(area * ratio), size[0]), min(math.sqrt(area / ratio), size[1])
    left, upper = random.uniform(0, size[0] - width), random.uniform(0, size[1] - height)
    return (left, upper, min(left + width, size[0]), min(upper + height, size[1]))


def decode(
    data: bytes, shape: tuple[int, int, int], part: Part, random: np.random.Generator
) -> Shaped[np.ndarray, "H W C"]:
    """A part of an encoded image in uint8 at height, width and channels `shape`, by antialiased bilinear interpolation.

    Raises whatever Pillow does for what is no image.
    """
    with extra("data"):
        from PIL import Image

    height, width, channels = shape
    with Image.open(io.BytesIO(data)) as file:
        image: Image.Image = file
        box = _reduce(image, part(image.size, random), (width, height))
        if image.mode != MODES[channels]:
            image = image.convert(MODES[channels])
        if image.size != (width, height) or box != whole_image(image.size, random):
            image = image.resize((width, height), Image.Resampling.BILINEAR, box)
        return np.asarray(image).reshape(shape)


def _reduce(image: Image.Image, box: Box, size: Size) -> Box:
    """Lets a large JPEG decode at a half, a quarter or an eighth, which takes less time; the box in its new pixels."""
    stored = image.size
    sides = (box[2] - box[0], box[3] - box[1])
    wanted = [
        math.ceil(_REDUCING_GAP * length * to / side) for length, to, side in zip(stored, size, sides, strict=True)
    ]
    drafted = image.draft(None, (wanted[0], wanted[1]))
    if drafted is None:  # no JPEG
        return box
    scale = drafted[1][2] / stored[0]
    left, upper, right, lower = (scale * edge for edge in box)
    return left, upper, right, lower
