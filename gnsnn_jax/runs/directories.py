"""Run directories: configuration, checkpoints, metrics, summary and what conversion adds, in one place."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.errors import InputError, listed, printable
from gnsnn_jax.interop.functions import is_own, with_arrays
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runtime.config import Config, differences, load_config, save_config

RUNS = Path("runs")
CONFIG, SUMMARY, CURVES = "config.toml", "summary.json", "curves.png"
METRICS, EVENTS = "metrics.jsonl", "tensorboard"
CHECKPOINTS, STATE = "checkpoints", "state"  # the best weights; all that training goes on from
CONVERSION = ("report.json", "report.md", "accuracy.png", "figures", "converted")
ARENA = ("arena.json", "arena.md", "arena.png")
_OWN = (CONFIG, CHECKPOINTS, STATE, METRICS, EVENTS, SUMMARY, CURVES, *CONVERSION, *ARENA)


class Run(NamedTuple):
    directory: Path
    config: Config
    variables: Any


def default_workdir(config_path: Path, time: float | None = None) -> Path:
    """A new directory under runs/, named after the experiment and the time, by default the present one."""
    moment = datetime.now() if time is None else datetime.fromtimestamp(time)
    return RUNS / f"{config_path.stem}-{moment:%Y%m%d-%H%M%S}"


def resumed_run(workdir: Path | None, config_path: Path) -> Path | None:
    """The run to go on with, if there is one: that in the work directory, or the newest unfinished one under runs/."""
    if workdir is None:
        return unfinished_run(config_path)
    return workdir if (workdir / CONFIG).is_file() else None


def unfinished_run(config_path: Path) -> Path | None:
    """The newest run of an experiment under runs/ that has not come to its end, if there is one."""
    found = [path.parent for path in RUNS.glob(f"{glob.escape(config_path.stem)}-*/{CONFIG}")]
    found = [run for run in found if not (run / SUMMARY).exists()]
    return max(found, key=lambda run: (run / CONFIG).stat().st_mtime, default=None)


def create_run(workdir: Path, config: Config, overwrite: bool) -> None:
    """Makes a run directory and writes the configuration into it.

    Args:
        workdir: the directory, which may exist.
        config: the settings of the run.
        overwrite: whether a run that it holds is moved to previous-1, previous-2, … within it; nothing is deleted.

    Raises:
        InputError: if it holds a run and `overwrite` is false, and where it cannot be written.
    """
    check_workdir(workdir, overwrite)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        set_aside(workdir, _OWN)
        save_config(config, workdir / CONFIG)
    except OSError as error:
        raise InputError(f"cannot write to the work directory {printable(workdir)}: {error.strerror}") from None


def check_workdir(workdir: Path, overwrite: bool) -> None:
    """Raises InputError for a directory that holds a run, unless `overwrite`, and for a file."""
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"the work directory {printable(workdir)} is a file; give a directory with --workdir")
    held = [name for name in _OWN if (workdir / name).exists()]
    if held and not overwrite:
        raise InputError(
            f"the work directory {printable(workdir)} already holds a run ({', '.join(held)}); give another with "
            "--workdir, or --overwrite to set it aside"
        )


def check_resumed(workdir: Path, config: Config) -> None:
    """Raises InputError unless the run in a directory has these settings and can go on."""
    started = load_config(workdir / CONFIG)
    if changed := differences(started, config):
        raise InputError(
            f"the run in {printable(workdir)} was started with other settings ({listed(changed, separator='; ')}); "
            "resume it with its own or start a new one with another --workdir"
        )
    if not (workdir / STATE).is_dir() and (workdir / CHECKPOINTS).is_dir():
        raise InputError(
            f"the run in {printable(workdir)} has no {STATE}/ to resume from; start a new one with another --workdir"
        )


def write_json(path: Path, content: Any) -> None:
    """Writes the whole file or, if there is no room, none."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def newest_run(runs: Path = RUNS) -> Path:
    """The run under `runs` whose checkpoint is the youngest. Raises InputError where there is none."""
    found = [path.parent for path in runs.glob(f"*/{CONFIG}") if _epochs(path.parent)]
    if not found:
        raise InputError(f"no run with a checkpoint under {printable(runs)}/; train a network first: python train.py")
    return max(found, key=lambda run: max(path.stat().st_mtime for path in _epochs(run)))


