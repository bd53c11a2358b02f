"""Folders that TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow and without the network."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gnsnn_jax.data.images import MODES
from gnsnn_jax.errors import InputError, extra, listed, printable, shown

INFO = "dataset_info.json"  # is in every folder that TensorFlow Datasets finished
FORMAT = "array_record"
# TensorFlow Datasets last: it takes the others for granted.
PACKAGES = ("array_record", "grain", "importlib_resources", "PIL", "tensorflow_datasets")
_VERSION = re.compile(r"(?P<name>.+):(?P<version>\d+\.\d+\.\d+)")
OPEN_FILES = 8192  # at a time; ImageNet has 1024 for its training split
_LONGEST_REASON = 300  # characters of a foreign message within ours
_NUMBERS = re.compile(r"\d+\.\d+\.\d+")


class Name(NamedTuple):
    """NAME, NAME/CONFIG or a folder, each with :VERSION or without."""

    path: str
    version: str | None


@dataclass(frozen=True, eq=False)
class Records:
    """The images of one split as they are stored, and their labels."""

    folder: str
    split: str
    source: Any  # the records as bytes
    features: Any
    image: str
    label: str
    classes: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """An encoded image and its label. Raises InputError for a record that cannot be read or has no label."""
        data, label = self._read(index)
        if not 0 <= label < self.classes:
            raise InputError(
                f"record {index} of split {self.split!r} in {self.folder} has the label {label}, which is none of its "
                f"{self.classes} classes; prepare the set again"
            )
        return data, label

    def is_labelled(self) -> bool:
        """Whether labels are there: where they are kept secret, as in ImageNet's test split, all are -1."""
        return self._read(0)[1] >= 0

    def _read(self, index: int) -> tuple[bytes, int]:
        with extra("data"):
            import tensorflow_datasets as tfds

        try:
            record = self.source[index]
            example = self.features.deserialize_example_np(record, decoders={self.image: tfds.decode.SkipDecoding()})
            return example[self.image], int(example[self.label])
        except Exception as error:  # whatever the readers of files and of messages meet in a damaged one
            raise self.damaged(index, error) from None

    def damaged(self, index: int, error: Exception) -> InputError:
        return InputError(
            f"record {index} of split {self.split!r} in {self.folder} cannot be read ({reason_of(error)}); "
            "the file is damaged: prepare the set again"
        )


class Prepared(NamedTuple):
    """What the folder of a data set says of it."""

    name: str
    folder: Path
    splits: Mapping[str, Records]
    image_shape: tuple[int | None, int | None, int]  # None where images differ
    num_classes: int


