"""Augmentation of batches on the device, inside the jitted training step: pure functions of images and a key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Int, Shaped
from gnsnn_jax.data.sets import Statistics, normalise
from gnsnn_jax.errors import InputError
from gnsnn_jax.runtime.config import Data


def augment(
    images: Shaped[Array, "B H W C"], statistics: Statistics, key: Array, settings: Data
) -> Float[Array, "B H W C"]:
    """Raw pixels to normalised ones, with what the settings ask for on the way.

    Crop, flip, AutoAugment, colours, normalise, cutout: the order of the published recipes. What a
    crop adds is therefore black, AutoAugment sees the levels 0..255 that its policy was found on,
    and what Cutout removes is the mean, which tells a network nothing.

    Raises InputError for images that an operation cannot take.
    """
    _check_sizes(images, settings)
    part_key, crop_key, flip_key, policy_key, colour_key, cutout_key = jax.random.split(key, 6)
    if settings.resized_crop:
        images = resized_crop(images, part_key)
    if settings.crop_padding:
        images = random_crop(images, crop_key, settings.crop_padding)
    if settings.flip:
        images = flip(images, flip_key)
    if settings.auto_augment:
        images = auto_augment_cifar10(images, policy_key)
    if settings.colour_jitter:
        images = colour_jitter(images, colour_key, settings.colour_jitter)
    images = normalise(images, statistics)
    if settings.cutout:
        images = cutout(images, cutout_key, settings.cutout)
    return images


def _check_sizes(images: Array, settings: Data) -> None:
    """Raises InputError for settings that would leave nothing of an image to see."""
    height, width = images.shape[1:3]
    if settings.crop_padding >= min(height, width):
        raise InputError(
            f"data.crop_padding = {settings.crop_padding} makes crops that hold nothing of images of {height}x{width} "
            f"pixels; choose less than {min(height, width)}"
        )
    if settings.cutout >= 2 * max(height, width):
        raise InputError(
            f"data.cutout = {settings.cutout} hides all of every image of {height}x{width} pixels; choose less than "
            f"{2 * max(height, width)}"
        )


def resized_crop(images: Shaped[Array, "B H W C"], key: Array) -> Shaped[Array, "B H W C"]:
    """A random part of each image, enlarged to the size of the whole by bilinear interpolation.

    Its area is 8 to 100 % of the image's and its ratio of width to height 3/4 to 4/3 (uniform in the
    logarithm), cut to what fits into the image. Szegedy et al. 2014, arXiv 1409.4842.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    size = jnp.asarray(images.shape[1:3], jnp.float32)
    area = jax.random.uniform(area_key, (len(images), 1), minval=0.08, maxval=1.0) * size.prod()
    half_log_ratio = 0.5 * jax.random.uniform(
        ratio_key, (len(images), 1), minval=math.log(3 / 4), maxval=math.log(4 / 3)
    )
    sides = jnp.sqrt(area) * jnp.exp(jnp.concatenate([-half_log_ratio, half_log_ratio], 1))
    sides = jnp.minimum(sides, size[None])
    corners = jax.random.uniform(place_key, (len(images), 2)) * (size[None] - sides)
    scale = size[None] / sides

    def enlarge(image, scale, corner):
        return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, -corner * scale, "linear")

    found = jax.vmap(enlarge)(images.astype(jnp.float32), scale, corners)
    return jnp.round(found).astype(images.dtype) if images.dtype == jnp.uint8 else found.astype(images.dtype)


def random_crop(images: Shaped[Array, "B H W C"], key: Array, padding: int) -> Shaped[Array, "B H W C"]:
    """A random window, of the size of the image, of the image with `padding` zeros on each side."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)
    crop = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])
    return jax.vmap(crop)(padded, corners)


def flip(images: Shaped[Array, "B H W C"], key: Array) -> Shaped[Array, "B H W C"]:
    """Left to right, half of the images."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def cutout(images: Float[Array, "B H W C"], key: Array, size: int) -> Float[Array, "B H W C"]:
    """Sets a square of size x size pixels to 0, which is the mean of normalised images.

    Its centre is any pixel, so that parts of it may lie outside of the image. An even square has
    the extra row and column above and left of the centre. DeVries & Taylor 2017, arXiv 1708.04552.
    """
    shape = images.shape[1:3]
    centres = jax.random.randint(key, (len(images), 2), 0, jnp.asarray([shape]))
    starts = centres - size // 2
    rows, columns = (
        (start[:, None] <= pixels[None]) & (pixels[None] < start[:, None] + size)
        for start, pixels in zip(starts.T, map(jnp.arange, shape), strict=True)
    )
    hidden = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(hidden, 0, images)


