"""Data sets that are arrays from the start: checked, resized, split with the classes in equal shares."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from gnsnn_jax._types import Float, Shaped
from gnsnn_jax.data.batches import Split
from gnsnn_jax.errors import LARGEST_COUNT, InputError, extra, listed, printable

_COPIES = 6  # of resized images that are held at a time: split, measured in double precision, on the device


def read_npz(path: Path) -> tuple[Split, Split | None]:
    """The samples of a file and those of its test split, if it has one.

    Raises InputError for a file that is damaged and for arrays of another form.
    """
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file, np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # whatever numpy meets in a damaged file
        raise InputError(
            f"{printable(path)} cannot be read ({type(error).__name__}); it is damaged or no .npz file"
        ) from None
    test = _checked(path, arrays, "test_") if "test_images" in arrays else None
    return _checked(path, arrays, ""), test


def _checked(path: Path, arrays: Mapping[str, np.ndarray], prefix: str) -> Split:
    """Raises InputError unless the arrays are images and a label for each."""
    images, labels = arrays.get(f"{prefix}images"), arrays.get(f"{prefix}labels")
    if images is None or labels is None:
        raise InputError(
            f"{printable(path)} holds {listed(arrays) or 'nothing'}, but {prefix}images and {prefix}labels are wanted"
        )
    if not _are_images(images) or not _are_labels(labels, len(images)):
        raise InputError(
            f"{printable(path)}: {prefix}images must be [N, H, W, C] in uint8 or floating point, none of them 0, and "
            f"{prefix}labels [N] integers from 0, got {images.dtype}{list(images.shape)} and "
            f"{labels.dtype}{list(labels.shape)}"
        )
    if labels.max() >= LARGEST_COUNT:
        raise InputError(
            f"{printable(path)}: {prefix}labels must be below {LARGEST_COUNT}, got {labels.max()}; number the classes "
            "from 0"
        )
    images = _in_float32(images) if images.dtype != np.uint8 else images
    check_finite(images, f"the {prefix}images of {printable(path)}")
    return Split(images, labels.astype(np.int32))


def _are_images(array: np.ndarray) -> bool:
    is_pixel = array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)
    return array.ndim == 4 and array.size > 0 and is_pixel


def _are_labels(array: np.ndarray, count: int) -> bool:
    return array.shape == (count,) and np.issubdtype(array.dtype, np.integer) and not (array < 0).any()


def _in_float32(images: np.ndarray) -> np.ndarray:
    """What is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return images.astype(np.float32)


def check_same_form(train: Split, test: Split | None, what: str) -> None:
    """Raises InputError where the test images are of another size, type or number of channels."""
    form = lambda split: f"{split.images.dtype}{list(split.image_shape)}"
    if test and form(test) != form(train):
        raise InputError(
            f"the test images of {printable(what)} are {form(test)}, but the training images {form(train)}; store both "
            "in the same form"
        )


def check_finite(images: np.ndarray, what: str) -> None:
    """Raises InputError where floating-point images hold NaN or infinity."""
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        count = int(np.size(images) - np.isfinite(images).sum())
        raise InputError(f"{what} hold {count} values that are NaN or infinite; remove or replace them")


def resize(images: Shaped[np.ndarray, "N H W C"], side: int) -> Float[np.ndarray, "N side side C"]:
    """Images of another size by bilinear interpolation, in float32. Raises InputError where memory cannot hold them."""
    needed, held = _COPIES * 4 * len(images) * side**2 * images.shape[-1], _memory()
    if needed > held:
        raise InputError(
            f"{len(images)} images of {side}x{side} pixels take {needed / 2**30:.1f} GiB in all while they are split "
            f"and measured, but this machine has {held / 2**30:.1f}; choose a smaller data.image_size (--image-size)"
        )
    resized = jax.image.resize(images.astype(np.float32), (len(images), side, side, images.shape[-1]), "bilinear")
    return np.asarray(resized)


def _memory() -> float:
    """Bytes of memory of this machine; infinite where it does not say."""
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    known = hasattr(os, "sysconf") and all(name in os.sysconf_names for name in names)
    return float(math.prod(map(os.sysconf, names))) if known else math.inf


def split_by_class(whole: Split, fraction: float, seed: int, setting: str) -> tuple[Split, Split]:
    """The rest and a share of the samples. Raises InputError, which names the setting, where one has none."""
    with extra("train"):
        from sklearn.model_selection import train_test_split

    try:
        parts = train_test_split(*whole, test_size=fraction, random_state=seed, stratify=whole.labels, shuffle=True)
    except ValueError as error:
        raise InputError(
            f"{setting} = {fraction} cannot split {len(whole.labels)} samples: {printable(error)}"
        ) from None
    return Split(parts[0], parts[2]), Split(parts[1], parts[3])
