"""What the JSON of a run says, as classes that are checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from gnsnn_jax.data.statistics import Statistics
from gnsnn_jax.errors import LARGEST_COUNT, InputError, extra, listed, printable
from gnsnn_jax.runtime.config import LARGEST_SIDE, Model

with extra("train"):
    from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
    from pydantic.dataclasses import dataclass

T = TypeVar("T")
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Share = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(allow_inf_nan=True)]  # that of the validation split may overflow
_STORED = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")


@dataclass(frozen=True, config=_STORED)
class Epoch:
    """One line of metrics.jsonl, and what is said about a checkpoint of the best epoch."""

    epoch: Count
    train_loss: Loss
    train_accuracy: Share
    validation_loss: Loss
    validation_accuracy: Share
    learning_rate: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Greater for a better epoch: by validation accuracy, then by loss."""
        return self.validation_accuracy, -self.validation_loss


@dataclass(frozen=True, config=_STORED)
class Summary:
    """The contents of summary.json."""

    dataset: str
    model: str
    levels: Count
    parameters: int
    best_epoch: Count
    validation_accuracy: Share
    test_accuracy: Share
    test_samples: Annotated[int, Field(ge=1)]
    seconds: float


@dataclass(frozen=True, config=_STORED)
class StoredNetwork:
    """What is said about a converted network beside its arrays."""

    model: Model
    num_classes: Count
    image_shape: tuple[Side, Side, Side]
    statistics: Statistics
    method: dict[str, Any]
    steps: Count
    thresholds: dict[str, Any] | None = None
    corrections: dict[str, dict[str, Any]] | None = None
    program: dict[str, Any] | None = None  # of a network of PyTorch or ONNX, see program_to_json


def read_json(path: Path, kind: type[T], remedy: str) -> T:
    """Reads a file of JSON as the fields of a class.

    Args:
        path: the file.
        kind: a dataclass of this module.
        remedy: what to do about a damaged file, as the end of a sentence.

    Returns:
        An instance of `kind`; keys that it does not have are left aside.

    Raises:
        InputError: for a file that cannot be read, for what is not JSON, and for a field that is missing or wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {printable(path)}: {error.strerror}; {remedy}") from None
    return parse_json(content, kind, printable(path), remedy)


def parse_json(content: bytes | str, kind: type[T], source: str, remedy: str) -> T:
    """The same for JSON that has been read; `source` is named in the error."""
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        faults = listed(map(_fault, error.errors(include_url=False)), 3, separator="; ")
        raise InputError(f"{source} is damaged or of something else ({faults}); {remedy}") from None


def check_json(tree: Any, kind: type[T], source: str, remedy: str) -> T:
    """The same for a tree that JSON was decoded to."""
    try:
        content = json.dumps(tree)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{source} is damaged or of something else ({type(error).__name__}: {printable(error)}); {remedy}"
        ) from None
    return parse_json(content, kind, source, remedy)


def _fault(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
    return f"{place}: {message}" if place else message
