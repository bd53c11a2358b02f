"""What the two scripts share: one-sentence errors, exit status 2, progress bars."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax

from gnsnn_jax.errors import InputError, at_least_one, extra, nearest, printable, shown

with extra("train"):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(markup=False, emoji=False)  # as names in brackets and between colons are foreign ones
LONGEST_MESSAGE = 1000  # characters of a sentence about the command line
LONGEST_LINE = 3000  # characters that are printed of a message, whatever was put into it
_DOES_NOT_SUFFICE = "does not suffice; lower the batch size, the steps or the size of the images"
_INTEGER, _MOST_DIGITS = re.compile(r"[+-]?[0-9]+(_[0-9]+)*"), 100  # as TOML has them
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSALS = (InputError, OSError, MemoryError, jax.errors.JaxRuntimeError)  # of which `refusal` tells a sentence


class Interrupted(Exception):
    """A script that was asked to stop by a signal, and has put all in order; `status` is its exit status."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number


class Parser(argparse.ArgumentParser):
    """Options in full only; a mistake is one sentence, with the nearest option where there is one."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        return parsed

    def _refuse(self, argument: str) -> NoReturn:
        name = argument.split("=")[0]
        if not argument.startswith("-"):
            self.error(f"one argument too many: {shown(argument)}")
        self.error(f"unknown option {printable(name)}{nearest(name, self._option_string_actions)}")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{printable(message, LONGEST_MESSAGE)} ({self.prog} --help explains all options)")


def integer(text: str) -> int:
    """An integer in decimal digits, for argparse."""
    text = text.strip()
    if not _INTEGER.fullmatch(text) or len(text) > _MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not an integer of at most {_MOST_DIGITS} digits")
    return int(text)


def count(text: str) -> int:
    """An integer of at least 1, for argparse."""
    try:
        return at_least_one("it", integer(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("it ")) from None


def probability(text: str) -> float:
    """A number above 0 and at most 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number") from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"it must be above 0 and at most 1, got {printable(text)}")
    return value


def word(text: str) -> str:
    """A text that is not empty, for argparse."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"it must not be empty, got {shown(text)}")
    return text


def directory(text: str) -> Path:
    """The path of a directory, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("a directory needs a name")
    return Path(text)


def file(text: str) -> Path:
    """The path of a file, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("a file needs a name")
    return Path(text)


def parse_steps(texts: Sequence[str]) -> list[int]:
    """Numbers of time-steps in ascending order. Raises InputError for what is none."""
    items = separated(texts)
    try:
        steps = sorted(set(map(integer, items)))
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--steps takes integers such as 1 2 4: {error}") from None
    if not steps:
        raise InputError("--steps takes at least one number of time-steps")
    return [at_least_one("--steps", step) for step in steps]


def separated(values: Sequence[str]) -> list[str]:
    """The items of options that take them with commas or blanks between."""
    return [item for value in values for item in value.replace(",", " ").split()]


def say(text: str) -> None:
    """Prints a sentence, which the terminal breaks where it is narrower: as one line, so that paths can be copied."""
    console.print(text, soft_wrap=True)


def run_script(name: str, main: Callable[[], None]) -> int:
    """Runs a script.

    Args:
        name: of the script, the first word of its messages.
        main: what it does.

    Returns:
        The exit status: 0; 2 for an error that the user can mend, told in one sentence; 128 and the number of
        a signal that ended it.
    """
    try:
        main()
    except Interrupted as stop:
        return _end(f"{name}: {stop}", stop.status)
    except REFUSALS as error:
        reason = refusal(error)
        if reason is None:
            raise
        return _end(f"{name}: error: {reason}", 2)
    except KeyboardInterrupt:
        return _end(f"{name}: interrupted", 130)
    return 0


def refusal(error: Exception) -> str | None:
    """What went wrong in one sentence, where the user can mend it; None for any other error."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM):
        return f"{error.strerror}: {printable(error.filename)}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"the memory of this machine {_DOES_NOT_SUFFICE}"
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return f"the memory of the device {_DOES_NOT_SUFFICE}"
    return None


def _end(message: str, status: int) -> int:
    """Prints a message to standard error, control characters in foreign parts of it as escape sequences."""
    print("\n".join(printable(line, LONGEST_LINE) for line in message.split("\n")), file=sys.stderr)
    return status


def keep_compilations() -> None:
    """Keeps compiled programs in the user's cache directory for the next run, if that can be written.

    A cache that JAX is configured to use already, such as by JAX_COMPILATION_CACHE_DIR, is left as it is.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
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
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    ]
    return Progress(*columns, console=console)