def default_directory() -> Path:
    """Where TensorFlow Datasets keeps sets by default."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def parse_name(text: str) -> Name:
    found = _VERSION.fullmatch(text)
    return Name(found["name"], found["version"]) if found else Name(text, None)


def place_of(name: Name, directory: Path) -> Path:
    """Where the folders of a set would be: under `directory`, but "./…", "~/…" and "/…" are paths of their own."""
    path = Path(name.path).expanduser()
    return path if name.path.startswith(".") else directory / path


def find_folder(name: Name, directory: Path) -> Path | None:
    """The folder of the version asked for or else of the highest; None where there is no folder.

    Raises InputError where several configurations are there and none is named, and where the version is not there.
    """
    place = place_of(name, directory)
    if (place / INFO).is_file():
        return place
    versions = _versions(place) or _versions_of_only_config(place, name)
    if not versions:
        return None
    if name.version and name.version not in versions:
        raise InputError(
            f"there is no version {printable(name.version)} of {shown(name.path)} in {printable(place)}; there is "
            f"{listed(versions)}"
        )
    return versions[name.version] if name.version else next(reversed(versions.values()))


def _versions_of_only_config(place: Path, name: Name) -> dict[str, Path]:
    """The versions of the one configuration of a set. Raises InputError where there are several."""
    configs = [path for path in _folders(place) if _versions(path)]
    if len(configs) > 1:
        raise InputError(
            f"{printable(place)} holds several configurations of {shown(name.path)}; name one of them: "
            + listed(f"{name.path}/{path.name}" for path in configs)
        )
    return _versions(configs[0]) if configs else {}


def _versions(place: Path) -> dict[str, Path]:
    """The finished folders of a set by version, the highest last."""
    found = [path for path in _folders(place) if _NUMBERS.fullmatch(path.name) and (path / INFO).is_file()]
    return {path.name: path for path in sorted(found, key=lambda path: [int(part) for part in path.name.split(".")])}


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def how_to_prepare(name: str, directory: Path | str) -> str:
    return f"python -m gnsnn_jax.data.prepare {printable(name)} --data-dir {printable(directory)}"


def open_prepared(folder: Path) -> Prepared:
    """Reads the description of a set and opens its files.

    Raises InputError for a folder that is damaged or no ArrayRecord, for a set that is none of images with
    one label each, and where packages are missing.
    """
    builder = _builder(folder)
    allow_many_files()
    image, label = image_and_label(builder.info, folder)
    shape, classes = builder.info.features[image].shape, builder.info.features[label].num_classes
    kind = np.dtype(builder.info.features[image].np_dtype)
    if kind != np.uint8 or len(shape) != 3 or shape[-1] not in MODES or not classes:
        raise InputError(
            f"{folder} holds images {list(shape)} in {kind} of {classes} classes; read are images "
            f"[height, width, channels] in uint8 of {', '.join(map(str, MODES))} channels with a number of classes"
        )
    splits = {
        name: _records(builder, name, image, label, folder)
        for name, split in builder.info.splits.items()
        if split.num_examples
    }
    return Prepared(builder.info.name, folder, splits, shape, classes)


def _builder(folder: Path) -> Any:
    tfds = _packages(folder)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # whatever the readers of JSON and of messages meet in a damaged one
        raise InputError(
            f"{folder} cannot be read as a set of TensorFlow Datasets ({reason_of(error)}); it is damaged: "
            "prepare the set again"
        ) from None
    formats = sorted(kind.value for kind in builder.info.available_file_formats())
    if FORMAT in formats:
        return tfds.builder_from_directory(folder, file_format=FORMAT)
    name = builder.info.full_name.removesuffix(f"/{builder.info.version}")
    raise InputError(
        f"{folder} is stored as {', '.join(formats)}, which cannot be read without TensorFlow; prepare it as "
        f"ArrayRecord in another directory: {how_to_prepare(name, 'DIR')}"
    )


def _packages(folder: Path) -> Any:
    """TensorFlow Datasets. Raises InputError where it or what it reads with is not installed."""
    with extra("data", f"reading {printable(folder)}"):
        return [import_module(package) for package in PACKAGES][-1]


def image_and_label(info: Any, what: Path | str) -> tuple[str, str]:
    """The names of the image and of its label: the supervised keys, or the only ones of their types.

    Raises InputError for a set that has not these two.
    """
    with extra("data"):
        import tensorflow_datasets as tfds

    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    named: Any = info.supervised_keys or ()
    if len(named) == 2 and all(isinstance(features.get(key), kind) for key, kind in zip(named, kinds, strict=True)):
        return named[0], named[1]
    found = [[key for key, feature in features.items() if isinstance(feature, kind)] for kind in kinds]
    if any(len(keys) != 1 for keys in found):
        held = listed(f"{key}: {type(feature).__name__}" for key, feature in sorted(features.items()))
        raise InputError(
            f"{printable(what)} is no set for classification: wanted are one Image and one ClassLabel, got {held}"
        )
    return found[0][0], found[1][0]


def _records(builder: Any, split: str, image: str, label: str, folder: Path) -> Records:
    with extra("data"):
        import tensorflow_datasets as tfds

    missing = [path.name for path in builder.info.splits[split].filepaths if not path.exists()]
    if missing:
        raise InputError(f"{folder} lacks {missing[0]}, a file of split {split!r}; prepare the set again")
    source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in (image, label)})
    return Records(str(folder), split, source, features, image, label, builder.info.features[label].num_classes)


def allow_many_files() -> None:
    """Raises this process's limit of open files, where there is one: each file of a set stays open, and the usual
    limit is 1024."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def reason_of(error: Exception) -> str:
    """The type of an error and the first line of what it says."""
    return printable(f"{type(error).__name__}: {error}".splitlines()[0], _LONGEST_REASON)
