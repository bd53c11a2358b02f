"""The configuration of an experiment: frozen, decoded strictly, explained where it is declared."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gnsnn_jax.errors import LARGEST_COUNT, InputError, nearest

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def setting(description: str, **limits) -> Any:
    return Field(description=description, **limits)


@dataclass(frozen=True, config=_STRICT)
class Data:
    name: Annotated[
        str,
        setting("data set: digits, NAME of NAME.npz, or NAME, NAME/CONFIG, NAME:VERSION or folder of a prepared one"),
    ] = "digits"
    directory: Annotated[
        str, setting("where NAME.npz or the prepared set is; empty: where TensorFlow Datasets keeps its sets")
    ] = ""
    memory_limit: Annotated[
        float, setting("GiB that training images may take in memory; a larger prepared set is streamed from disk", ge=0)
    ] = 2.0
    workers: Annotated[
        int, setting("processes that decode a streamed set, at most one a core; 0: threads of the main one", ge=0)
    ] = 16
    test_fraction: Annotated[float, setting("share held out as the test split, where a set has none", gt=0, lt=1)] = (
        0.25
    )
    image_size: Annotated[int, setting("height and width to resize images to; 0: as stored", ge=0)] = 0
    mean: Annotated[
        tuple[float, ...], setting("of the pixels, per channel; []: published or of the training split")
    ] = ()
    deviation: Annotated[
        tuple[float, ...], setting("of the pixels, per channel; []: published or of the training split")
    ] = ()
    validation_fraction: Annotated[float, setting("share of the rest that chooses the best epoch", gt=0, lt=1)] = 0.15
    crop_padding: Annotated[int, setting("random crop after this many zero pixels on each side; 0: none", ge=0)] = 0
    resized_crop: Annotated[bool, setting("random part of the image, of 8 to 100 % of its area, at full size")] = False
    flip: Annotated[bool, setting("flip half of the images left to right")] = False
    auto_augment: Annotated[bool, setting("AutoAugment's policy for CIFAR-10, on uint8 images of levels 0..255")] = (
        False
    )
    colour_jitter: Annotated[
        float, setting("brightness, contrast and saturation by factors up to this far from 1; 0: none", ge=0)
    ] = 0.0
    cutout: Annotated[int, setting("side of the square that is set to the mean; 0: none", ge=0)] = 0


@dataclass(frozen=True, config=_STRICT)
class Model:
    name: Annotated[str, setting("network")] = "resnet10"
    levels: Annotated[int, setting("number of steps L of the QCFS staircase", ge=1, le=LARGEST_COUNT)] = 8
    threshold: Annotated[float, setting("initial threshold theta of every activation", gt=0)] = 8.0
    activation: Annotated[str, setting("qcfs, or relu, which gets its thresholds when it is converted")] = "qcfs"
    classes: Annotated[int, setting("outputs; 0: as many as the data set has classes", ge=0)] = 0
    dropout_rate: Annotated[float, setting("share of activations dropped in training, in VGG networks", ge=0, lt=1)] = (
        0.0
    )


@dataclass(frozen=True, config=_STRICT)
class Optimizer:
    learning_rate: Annotated[float, setting("of SGD at its highest; a cosine takes it to 0", gt=0)] = 0.1
    warmup_epochs: Annotated[float, setting("in which the learning rate rises from 0 in a line; 0: none", ge=0)] = 0.0
    momentum: Annotated[float, setting("of SGD", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, setting("added to the gradient before the momentum, thresholds included", ge=0)] = (
        5e-4
    )
    gradient_norm: Annotated[float, setting("longer gradients are cut to this length; 0: none are", ge=0)] = 0.0
    label_smoothing: Annotated[float, setting("share of the label that all classes get alike", ge=0, lt=1)] = 0.0
    micro_batches: Annotated[
        int, setting("parts of a batch computed one after another, to save memory", ge=1, le=LARGEST_COUNT)
    ] = 1
    average_decay: Annotated[
        float, setting("of a moving average of the weights, which is then what is tested and kept; 0: none", ge=0, lt=1)
    ] = 0.0


@dataclass(frozen=True, config=_STRICT)
class Training:
    epochs: Annotated[int, setting("passes over the training split", ge=1, le=LARGEST_COUNT)] = 30
    batch_size: Annotated[int, setting("samples per step, over all devices", ge=1)] = 64
    seed: Annotated[int, setting("of the split, the weights, the order and the augmentation", ge=0, lt=2**32)] = 0
    precision: Annotated[
        Literal["float32", "bfloat16"],
        setting("float32 or bfloat16, in which training computes; parameters and statistics are float32 always"),
    ] = "float32"
    save_seconds: Annotated[float, setting("at most this long between two saves of the state to resume from", ge=0)] = (
        60.0
    )


@dataclass(frozen=True, config=_STRICT)
class Config:
    """One experiment."""

    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()


def load_config(path: str | Path, overrides: Mapping[str, str] | None = None) -> Config:
    """Reads a TOML file; `overrides` maps dotted names to values as written on the command line.

    Raises InputError for a file that is missing or no TOML, an unknown key and a wrong type or
    value, each named with its neighbours.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}; give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration {path} is not valid TOML: {error}") from None
    return decode(tree, str(path), overrides)


def decode(tree: dict[str, Any], source: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Checks a tree of settings, with others in their places, against the dataclasses; `source` is named in errors."""
    types = {name: kind for name, kind, _ in settings()}
    for name, text in (overrides or {}).items():
        _put(tree, name, text if types.get(name) is str else _parse(text))
    try:
        return TypeAdapter(Config).validate_json(
            json.dumps(tree, default=lambda value: {type(value).__name__: str(value)})
        )
    except ValidationError as error:
        found = "; ".join(_explain(problem) for problem in error.errors())
        raise InputError(f"{source}: {found}") from None


def save_config(config: Config, path: Path) -> None:
    path.write_text(tomli_w.dumps(asdict(config)), encoding="utf-8")


# Settings that may change between the parts of a run that was resumed: they change no number of it.
MAY_CHANGE = ("data.directory", "data.workers", "training.save_seconds")


def differences(one: Config, other: Config) -> list[str]:
    """The settings in which two configurations differ, but those that change no result."""
    found = []
    for name, *_ in settings():
        section, key = name.split(".")
        values = [getattr(getattr(config, section), key) for config in (one, other)]
        if values[0] != values[1] and name not in MAY_CHANGE:
            found.append(f"{name} = {values[0]} instead of {values[1]}")
    return found


def settings(kind: type = Config, prefix: str = "") -> Iterator[tuple[str, type, str]]:
    """Dotted name, type and help text of every setting."""
    hints = get_type_hints(kind, include_extras=True)
    for item in fields(kind):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from settings(hint, f"{prefix}{item.name}.")
        else:
            kind = str if get_origin(hint.__origin__) is Literal else hint.__origin__
            yield prefix + item.name, kind, hint.__metadata__[0].description


def _parse(text: str) -> Any:
    """A value as TOML would have it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise InputError(f"cannot set {name}: {part} is a value in the configuration, not a section")
    tree[last] = value


def _explain(problem: Mapping[str, Any]) -> str:
    *section, key = (str(part) for part in problem["loc"])
    name = ".".join([*section, key])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known(section)
        return f"unknown setting {name}, known there are {', '.join(known)}{nearest(key, known)}"
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{name}: {message}, got {problem['input']!r}"


def _known(section: list[str]) -> list[str]:
    kind: Any = Config
    for part in section:
        kind = get_type_hints(kind).get(part, kind)
    return [item.name for item in fields(kind)]