def colour_jitter(images: Shaped[Array, "B H W C"], key: Array, strength: float) -> Shaped[Array, "B H W C"]:
    """Brightness, contrast and saturation by factors in [1 - strength, 1 + strength], in any order.

        factor image + (1 - factor) partner

    where the partner is black, the mean grey of the image and the grey of each pixel. Factors are
    not negative. uint8 images stay so, cut to 0..255 and truncated after each of the three; floating-point
    images have no known range and are not cut. The definitions of torchvision's ColorJitter.
    """
    _check_channels("data.colour_jitter", images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"data.colour_jitter takes images in uint8 or floating point, got {images.dtype}")
    factor_key, order_key = jax.random.split(key)
    low, high = max(0.0, 1 - strength), 1 + strength
    factors = jax.random.uniform(factor_key, (len(images), 3), minval=low, maxval=high)
    order = jnp.broadcast_to(jnp.arange(3), (len(images), 3))
    return jax.vmap(_jitter)(images, factors, jax.random.permutation(order_key, order, 1, independent=True))


def _jitter(image: Array, factors: Float[Array, " 3"], order: Int[Array, " 3"]) -> Array:
    """Brightness, contrast and saturation of one image, in the order of their numbers 0, 1, 2."""
    finish = _as_levels if image.dtype == jnp.uint8 else lambda mixed: mixed
    weights = jnp.asarray(_GREY[image.shape[-1]], jnp.float32) / _ONE
    pixels = image.astype(jnp.float32)
    for kind in order:
        grey = (pixels * weights[None, None]).sum(-1, keepdims=True)
        partner = _select(kind, pixels.shape, jnp.zeros(()), grey.mean(), grey)
        pixels = finish(_mix(partner, pixels, factors[kind])).astype(jnp.float32)
    return pixels.astype(image.dtype)


# AutoAugment. Fixed-point numbers have 16 bits after the point, as in Pillow.

_ONE = 1 << 16
_FILL = 128
_LEVELS = np.arange(256, dtype=np.int32)
_GREY = {1: (_ONE,), 3: (19595, 38470, 7471)}  # of red, green and blue, fixed-point; they sum to one
_FIXED, _AUTO_CONTRAST, _EQUALIZE = range(3)  # tables
_BLACK, _MEAN, _PIXEL, _SMOOTH = range(4)  # partners