def load_run(directory: Path) -> Run:
    """Reads the configuration and the best checkpoint of a run.

    Args:
        directory: a run directory of train.py or of an import by convert.py.

    Returns:
        The directory, its configuration and the variables of the network.

    Raises:
        InputError: for a directory that holds no run, and for a damaged configuration or checkpoint.
    """
    if not directory.is_dir():
        raise InputError(f"no run directory at {printable(directory)}; give one that train.py wrote")
    if not (directory / CONFIG).is_file():
        raise InputError(f"{printable(directory)} holds no {CONFIG}, so it is no run of train.py; give one that is")
    config = load_config(directory / CONFIG)
    variables, _ = load_best(directory, config.model.name)
    own = is_own(config.model.name)
    return Run(directory, config, with_arrays(config.model.name, variables) if own else variables)


def load_best(directory: Path, model: str) -> tuple[Any, dict[str, Any]]:
    """The weights of the best epoch of a run of a model, and what is said about them.

    Raises InputError where there are none, and where they are damaged or not those of any network.
    """
    best = best_checkpoint(directory)
    if not best:
        raise InputError(
            f"the run {printable(directory)} has no checkpoint; train it to the end of an epoch, or start a new run"
        )
    variables, about = checkpoints.load(best)
    check_arrays_of(model, variables, f"the checkpoint {printable(best)}")
    return variables, about


def check_arrays_of(model: str, variables: Any, what: str) -> None:
    """Raises InputError for arrays that no network of this name can have."""
    (check_numbers if is_own(model) else check_weights)(variables, what)


def check_numbers(variables: Any, what: str) -> None:
    """Raises InputError that names the arrays with NaN or infinity, and those that hold no numbers."""
    is_none = lambda path, array: (
        not (jnp.issubdtype(array.dtype, jnp.number) or jnp.issubdtype(array.dtype, jnp.bool_))
    )
    _refuse_arrays(variables, is_none, f"{what} holds no numbers in")
    _refuse_arrays(variables, lambda path, array: not np.isfinite(array).all(), f"{what} holds NaN or infinity in")


def check_weights(variables: Any, what: str) -> None:
    """The same for a network of ours, of floating-point arrays: thresholds positive, variances not negative."""
    check_numbers(variables, what)
    is_whole = lambda path, array: not jnp.issubdtype(array.dtype, jnp.floating)
    _refuse_arrays(variables, is_whole, f"{what} holds integers instead of floating-point numbers in")
    tiny = np.finfo(np.float32).tiny  # smaller numbers count as 0 on most devices
    is_none = lambda path, array: path.endswith("threshold") and not (array >= tiny).all()
    _refuse_arrays(variables, is_none, f"{what} holds thresholds that are not positive in")
    is_negative = lambda path, array: path.endswith("/var") and (array < 0).any()
    _refuse_arrays(variables, is_negative, f"{what} holds negative variances in")


def _refuse_arrays(variables: Any, is_bad: Callable[[str, np.ndarray], bool], what: str) -> None:
    """Raises InputError that names the arrays, by their paths, which are bad."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    named = ((jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf)) for path, leaf in leaves)
    if bad := [path for path, array in named if is_bad(path, array)]:
        raise InputError(f"{what} {listed(bad)}; train again or use another")


def set_aside(directory: Path, names: tuple[str, ...]) -> Path | None:
    """Moves those of the files that exist into a new directory previous-1, previous-2, … beside them."""
    held = [directory / name for name in names if (directory / name).exists()]
    if not held:
        return None
    taken = {path.name for path in directory.glob("previous-*")}
    number = next(n for n in range(1, len(taken) + 2) if f"previous-{n}" not in taken)
    kept = directory / f"previous-{number}"
    kept.mkdir()
    for path in held:
        path.rename(kept / path.name)
    return kept


def best_checkpoint(directory: Path) -> Path | None:
    """That of the best epoch of a run, if one has been written."""
    return _epochs(directory)[-1] if _epochs(directory) else None


def _epochs(directory: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    paths = (directory / CHECKPOINTS).glob("*")
    return sorted(
        (path for path in paths if path.name.isdecimal() and any(path.glob("*"))), key=lambda path: int(path.name)
    )
