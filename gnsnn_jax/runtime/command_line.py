"""What the two scripts share: one-sentence errors, exit status 2, progress bars."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gnsnn_jax.errors import InputError, at_least_one, nearest

console = Console()
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Interrupted(Exception):
    """A script that was asked to stop by a signal, and has put all in order; `status` is its exit status."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number


class Parser(argparse.ArgumentParser):
    """Options in full only; a mistake is one sentence, with the nearest option where there is one."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        return parsed

    def _refuse(self, argument: str) -> NoReturn:
        name = argument.split("=")[0]
        if not argument.startswith("-"):
            self.error(f"one argument too many: {argument!r}")
        self.error(f"unknown option {name}{nearest(name, self._option_string_actions)}")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} ({self.prog} --help explains all options)")


def count(text: str) -> int:
    """An integer of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
    try:
        return at_least_one("it", value)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("it ")) from None


def probability(text: str) -> float:
    """A number above 0 and at most 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"it must be above 0 and at most 1, got {text}")
    return value


def directory(text: str) -> Path:
    """A path that is not empty, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("a directory needs a name")
    return Path(text)


def parse_steps(texts: Sequence[str]) -> list[int]:
    """Numbers of time-steps in ascending order. Raises InputError for what is none."""
    items = separated(texts)
    try:
        steps = sorted({int(item) for item in items})
    except ValueError:
        raise InputError(f"--steps takes integers such as 1 2 4, got {' '.join(items)}") from None
    if not steps:
        raise InputError("--steps takes at least one number of time-steps")
    return [at_least_one("--steps", step) for step in steps]


def separated(values: Sequence[str]) -> list[str]:
    """The items of options that take them with commas or blanks between."""
    return [item for value in values for item in value.replace(",", " ").split()]


def run_script(name: str, main: Callable[[], None]) -> int:
    """Runs a script; what the user can mend becomes one sentence and status 2, a signal 128 and its number."""
    try:
        main()
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return stop.status
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        place = f": {error.filename}" if error.filename else ""
        print(f"{name}: error: {error.strerror}{place}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(
            f"{name}: error: the memory of the device does not suffice; lower the batch size or the steps",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def keep_compilations() -> None:
    """Keeps compiled programs in the user's cache directory for the next run; where it is not to be written, nowhere.

    A directory that JAX was told of, as by JAX_COMPILATION_CACHE_DIR, stays the one it uses.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gnsnn_jax"
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    if os.access(cache, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(cache))


def resume_command(workdir: Path) -> str:
    """The command line of this process, as it goes on with the run in a directory."""
    arguments = [argument for argument in sys.argv if argument not in ("--overwrite", "--resume")]
    named = any(argument.split("=")[0] == "--workdir" for argument in arguments)
    return shlex.join(["python", *arguments, *([] if named else ["--workdir", str(workdir)]), "--resume"])


def progress_bar() -> Progress:
    """Fits 80 columns with a note of 45."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    ]
    return Progress(*columns, console=console)
