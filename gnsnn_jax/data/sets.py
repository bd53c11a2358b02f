"""Data sets by name: found, split by seed, held in memory where they fit and streamed where not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gnsnn_jax.data.arrays import check_finite, check_same_form, read_npz, resize, split_by_class
from gnsnn_jax.data.batches import Batch, Split
from gnsnn_jax.data.images import Centre, Part, random_part, whole_image
from gnsnn_jax.data.order import FixedOrder, share_of_process
from gnsnn_jax.data.prepared_folders import (
    Prepared,
    Records,
    default_directory,
    find_folder,
    how_to_prepare,
    open_prepared,
    parse_name,
    place_of,
)
from gnsnn_jax.data.statistics import PUBLISHED, Statistics, choose_statistics, normalise, statistics
from gnsnn_jax.data.streaming import Stream, usable_cores
from gnsnn_jax.errors import InputError, extra, nearest, printable, shown
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.command_line import progress_bar
from gnsnn_jax.runtime.config import Data

__all__ = [
    "DATASETS", "Batch", "Dataset", "Split", "Statistics", "Stream",
    "check_finite", "load_dataset", "normalise", "read_in_order", "resize", "statistics",
]  # fmt: skip

EVALUATED_SHARE = 0.875  # of the shorter side of a streamed image: the published 224 of 256 pixels
SAMPLED = 1024  # images of a stream that tell its statistics
GIBIBYTE = 2**30
_AT_A_TIME = 512  # images that are moved into memory together
_PATIENCE = 2.0  # seconds after which somebody wants to see how far it is


class Dataset(NamedTuple):
    name: str
    num_classes: int
    train: Split | Stream
    validation: Split | Stream
    test: Split | Stream
    statistics: Statistics

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.train.image_shape

    @property
    def streams(self) -> bool:
        """Whether the splits stay on disk, and images come with their random part already taken."""
        return isinstance(self.train, Stream)


def digits() -> Split:
    """The 1797 handwritten digits of scikit-learn, 8x8 gray, pixels 0..16."""
    with extra("train"):
        from sklearn.datasets import load_digits

    found = load_digits()
    return Split(found.images.astype(np.uint8)[..., None], found.target.astype(np.int32))


# Loaders of sets that come without a test split.
DATASETS: Mapping[str, Callable[[], Split]] = {"digits": digits}


def load_dataset(settings: Data, seed: int) -> Dataset:
    """Finds a data set and splits it by seed; nothing is downloaded.

    A set is built in; or `directory`/NAME.npz, arrays `images` [N, H, W, C] and `labels` [N], and
    `test_images` and `test_labels` where it has a test split of its own; or a folder that TensorFlow
    Datasets prepared.

    Args:
        settings: the name of the set and how to split and resize it.
        seed: decides which samples are held out, where the set has no split of its own.

    Returns:
        Training, validation and test split, in memory or on disk, and the statistics of the pixels.

    Raises:
        InputError: for a set that is not there or not of this form, and for fractions that leave a part
            without samples.
    """
    if settings.name in DATASETS:
        return _from_arrays(settings, DATASETS[settings.name](), None, seed)
    found = _found(settings)
    if found.is_file():
        return _from_arrays(settings, *read_npz(found), seed)
    return _from_records(settings, open_prepared(found), seed)


def _found(settings: Data) -> Path:
    """The file or the folder of a set. Raises InputError where there is none, and for a name that none can have."""
    npz = Path(settings.directory) / f"{settings.name}.npz"
    try:
        return npz if settings.directory and npz.is_file() else _folder(settings, npz)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a null character, of an unknown user
        raise InputError(
            f"there can be no data set {shown(settings.name)} in {shown(settings.directory)}: "
            f"{getattr(error, 'strerror', None) or printable(error)}"
        ) from None


def _folder(settings: Data, npz: Path) -> Path:
    name = parse_name(settings.name)
    directory = Path(settings.directory).expanduser() if settings.directory else default_directory()
    folder = find_folder(name, directory)
    if folder is None:
        built_in = ", ".join(sorted(DATASETS)) + nearest(settings.name, DATASETS)
        raise InputError(
            f"unknown data set {shown(settings.name)}: built in are {built_in}; of others there is neither "
            f"{printable(npz) if settings.directory else 'data.directory (--data-dir) with a file NAME.npz'} nor a "
            f"folder {printable(place_of(name, directory))}, which `{how_to_prepare(name.path, directory)}` makes of a "
            "set that TensorFlow Datasets knows"
        )
    return folder


def _from_arrays(settings: Data, whole: Split, test: Split | None, seed: int) -> Dataset:
    check_finite(whole.images, f"the images of {settings.name}")
    if settings.image_size:
        whole, test = (
            part and part._replace(images=resize(part.images, settings.image_size)) for part in (whole, test)
        )
    check_same_form(whole, test, settings.name)
    splits = _split_arrays(settings, whole, test, seed)
    num_classes = int(max(split.labels.max() for split in splits)) + 1
    measured = lambda: statistics(splits[0].images)
    return Dataset(settings.name, num_classes, *splits, choose_statistics(settings, whole.image_shape[-1], measured))


def _from_records(settings: Data, found: Prepared, seed: int) -> Dataset:
    if "train" not in found.splits:
        raise InputError(f"{found.folder} has no split 'train', only {', '.join(found.splits) or 'empty ones'}")
    whole, test = found.splits["train"], _test_records(found.splits)
    shape = _final_shape(settings, found)
    fits = len(whole) * math.prod(shape) <= settings.memory_limit * GIBIBYTE
    splits: tuple[Split | Stream, Split | Stream, Split | Stream] = (_read_into_memory if fits else _stream)(
        settings, whole, test, shape, seed
    )
    published = PUBLISHED.get(found.name)
    known = published is not None and len(published.mean) == shape[-1]
    otherwise = lambda: published if known else _measured(splits, seed)
    return Dataset(settings.name, found.num_classes, *splits, choose_statistics(settings, shape[-1], otherwise))


def _test_records(splits: Mapping[str, Records]) -> Records | None:
    """The test split, or the validation split of a set that keeps the labels of its test split secret or has none."""
    held = (splits[name] for name in ("test", "validation") if name in splits)
    return next((records for records in held if records.is_labelled()), None)


def _final_shape(settings: Data, found: Prepared) -> tuple[int, int, int]:
    height, width, channels = found.image_shape
    if settings.image_size:
        return settings.image_size, settings.image_size, channels
    if height is None or width is None:
        raise InputError(
            f"the images of {settings.name} differ in size; set data.image_size, the height and width to resize "
            "them to, such as 224"
        )
    return height, width, channels


def _read_into_memory(
    settings: Data, whole: Records, test: Records | None, shape: tuple[int, int, int], seed: int
) -> tuple[Split, Split, Split]:
    """Training, validation and test split in memory: of each image all, or the largest square if it is resized."""
    part = Centre(1.0) if settings.image_size else whole_image
    stream = lambda records: Stream(records, np.arange(len(records)), shape, part, seed, workers=0)
    read = lambda records: _into_memory(stream(records), f"reading {settings.name}")
    return _split_arrays(settings, read(whole), None if test is None else read(test), seed)


def _split_arrays(settings: Data, whole: Split, test: Split | None, seed: int) -> tuple[Split, Split, Split]:
    if test is None:
        whole, test = split_by_class(whole, settings.test_fraction, seed, "data.test_fraction")
    return *split_by_class(whole, settings.validation_fraction, seed, "data.validation_fraction"), test


def _stream(
    settings: Data, whole: Records, test: Records | None, shape: tuple[int, int, int], seed: int
) -> tuple[Stream, Stream, Stream]:
    """Training, validation and test split on disk."""
    part: Part = Centre(EVALUATED_SHARE) if settings.image_size else whole_image
    stream = Stream(whole, np.arange(len(whole)), shape, part, seed, min(settings.workers, usable_cores()))
    held_out = None if test is None else replace(stream, records=test, indices=np.arange(len(test)))
    if held_out is None:
        stream, held_out = _split_stream(stream, settings.test_fraction, seed, "data.test_fraction")
    train, validation = _split_stream(stream, settings.validation_fraction, seed, "data.validation_fraction")
    return replace(train, part=random_part) if settings.resized_crop else train, validation, held_out


def _split_stream(stream: Stream, fraction: float, seed: int, setting: str) -> tuple[Stream, Stream]:
    """The rest and a share of the samples, whatever their classes: labels are not known before they are read."""
    order = np.random.default_rng(seed).permutation(stream.indices)
    count = round(fraction * len(order))
    if not 0 < count < len(order):
        raise InputError(f"{setting} = {fraction} leaves a part of {len(order)} samples empty; choose another")
    return replace(stream, indices=np.sort(order[count:])), replace(stream, indices=np.sort(order[:count]))


def _measured(splits: tuple[Split | Stream, ...], seed: int) -> Statistics:
    """Of all training images in memory; of a stream, of SAMPLED of them by seed, cut as they are evaluated."""
    train, validation, _ = splits
    if isinstance(train, Split):
        return statistics(train.images)
    return statistics(_sample(train, validation, SAMPLED, seed, "mean and deviation").images)


def read_in_order(split: Split | Stream, batch_size: int) -> Iterator[Batch]:
    """This process's part of each batch of a split, padded so that it splits evenly over the devices."""
    order = FixedOrder(split.count, devices.next_multiple(min(batch_size, split.count)), share_of_process())
    return split.read(order, range(order.steps))


