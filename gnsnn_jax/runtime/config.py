"""The configuration of an experiment: frozen, decoded strictly, explained where it is declared."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from gnsnn_jax.errors import LARGEST_COUNT, InputError, extra, listed, nearest, printable, shown

with extra("train"):
    import tomli_w
    from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
    from pydantic.dataclasses import dataclass

# Bounds of settings, far beyond any use: within them nothing overflows in float32 or int32.
LARGEST_NUMBER = 1e6  # of a factor or a rate
LARGEST_SIDE = 2**13  # of an image, in pixels
LARGEST_MEMORY = 2.0**20  # GiB
LARGEST_PIXEL, SMALLEST_DEVIATION = 1e12, 1e-12
LONGEST_WAIT = 1e9  # seconds
LONGEST_TEXT = 4096  # characters, as of a path
_DEEPEST = 3  # levels of the tree of settings: sections, settings, numbers of a list
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def setting(description: str, **limits) -> Any:
    return Field(description=description, **limits)


def _each(smallest: float, largest: float) -> AfterValidator:
    """Every number of a list lies within these bounds."""

    def check(values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(smallest <= value <= largest for value in values):
            raise ValueError(f"each number should be within {smallest:g} and {largest:g}")
        return values

    return AfterValidator(check)


@dataclass(frozen=True, config=_STRICT)
class Data:
    name: Annotated[
        str,
        setting(
            "data set: digits, NAME of NAME.npz, or NAME, NAME/CONFIG, NAME:VERSION or folder of a prepared one",
            min_length=1,
            max_length=LONGEST_TEXT,
        ),
    ] = "digits"
    directory: Annotated[
        str,
        setting(
            "where NAME.npz or the prepared set is; empty: where TensorFlow Datasets keeps its sets",
            max_length=LONGEST_TEXT,
        ),
    ] = ""
    memory_limit: Annotated[
        float,
        setting(
            "GiB that training images may take in memory; a larger prepared set is streamed from disk",
            ge=0,
            le=LARGEST_MEMORY,
        ),
    ] = 2.0
    workers: Annotated[
        int,
        setting(
            "processes that decode a streamed set, at most one a core; 0: threads of the main one",
            ge=0,
            le=LARGEST_COUNT,
        ),
    ] = 16
    test_fraction: Annotated[float, setting("share held out as the test split, where a set has none", gt=0, lt=1)] = (
        0.25
    )
    image_size: Annotated[int, setting("height and width to resize images to; 0: as stored", ge=0, le=LARGEST_SIDE)] = 0
    mean: Annotated[
        tuple[float, ...],
        setting("of the pixels, per channel; []: published or of the training split"),
        _each(-LARGEST_PIXEL, LARGEST_PIXEL),
    ] = ()
    deviation: Annotated[
        tuple[float, ...],
        setting("of the pixels, per channel, all positive; []: published or of the training split"),
        _each(SMALLEST_DEVIATION, LARGEST_PIXEL),
    ] = ()
    validation_fraction: Annotated[float, setting("share of the rest that chooses the best epoch", gt=0, lt=1)] = 0.15
    crop_padding: Annotated[
        int,
        setting(
            "random crop after this many zero pixels on each side, fewer than the image has; 0: none",
            ge=0,
            le=LARGEST_SIDE,
        ),
    ] = 0
    resized_crop: Annotated[bool, setting("random part of the image, of 8 to 100 % of its area, at full size")] = False
    flip: Annotated[bool, setting("flip half of the images left to right")] = False
    auto_augment: Annotated[bool, setting("AutoAugment's policy for CIFAR-10, on uint8 images of levels 0..255")] = (
        False
    )
    colour_jitter: Annotated[
        float,
        setting(
            "brightness, contrast and saturation by factors up to this far from 1; 0: none", ge=0, le=LARGEST_NUMBER
        ),
    ] = 0.0
    cutout: Annotated[
        int,
        setting(
            "side of the square that is set to the mean, which may not hide every image; 0: none",
            ge=0,
            le=2 * LARGEST_SIDE,
        ),
    ] = 0


@dataclass(frozen=True, config=_STRICT)
class Model:
    name: Annotated[str, setting("network", min_length=1, max_length=LONGEST_TEXT)] = "resnet10"
    levels: Annotated[int, setting("number of steps L of the QCFS staircase", ge=1, le=LARGEST_COUNT)] = 8
    threshold: Annotated[
        float, setting("initial threshold theta of every activation", ge=1 / LARGEST_NUMBER, le=LARGEST_NUMBER)
    ] = 8.0
    activation: Annotated[
        str,
        setting(
            "qcfs; noisy_qcfs: noise for rounding in training; clip: at a learned threshold; relu, or gelu in "
            "transformers, get their thresholds when they are converted",
            min_length=1,
            max_length=LONGEST_TEXT,
        ),
    ] = "qcfs"
    classes: Annotated[int, setting("outputs; 0: as many as the data set has classes", ge=0, le=LARGEST_COUNT)] = 0
    dropout_rate: Annotated[
        float, setting("share of activations dropped in training, in VGG networks and transformers", ge=0, lt=1)
    ] = 0.0


@dataclass(frozen=True, config=_STRICT)
class Optimizer:
    name: Annotated[Literal["sgd", "adamw"], setting("sgd or adamw")] = "sgd"
    learning_rate: Annotated[float, setting("at its highest; a cosine takes it to 0", gt=0, le=LARGEST_NUMBER)] = 0.1
    warmup_epochs: Annotated[
        float, setting("in which the learning rate rises from 0 in a line; 0: none", ge=0, le=LARGEST_COUNT)
    ] = 0.0
    momentum: Annotated[float, setting("of SGD; of the mean of the gradients in AdamW", ge=0, lt=1)] = 0.9
    second_momentum: Annotated[float, setting("of the mean of the squared gradients in AdamW", ge=0, lt=1)] = 0.999
    weight_decay: Annotated[
        float,
        setting(
            "in SGD added to the gradient before the momentum, thresholds included; in AdamW, times the learning rate, "
            "taken from weights, but not from norms, biases, positions and thresholds",
            ge=0,
            le=LARGEST_NUMBER,
        ),
    ] = 5e-4
    gradient_norm: Annotated[
        float, setting("longer gradients are cut to this length; 0: none are", ge=0, le=LARGEST_NUMBER)
    ] = 0.0
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
    batch_size: Annotated[int, setting("samples per step, over all devices", ge=1, le=LARGEST_COUNT)] = 64
    seed: Annotated[int, setting("of the split, the weights, the order and the augmentation", ge=0, lt=2**32)] = 0
    precision: Annotated[
        Literal["float32", "bfloat16"],
        setting("float32 or bfloat16, in which training computes; parameters and statistics are float32 always"),
    ] = "float32"
    save_seconds: Annotated[
        float, setting("at most this long between two saves of the state to resume from", ge=0, le=LONGEST_WAIT)
    ] = 60.0


@dataclass(frozen=True, config=_STRICT)
class Config:
    """One experiment."""

    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()


def load_config(path: str | Path, overrides: Mapping[str, str] | None = None) -> Config:
    """Reads a TOML file.

    Args:
        path: the file.
        overrides: values as written on the command line, by dotted names such as "model.levels".

    Returns:
        The configuration; settings that are not given have their defaults.

    Raises:
        InputError: for a file that is missing or not TOML, an unknown setting, and a wrong type or value.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read the configuration {printable(path)}: {error.strerror}; give a TOML file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the configuration {printable(path)} is not valid TOML: {_reason(error)}") from None
    return decode(tree, printable(path), overrides)