class Operation(NamedTuple):
    """What is done to an image: a warp, then a table of levels, then a blend with a partner.

    Every operation of AutoAugment is one of the three and leaves the others neutral. So a batch in
    which each image has its own operation takes one warp, one table and one blend. A choice among
    functions would take them all, as `vmap` evaluates every branch of a `lax.switch`, or go image
    by image, as `lax.map` does, which leaves an accelerator idle.
    """

    warp: Int[np.ndarray | Array, "*batch 6"] = np.asarray((_ONE, 0, _ONE // 2, 0, _ONE, _ONE // 2), np.int32)
    table: Shaped[np.ndarray | Array, "*batch 256"] = _LEVELS.astype(np.uint8)
    table_kind: Int[np.ndarray | Array, "*batch"] = np.asarray(_FIXED, np.int32)
    partner_kind: Int[np.ndarray | Array, "*batch"] = np.asarray(_BLACK, np.int32)
    factor: Float[np.ndarray | Array, "*batch"] = np.asarray(1, np.float32)


class Kind(NamedTuple):
    """An operation before its magnitude is known."""

    at: Callable[[float, int, int], Operation]  # of value, height and width
    values: Float[np.ndarray, "10 2"]  # of the magnitudes 0..9, with either sign


def _warp(a: float, b: float, c: float, d: float, e: float, f: float) -> Operation:
    """Pixel (x, y) comes from (a x + b y + c, d x + e y + f), where centres of pixels are at halves."""
    exact = np.asarray((a, b, c + (a + b) / 2, d, e, f + (d + e) / 2), np.float64)
    return Operation(warp=np.floor(exact * _ONE + 0.5).astype(np.int32))


def _rotate(degrees: float, height: int, width: int) -> Operation:
    """Counter-clockwise about the centre of the image."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return _warp(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _table(levels: np.ndarray) -> Operation:
    return Operation(table=levels.astype(np.uint8))


def _table_of_image(kind: int) -> Callable[[float, int, int], Operation]:
    return lambda value, height, width: Operation(table_kind=np.asarray(kind, np.int32))


def _blend_with(partner: int) -> Callable[[float, int, int], Operation]:
    return lambda factor, height, width: Operation(
        partner_kind=np.asarray(partner, np.int32), factor=np.asarray(factor, np.float32)
    )


def _signed(centre: float, largest: float) -> np.ndarray:
    steps = np.linspace(0, largest, 10)
    return np.stack([centre + steps, centre - steps], -1)


def _unsigned(values: np.ndarray) -> np.ndarray:
    return np.stack([values, values], -1)


_NONE = _unsigned(np.zeros(10))

OPERATIONS: Mapping[str, Kind] = {
    "ShearX": Kind(lambda share, height, width: _warp(1.0, share, 0.0, 0.0, 1.0, 0.0), _signed(0.0, 0.3)),
    "ShearY": Kind(lambda share, height, width: _warp(1.0, 0.0, 0.0, share, 1.0, 0.0), _signed(0.0, 0.3)),
    "TranslateX": Kind(
        lambda share, height, width: _warp(1.0, 0.0, share * width, 0.0, 1.0, 0.0), _signed(0.0, 150 / 331)
    ),
    "TranslateY": Kind(
        lambda share, height, width: _warp(1.0, 0.0, 0.0, 0.0, 1.0, share * height), _signed(0.0, 150 / 331)
    ),
    "Rotate": Kind(_rotate, _signed(0.0, 30.0)),
    "Invert": Kind(lambda value, height, width: _table(255 - _LEVELS), _NONE),
    "Solarize": Kind(
        lambda threshold, height, width: _table(np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS)),
        _unsigned(np.linspace(256, 0, 10)),
    ),
    "Posterize": Kind(
        lambda bits, height, width: _table(_LEVELS >> (8 - int(bits)) << (8 - int(bits))),
        _unsigned(np.linspace(8, 4, 10).round()),
    ),
    "AutoContrast": Kind(_table_of_image(_AUTO_CONTRAST), _NONE),
    "Equalize": Kind(_table_of_image(_EQUALIZE), _NONE),
    "Contrast": Kind(_blend_with(_MEAN), _signed(1.0, 0.9)),
    "Color": Kind(_blend_with(_PIXEL), _signed(1.0, 0.9)),
    "Brightness": Kind(_blend_with(_BLACK), _signed(1.0, 0.9)),
    "Sharpness": Kind(_blend_with(_SMOOTH), _signed(1.0, 0.9)),
}

# Operation, probability and magnitude of the first and of the second; the paper's table for CIFAR-10.
CIFAR10_POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
    (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
)


def auto_augment_cifar10(images: Shaped[Array, "B H W C"], key: Array) -> Shaped[Array, "B H W C"]:
    """One of the policy's 25 pairs of operations for each image, each of the two with its probability.

    `images` hold levels 0..255 in uint8, in gray or in colour; Color leaves gray images as they are.
    The operations are Pillow's, but for a grey level here and there in AutoContrast and in those that
    blend, where Pillow rounds in another place. Magnitudes 0..9 divide these ranges evenly: shear to
    0.3, translation to 150/331 of the size, rotation to 30 degrees, Solarize from 256 down to 0,
    Posterize from 8 bits down to 4, and factors from 1 to 1 + 0.9 for the rest; shear, translation,
    rotation and factors get a random sign. Pixels are taken from the nearest one, and are
    (128, 128, 128) outside of the image. These are the customary ranges, which leave images alone at
    magnitude 0; the paper's own code has factors from 0.1 to 1.9 and magnitudes up to 10.

    Raises InputError for images that are not uint8 and for other than 1 or 3 channels.
    Cubuk et al. 2019, arXiv 1805.09501.
    """
    if images.dtype != jnp.uint8:
        raise InputError(
            f"data.auto_augment needs images in uint8 with levels 0..255, got {images.dtype}; "
            "store them as uint8 or turn it off"
        )
    _check_channels("data.auto_augment", images)
    operations, probabilities = _tabulate(*images.shape[1:3])
    pair_key, use_key, sign_key = jax.random.split(key, 3)
    pair = jax.random.randint(pair_key, (len(images),), 0, len(CIFAR10_POLICY))
    used = jax.random.uniform(use_key, (len(images), 2)) < probabilities[pair]
    sign = jax.random.bernoulli(sign_key, shape=(len(images), 2)).astype(jnp.int32)
    for place in range(2):
        chosen = jax.tree.map(lambda leaf, place=place: leaf[pair, place, sign[:, place]], operations)
        images = jnp.where(used[:, place, None, None, None], jax.vmap(apply)(images, chosen), images)
    return images


def _tabulate(height: int, width: int) -> tuple[Operation, Float[Array, "25 2"]]:
    """The policy's operations [25, 2, 2 signs] for a size of images, in double precision, and their probabilities."""
    at = lambda name, magnitude: [OPERATIONS[name].at(v, height, width) for v in OPERATIONS[name].values[magnitude]]
    flat = [operation for pair in CIFAR10_POLICY for name, _, magnitude in pair for operation in at(name, magnitude)]
    stack = lambda *leaves: jnp.asarray(np.stack(leaves).reshape(len(CIFAR10_POLICY), 2, 2, *leaves[0].shape))
    probabilities = [[probability for _, probability, _ in pair] for pair in CIFAR10_POLICY]
    return jax.tree.map(stack, *flat), jnp.asarray(probabilities, jnp.float32)


def apply(image: Shaped[Array, "H W C"], operation: Operation) -> Shaped[Array, "H W C"]:
    """One operation on one uint8 image."""
    image = _take(image, operation.warp)
    image = jax.vmap(_look_up, (-1, None), -1)(image, operation)
    partner = _partner(image, operation.partner_kind)
    return _as_levels(_mix(partner.astype(jnp.float32), image.astype(jnp.float32), operation.factor))


def _take(image: Array, warp: Int[Array | np.ndarray, " 6"]) -> Array:
    height, width, _ = image.shape
    a, b, c, d, e, f = warp
    x, y = jnp.arange(width)[None, :], jnp.arange(height)[:, None]
    rows, columns = (d * x + e * y + f) // _ONE, (a * x + b * y + c) // _ONE
    return image.at[rows, columns].get(mode="fill", fill_value=_FILL, wrap_negative_indices=False)


def _look_up(channel: Shaped[Array, "H W"], operation: Operation) -> Array:
    count = jnp.zeros(256, jnp.int32).at[channel].add(1)
    tables = operation.table, _auto_contrast_table(count), _equalize_table(count)
    return _select(operation.table_kind, (256,), *tables)[channel]


def _auto_contrast_table(count: Int[Array, " 256"]) -> Shaped[Array, " 256"]:
    """The lowest level that counts to 0 and the highest to 255; a single one stays."""
    low, high = _ends(count)
    stretched = jnp.clip(255 * (_LEVELS - low) // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, _LEVELS).astype(jnp.uint8)


def _equalize_table(count: Int[Array, " 256"]) -> Shaped[Array, " 256"]:
    """Each level to the share of pixels below it, of those below the highest; all stay where these are under 255."""
    _, high = _ends(count)
    step = (count.sum() - count[high]) // 255
    below = jnp.cumsum(count) - count
    table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, _LEVELS).astype(jnp.uint8)


def _ends(count: Int[Array, " 256"]) -> tuple[Array, Array]:
    """The lowest and the highest level that counts."""
    return jnp.where(count > 0, _LEVELS, 255).min(), jnp.where(count > 0, _LEVELS, 0).max()


def _partner(image: Shaped[Array, "H W C"], kind: Array | np.ndarray) -> Int[Array, "H W C"]:
    levels = image.astype(jnp.int32)
    weights = jnp.asarray(_GREY[image.shape[-1]], jnp.int32)
    grey = ((levels * weights[None, None]).sum(-1, keepdims=True) + _ONE // 2) // _ONE
    mean = (2 * grey.sum() + grey.size) // (2 * grey.size)
    return _select(kind, levels.shape, jnp.zeros((), jnp.int32), mean, grey, _smooth(levels))


def _smooth(levels: Int[Array, "H W C"]) -> Int[Array, "H W C"]:
    """The mean over 3x3 pixels, the middle one counted five times, rounded; the border stays."""
    height, width, _ = levels.shape
    padded = jnp.pad(levels, ((1, 1), (1, 1), (0, 0)))
    windows = (padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    border = np.ones((height, width, 1), bool)
    border[1:-1, 1:-1] = False
    return jnp.where(border, levels, (2 * (sum(windows) + 4 * levels) + 13) // 26)


def _mix(partner: Array, image: Array, factor: Array | np.ndarray) -> Array:
    return partner + factor * (image - partner)


def _as_levels(mixed: Float[Array, "H W C"]) -> Shaped[Array, "H W C"]:
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def _select(kind: Array | np.ndarray, shape: tuple[int, ...], *cases: Array | np.ndarray) -> Array:
    return jax.lax.select_n(kind, *(jnp.broadcast_to(case, shape) for case in cases))


def _check_channels(setting: str, images: Array) -> None:
    if images.shape[-1] not in _GREY:
        raise InputError(f"{setting} takes images of 1 or 3 channels, got shape {images.shape}; turn it off")