def training_images(dataset: Dataset, count: int, seed: int) -> np.ndarray:
    """At most `count` images of the training split in random order by seed, cropped as for evaluation."""
    train = dataset.train
    if isinstance(train, Split):
        images = train.images
    else:
        images = _sample(train, dataset.validation, count, seed, "training images").images
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def _sample(train: Stream, validation: Any, count: int, seed: int, what: str) -> Split:
    """Samples of the training split by seed, in the order of the file."""
    chosen = np.random.default_rng(seed).choice(train.indices, min(count, train.count), replace=False)
    return _into_memory(replace(train, indices=np.sort(chosen), part=validation.part, workers=0), what)


def _into_memory(stream: Stream, what: str) -> Split:
    """All samples of a stream, with a progress bar if that takes long."""
    split = Split(np.empty((stream.count, *stream.image_shape), np.uint8), np.empty(stream.count, np.int32))
    order = FixedOrder(stream.count, _AT_A_TIME)
    with _shown_if_long(what, stream.count) as show:
        for step, batch in enumerate(stream.read(order, range(order.steps))):
            rows = slice(step * _AT_A_TIME, (step + 1) * _AT_A_TIME)
            for array, part in zip(split, batch, strict=True):
                array[rows] = part[: len(array[rows])]
            show(min(rows.stop, stream.count))
    return split


@contextmanager
def _shown_if_long(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function of how many images have been read, which shows a progress bar after _PATIENCE seconds."""
    bar, started = progress_bar(), time.monotonic()
    task = bar.add_task(what, total=total, note="images")

    def show(completed: int) -> None:
        bar.update(task, completed=completed)
        if not bar.live.is_started and time.monotonic() - started > _PATIENCE:
            bar.start()

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
