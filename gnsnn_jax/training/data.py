"""Data sets in memory: images as they were stored, split by seed and normalised on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Int, Shaped
from gnsnn_jax.errors import InputError, nearest
from gnsnn_jax.training.config import Data


class Batch(NamedTuple):
    images: Shaped[np.ndarray, "B H W C"]
    labels: Int[np.ndarray, " B"]


class Split(NamedTuple):
    images: Shaped[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]

    @property
    def count(self):
        return len(self.labels)

    def read(self, order, steps):
        for step in steps:
            i = order(step)
            images, labels = self.images[i], self.labels[i]
            labels = np.where(i < 0, -1, labels)
            images[i < 0] = 0
            yield Batch(images, labels)


class Statistics(NamedTuple):
    """Mean and standard deviation per channel, in the unit of the pixels."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Dataset(NamedTuple):
    name: str
    num_classes: int
    train: Split
    validation: Split
    test: Split
    statistics: Statistics

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.train.images.shape[1:]


def digits() -> Split:
    """The 1797 handwritten digits of scikit-learn, 8x8 gray, pixels 0..16."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return Split(found.images.astype(np.uint8)[..., None], found.target.astype(np.int32))


# Loaders of sets that come without a test split.
DATASETS: Mapping[str, Callable[[], Split]] = {"digits": digits}


def load_dataset(settings: Data, seed: int) -> Dataset:
    """Loads a data set and splits it by seed, the classes in equal shares in every part.

    A set that is not built in is read from `directory`/NAME.npz: arrays `images` [N, H, W, C] and
    `labels` [N], and `test_images` and `test_labels` where it has a test split of its own.
    Raises InputError for a set that is not there or not of this form, and for fractions that leave
    a part without samples.
    """
    whole, test = (DATASETS[settings.name](), None) if settings.name in DATASETS else _read(settings)
    check_finite(whole.images, f"the images of {settings.name}")
    whole, test = _resized(whole, settings), test and _resized(test, settings)
    if test is None:
        whole, test = _split(whole, settings.test_fraction, seed, "data.test_fraction")
    train, validation = _split(whole, settings.validation_fraction, seed, "data.validation_fraction")
    num_classes = int(max(whole.labels.max(), test.labels.max())) + 1
    return Dataset(settings.name, num_classes, train, validation, test, _statistics(settings, train.images))


def _read(settings: Data) -> tuple[Split, Split | None]:
    path = Path(settings.directory) / f"{settings.name}.npz"
    if not settings.directory or not path.is_file():
        missing = f"there is no {path}" if settings.directory else "data.directory (--data-dir) names no place for it"
        built_in = ", ".join(sorted(DATASETS)) + nearest(settings.name, DATASETS)
        raise InputError(
            f"unknown data set {settings.name!r}: built in are {built_in}; "
            f"of others the images and labels stand in a file NAME.npz, and {missing}"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # whatever numpy meets in a damaged file
        raise InputError(f"{path} cannot be read ({type(error).__name__}); it is damaged or no .npz file") from None
    test = _checked(path, arrays, "test_") if "test_images" in arrays else None
    return _checked(path, arrays, ""), test


def _checked(path: Path, arrays: Mapping[str, np.ndarray], prefix: str) -> Split:
    """Raises InputError unless the arrays are images and a label for each."""
    images, labels = arrays.get(f"{prefix}images"), arrays.get(f"{prefix}labels")
    if images is None or labels is None:
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'}, but {prefix}images and {prefix}labels are wanted"
        )
    kinds = (
        np.issubdtype(images.dtype, np.floating) or images.dtype == np.uint8,
        np.issubdtype(labels.dtype, np.integer),
    )
    if images.ndim != 4 or labels.shape != images.shape[:1] or not all(kinds) or not len(labels) or labels.min() < 0:
        raise InputError(
            f"{path}: {prefix}images must be [N, H, W, C] in uint8 or floating point and {prefix}labels [N] integers "
            f"from 0, got {images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}"
        )
    check_finite(images, f"the images of {path}")
    return Split(images if images.dtype == np.uint8 else images.astype(np.float32), labels.astype(np.int32))


def _resized(split: Split, settings: Data) -> Split:
    size = settings.image_size
    return split._replace(images=resize(split.images, size)) if size else split


def _split(whole: Split, fraction: float, seed: int, setting: str) -> tuple[Split, Split]:
    from sklearn.model_selection import train_test_split

    try:
        parts = train_test_split(*whole, test_size=fraction, random_state=seed, stratify=whole.labels, shuffle=True)
    except ValueError as error:
        raise InputError(f"{setting} = {fraction} cannot split {len(whole.labels)} samples: {error}") from None
    return Split(parts[0], parts[2]), Split(parts[1], parts[3])


def resize(images: Shaped[np.ndarray, "N H W C"], side: int) -> Float[np.ndarray, "N side side C"]:
    """Images of another size by bilinear interpolation, in float32."""
    resized = jax.image.resize(images.astype(np.float32), (len(images), side, side, images.shape[-1]), "bilinear")
    return np.asarray(resized)


def _statistics(settings: Data, images: np.ndarray) -> Statistics:
    """Those of the settings, where given, else those of the images."""
    channels = images.shape[-1]
    for name in ("mean", "deviation"):
        given = getattr(settings, name)
        if given and (len(given) != channels or (name == "deviation" and min(given) <= 0)):
            raise InputError(
                f"data.{name} = {list(given)} does not fit images of {channels} channels; give a number for each"
                + (", all positive" if name == "deviation" else "")
            )
    found = statistics(images)
    return Statistics(settings.mean or found.mean, settings.deviation or found.deviation)


def statistics(images: Shaped[np.ndarray, "N H W C"]) -> Statistics:
    pixels = images.reshape(-1, images.shape[-1]).astype(np.float64)
    deviation = pixels.std(0)
    return Statistics(tuple(pixels.mean(0).tolist()), tuple(np.where(deviation > 0, deviation, 1).tolist()))


def check_finite(images: np.ndarray, what: str) -> None:
    """Raises InputError where floating-point images hold NaN or infinity."""
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        count = int(np.size(images) - np.isfinite(images).sum())
        raise InputError(f"{what} hold {count} values that are NaN or infinite; remove or replace them")


def normalise(images: Shaped[Array | np.ndarray, "B H W C"], to: Statistics) -> Float[Array, "B H W C"]:
    """(pixel - mean) / deviation, per channel, in float32."""
    mean, deviation = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in to)
    return (jnp.asarray(images).astype(jnp.float32) - mean) / deviation
