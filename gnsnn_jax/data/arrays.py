"""Data sets that are arrays from the start: checked, resized, split with the classes in equal shares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from gnsnn_jax._types import Float, Shaped
from gnsnn_jax.data.batches import Split
from gnsnn_jax.errors import InputError


def read_npz(path: Path) -> tuple[Split, Split | None]:
    """The samples of a file and those of its test split, if it has one.

    Raises InputError for a file that is damaged and for arrays of another form.
    """
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


def check_finite(images: np.ndarray, what: str) -> None:
    """Raises InputError where floating-point images hold NaN or infinity."""
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        count = int(np.size(images) - np.isfinite(images).sum())
        raise InputError(f"{what} hold {count} values that are NaN or infinite; remove or replace them")


def resize(images: Shaped[np.ndarray, "N H W C"], side: int) -> Float[np.ndarray, "N side side C"]:
    """Images of another size by bilinear interpolation, in float32."""
    resized = jax.image.resize(images.astype(np.float32), (len(images), side, side, images.shape[-1]), "bilinear")
    return np.asarray(resized)


def split_by_class(whole: Split, fraction: float, seed: int, setting: str) -> tuple[Split, Split]:
    """The rest and a share of the samples. Raises InputError, which names the setting, where one has none."""
    from sklearn.model_selection import train_test_split

    try:
        parts = train_test_split(*whole, test_size=fraction, random_state=seed, stratify=whole.labels, shuffle=True)
    except ValueError as error:
        raise InputError(f"{setting} = {fraction} cannot split {len(whole.labels)} samples: {error}") from None
    return Split(parts[0], parts[2]), Split(parts[1], parts[3])