def decode(tree: dict[str, Any], source: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Checks a tree of settings, with others in their places, against the dataclasses; `source` is named in errors."""
    for name, text in (overrides or {}).items():
        _put(tree, name, _text(name, text) if _types().get(name) is str else _parse(name, text))
    _check_depth(tree, source)
    try:
        return TypeAdapter(Config).validate_json(_as_json(tree, source))
    except ValidationError as error:
        raise InputError(f"{source}: {listed(map(_explain, error.errors()), separator='; ')}") from None


def _check_depth(tree: Any, source: str, name: str = "", levels: int = _DEEPEST) -> None:
    """Raises InputError where lists and sections hold each other over more levels than settings do."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if parts and not levels:
        raise InputError(f"{source}: {printable(name)} is nested too deeply")
    for key, part in parts:
        _check_depth(part, source, f"{name}.{key}" if name else str(key), levels - 1)


def _as_json(tree: dict[str, Any], source: str) -> str:
    """Raises InputError for integers of thousands of digits."""
    try:
        return json.dumps(tree, default=lambda value: {type(value).__name__: str(value)})
    except ValueError as error:
        raise InputError(f"{source}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What Python means by an error in reading, in the words of somebody who writes a configuration."""
    if isinstance(error, RecursionError):
        return "lists or tables are nested too deeply"
    if isinstance(error, UnicodeError):
        return "there are bytes that are no text in UTF-8"
    return "a number has too many digits" if "int_max_str_digits" in str(error) else printable(error)


def save_config(config: Config, path: Path) -> None:
    path.write_text(tomli_w.dumps(asdict(config)), encoding="utf-8")


# Settings that may change between the parts of a run that was resumed: they change no number of it.
MAY_CHANGE = ("data.directory", "data.workers", "training.save_seconds")


def differences(one: Config, other: Config) -> list[str]:
    """The settings in which two configurations differ, without those that change no result."""
    found = []
    for name, *_ in settings():
        section, key = name.split(".")
        values = [getattr(getattr(config, section), key) for config in (one, other)]
        if values[0] != values[1] and name not in MAY_CHANGE:
            found.append(f"{name} = {values[0]} instead of {values[1]}")
    return found


def settings(kind: Any = Config, prefix: str = "") -> Iterator[tuple[str, type, str]]:
    """Dotted name, type and help text of every setting."""
    hints = get_type_hints(kind, include_extras=True)
    for item in fields(kind):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from settings(hint, f"{prefix}{item.name}.")
        else:
            kind = str if get_origin(hint.__origin__) is Literal else hint.__origin__
            yield prefix + item.name, kind, hint.__metadata__[0].description


@cache
def _types() -> dict[str, type]:
    return {name: kind for name, kind, _ in settings()}


def _parse(name: str, text: str) -> Any:
    """A value as TOML would have it; a bare word, or more than a value, is a string."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return _text(name, text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: {_reason(error)}, got {shown(text)}") from None
    return found["value"] if len(found) == 1 else text


def _text(name: str, text: str) -> str:
    """Raises InputError for bytes of a command line that are no text, which no file of settings can hold."""
    try:
        text.encode("utf-8")
    except UnicodeError as error:
        raise InputError(f"{name}: {_reason(error)}, got {shown(text)}") from None
    return text


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise InputError(
                f"cannot set {printable(name)}: {printable(part)} is a value in the configuration, not a section"
            )
    tree[last] = value


def _explain(problem: Mapping[str, Any]) -> str:
    *section, key = (str(part) for part in problem["loc"])
    name = printable(".".join([*section, key]))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known(section)
        return f"unknown setting {name}, known there are {', '.join(known)}{nearest(key, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}, got {shown(problem['input'])}"


def _known(section: list[str]) -> list[str]:
    kind: Any = Config
    for part in section:
        kind = get_type_hints(kind).get(part, kind)
    return [item.name for item in fields(kind)]
