"""Checkpoints with Orbax: trees of arrays beside a few words of JSON, and fingerprints that prove them whole."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax.errors import InputError, extra, listed, printable
from gnsnn_jax.runtime import devices

with extra("train"):
    import orbax.checkpoint as ocp

ITEMS = ("arrays", "about")
FINGERPRINTS = "fingerprints.json"
_ORBAX = str(Path(ocp.__file__).parent)
_OS_ERROR = re.compile(r"os_error_code='(\d{1,5})'")  # in each message of TensorStore about a file


def save(path: Path, arrays: Any, about: Mapping[str, Any]) -> None:
    """Writes a checkpoint all at once or not at all; one that is there is replaced.

    Args:
        path: the directory to make.
        arrays: any tree of arrays.
        about: what to say about them, as JSON holds it.

    Raises:
        InputError: where it cannot be written.
    """
    unfinished = path.absolute().with_name(f"{path.name}.unfinished")

    def finish() -> None:
        _write_fingerprints(unfinished)
        if path.exists():
            shutil.rmtree(path)
        unfinished.rename(path)

    with _quiet(), _writing(path):
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
            writer.save(unfinished, _contents(arrays, about), force=True)
        devices.in_first(finish)


def load(path: Path) -> tuple[Any, dict[str, Any]]:
    """Reads what `save` and `Checkpoints` wrote.

    Args:
        path: the directory of one checkpoint.

    Returns:
        The tree of arrays, in numpy, and what was said about them.

    Raises:
        InputError: where there is no checkpoint, and where it is damaged.
    """
    if not path.is_dir():
        raise InputError(
            f"no checkpoint at {printable(path)}; train a network first, or give the directory of another run"
        )
    if not (path / FINGERPRINTS).exists() and not (path / "arrays").exists():
        raise InputError(f"{printable(path)} is no checkpoint of this library; give the directory of one")
    _check_files(path)
    contents = ocp.args.Composite(arrays=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
    try:
        with _quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            found = reader.restore(path.absolute(), contents)
    except Exception as error:  # whatever Orbax meets in damaged files of its own
        raise InputError(
            f"the checkpoint {printable(path)} cannot be read ({type(error).__name__}); use another"
        ) from error
    if not isinstance(found.about, Mapping):
        raise InputError(f"the checkpoint {printable(path)} is no checkpoint of this library; use another")
    return jax.tree.map(np.asarray, found.arrays), dict(found.about)


class Checkpoints:
    """Numbered checkpoints in a directory, written in the background; the newest `keep` of them stay.

    A checkpoint is named by its number once it is whole; until then it has another name, and is
    removed by the next run if this one is killed. What goes wrong in the background is raised as
    InputError by the next call, and nothing is printed about it until the context ends.
    """

    def __init__(self, directory: Path, keep: int = 1):
        self.directory = directory
        self._current = 0  # the number of the checkpoint that is being written
        self._quiet = ExitStack()
        self._quiet.enter_context(_quiet())
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._finish),
        )
        with _writing(directory):
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def numbers(self) -> list[int]:
        """Those of the checkpoints that are there, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def path(self, number: int) -> Path:
        return self.directory / str(number)

    def save(self, number: int, arrays: Any, about: Mapping[str, Any]) -> None:
        """Starts to write one, after the one before it has been written; does nothing for a number that is there."""
        self.wait()
        with _writing(self.directory):
            if number not in self._manager.all_steps():
                self._current = number
                self._manager.save(number, args=_contents(arrays, about), force=True)

    def _finish(self) -> None:
        """Called in the background when all arrays are written, before Orbax gives the directory its name."""
        if devices.is_first():
            (unfinished,) = self.directory.glob(f"{self._current}.*")
            _write_fingerprints(unfinished)

    def remove(self, number: int) -> None:
        self._manager.delete(number)

    def wait(self) -> None:
        """Returns when all is written."""
        with _writing(self.directory):
            self._manager.wait_until_finished()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.wait()
        except InputError:
            if error is None:
                raise
        finally:
            with self._quiet:
                self._manager.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the context Orbax logs nothing, and a write that fails is raised once and reported nowhere else.

    Orbax logs each file that it touches. Where several files cannot be written, TensorStore raises the first failure;
    the others reach nobody: their futures are collected unread, or the event loop that waited for them is closed.
    asyncio then logs them, after the context too, and Python reports them as unraisable.
    """
    logging.getLogger("asyncio").addFilter(_is_not_a_failed_write)  # stays; adding it again changes nothing
    log, is_foreign = logging.getLogger("absl"), lambda record: not record.pathname.startswith(_ORBAX)
    report = sys.unraisablehook
    log.addFilter(is_foreign)
    sys.unraisablehook = lambda found: None if _is_of_a_failed_write(found.exc_value) else report(found)
    try:
        yield
    finally:
        sys.unraisablehook = report
        log.removeFilter(is_foreign)


def _is_not_a_failed_write(record: logging.LogRecord) -> bool:
    return not (record.exc_info and _os_error_of(record.exc_info[1]))


def _is_of_a_failed_write(exception: BaseException | None) -> bool:
    """A failed write itself, or that its event loop has been closed."""
    return str(exception) == "Event loop is closed" or _os_error_of(exception) is not None


def _os_error_of(exception: BaseException | None) -> str | None:
    """What the operating system says about a file that TensorStore could not write; None for other exceptions."""
    found = _OS_ERROR.search(str(exception))
    return os.strerror(int(found[1])) if found else None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a checkpoint is written into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever Orbax and TensorStore meet
        raise InputError(
            f"cannot write a checkpoint to {printable(path)}: {_os_error_of(error) or _first_line(error)}; make room "
            "there or give another directory"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0])


def _contents(arrays: Any, about: Mapping[str, Any]) -> ocp.args.Composite:
    arrays = jax.tree.map(np.asarray, arrays)
    return ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(dict(about)))


def _write_fingerprints(path: Path) -> None:
    (path / FINGERPRINTS).write_text(json.dumps(_fingerprints(path)), encoding="utf-8")


def _fingerprints(path: Path) -> dict[str, str]:
    """SHA-256 of each file of the arrays and the words about them."""
    files = (file for item in ITEMS for file in (path / item).rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): _fingerprint(file) for file in files}


def _stored_fingerprints(path: Path) -> dict[str, Any]:
    """Those that were written with a checkpoint; none where they cannot be read."""
    try:
        stored = json.loads((path / FINGERPRINTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _fingerprint(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _check_files(path: Path) -> None:
    """Raises InputError unless every file is as it was written; Orbax itself would notice only some damage."""
    wanted, found = _stored_fingerprints(path), _fingerprints(path)
    damaged = sorted(name for name in wanted if found.get(name) != wanted[name]) if wanted else [FINGERPRINTS]
    if damaged:
        raise InputError(
            f"the checkpoint {printable(path)} is damaged in {listed(damaged, 3)}; use another, or train again"
        )
