"""Named arrays in files: .safetensors, .npz and PyTorch's .pth."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gnsnn_jax.errors import InputError, extra, printable, shown

Arrays = dict[str, np.ndarray]

WRAPPERS = ("model", "state_dict")  # what trainers nest the weights under
PREFIXES = ("module.", *(f"{name}." for name in WRAPPERS))  # of data-parallel training, and of flat formats


class Format(NamedTuple):
    read: Callable[[Path], Any]
    write: Callable[[Path, Arrays], None]


def read_arrays(path: str | Path) -> Arrays:
    """The arrays of a file by name, without what they are nested under.

    Raises InputError where there is no such file, where it is damaged, or where its format is unknown.
    """
    path = Path(path)
    format = _format(path)
    existing_file(path)
    if path.suffix.lower() in TORCH:
        _torch()
    try:
        with warnings.catch_warnings(action="ignore"):
            return _unprefixed(_unwrapped(format.read(path)))
    except InputError as error:
        raise InputError(f"{printable(path)}: {error}") from None
    except PermissionError:
        raise
    except Exception as error:  # whatever the readers meet in a damaged file
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]  # the first sentence
    return InputError(
        f"{printable(path)} cannot be read ({printable(reason)}); it is damaged, of another format than its "
        "name says, or holds Python objects besides arrays, where model.state_dict() alone is wanted"
    )


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], *, overwrite: bool = False) -> None:
    """Writes arrays by name, all at once or not at all.

    Raises InputError where the file exists and `overwrite` is false, where its directory does not
    exist, or where its format is unknown.
    """
    format = _format(Path(path))
    with whole_file(path, overwrite) as unfinished:
        # A copy in C order: one writer ignores strides, another wants arrays that may be written to.
        format.write(unfinished, {name: np.array(array, order="C") for name, array in arrays.items()})


def existing_file(path: str | Path) -> Path:
    """The path. Raises InputError where there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{printable(path)} is a directory, not a file" if path.is_dir() else f"there is no file {printable(path)}"
        )
    return path


@contextmanager
def whole_file(path: str | Path, overwrite: bool) -> Iterator[Path]:
    """Gives a path beside the file to write to, which becomes the file at the end of the context, or is removed.

    Raises InputError where the file exists and `overwrite` is false, and where its directory does not exist.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"{printable(path)} exists; give another path, or overwrite=True to replace a file")
    if not path.parent.is_dir():
        raise InputError(
            f"there is no directory {printable(path.parent)} to write {printable(path.name)} into; make it first"
        )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _format(path: Path) -> Format:
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"the format of {printable(path)} is unknown; its name must end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _unwrapped(contents: Any) -> Arrays:
    """The innermost weights of a nested checkpoint, all else in it left aside."""
    seen = set()
    while isinstance(contents, Mapping):
        if id(contents) in seen:
            raise InputError("the file holds a dictionary that holds itself, not weights; save model.state_dict()")
        seen.add(id(contents))
        nested = [contents[name] for name in WRAPPERS if isinstance(contents.get(name), Mapping)]
        if not nested:
            return {str(name): _array(str(name), value) for name, value in contents.items()}
        contents = nested[0]
    raise InputError(f"the file holds {type(contents).__name__}, not arrays by name; save model.state_dict()")


def _unprefixed(arrays: Arrays) -> Arrays:
    for prefix in PREFIXES:
        if arrays and all(name.startswith(prefix) for name in arrays):
            return _unprefixed({name.removeprefix(prefix): array for name, array in arrays.items()})
    return arrays


def _array(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; numpy has no bfloat16
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray):
        raise InputError(
            f"the file holds {type(value).__name__} under {shown(name)}, not an array; save model.state_dict()"
        )
    return value


def _read_npz(path: Path) -> Arrays:
    # Given a path, np.load would leave a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _write_npz(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:  # given a path, savez would append to its name
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read_safetensors(path: Path) -> Arrays:
    with extra("weights", "reading .safetensors"):
        from safetensors.numpy import load_file

    return load_file(path)


def _write_safetensors(path: Path, arrays: Arrays) -> None:
    with extra("weights", "writing .safetensors"):
        from safetensors.numpy import save_file

    save_file(arrays, path)


def _read_torch(path: Path) -> Any:
    torch = _torch()
    # Trainers store their command line beside the weights; a Namespace only holds values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _write_torch(path: Path, arrays: Arrays) -> None:
    torch = _torch()
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def _torch() -> ModuleType:
    with extra("torch", f"reading or writing {' and '.join(TORCH)}", _WITHOUT_TORCH):
        import torch
    return torch


TORCH = (".pth", ".pt")
_WITHOUT_TORCH = (
    "best after PyTorch's CPU build, as the default build brings gigabytes of CUDA; or convert the file to "
    ".safetensors where PyTorch is"
)
FORMATS: Mapping[str, Format] = {
    ".safetensors": Format(_read_safetensors, _write_safetensors),
    ".npz": Format(_read_npz, _write_npz),
    **dict.fromkeys(TORCH, Format(_read_torch, _write_torch)),
}
