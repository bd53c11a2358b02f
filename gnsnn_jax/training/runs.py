"""Run directories: the configuration, the best checkpoint, metrics.jsonl and summary.json of one run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gnsnn_jax.errors import InputError
from gnsnn_jax.training import checkpoints
from gnsnn_jax.training.config import Config, load_config, save_config

RUNS = Path("runs")
CONFIG, CHECKPOINTS, METRICS, SUMMARY = "config.toml", "checkpoints", "metrics.jsonl", "summary.json"
CONVERSION = ("report.json", "accuracy.png", "converted")
_OWN = (CONFIG, CHECKPOINTS, METRICS, SUMMARY, *CONVERSION)


class Run(NamedTuple):
    directory: Path
    config: Config
    variables: Any


def default_workdir(config_path: Path) -> Path:
    """A new directory under runs/, named after the experiment and the time."""
    return RUNS / f"{config_path.stem}-{datetime.now():%Y%m%d-%H%M%S}"


def create_run(workdir: Path, config: Config, overwrite: bool) -> None:
    """Makes a run directory and writes the configuration into it.

    Raises InputError if it holds a run already, unless `overwrite`, which sets it aside in previous-1,
    previous-2, … within the directory: files of these names may be somebody's own.
    """
    check_workdir(workdir, overwrite)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        set_aside(workdir, _OWN)
        save_config(config, workdir / CONFIG)
    except OSError as error:
        raise InputError(f"cannot write to the work directory {workdir}: {error.strerror}") from None


def check_workdir(workdir: Path, overwrite: bool) -> None:
    """Raises InputError for a directory that holds a run, unless `overwrite`, and for a file."""
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"the work directory {workdir} is a file; give a directory with --workdir")
    held = [name for name in _OWN if (workdir / name).exists()]
    if held and not overwrite:
        raise InputError(
            f"the work directory {workdir} already holds a run ({', '.join(held)}); give another with "
            "--workdir, or --overwrite to set it aside"
        )


def save_best(workdir: Path, epoch: int, variables: Any, about: Mapping[str, Any]) -> None:
    """Writes the checkpoint of a new best epoch, then removes the one before it."""
    older = _epochs(workdir)
    checkpoints.save(workdir / CHECKPOINTS / str(epoch), variables, {**about, "epoch": epoch})
    for path in older:
        shutil.rmtree(path)


def append_metrics(workdir: Path, metrics: Mapping[str, Any]) -> None:
    with (workdir / METRICS).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(metrics) + "\n")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def newest_run(runs: Path = RUNS) -> Path:
    """The run under `runs` whose checkpoint is the youngest. Raises InputError where there is none."""
    found = [path.parent for path in runs.glob(f"*/{CONFIG}") if _epochs(path.parent)]
    if not found:
        raise InputError(f"no run with a checkpoint under {runs}/; train a network first: python train.py")
    return max(found, key=lambda run: max(path.stat().st_mtime for path in _epochs(run)))


def load_run(directory: Path) -> Run:
    """Reads the configuration and the best checkpoint of a run.

    Raises InputError for a directory that holds no run and for a damaged checkpoint.
    """
    if not directory.is_dir():
        raise InputError(f"no run directory at {directory}; give one that train.py wrote")
    if not (directory / CONFIG).is_file():
        raise InputError(f"{directory} holds no {CONFIG}, so it is no run of train.py; give one that is")
    config = load_config(directory / CONFIG)
    found = _epochs(directory)
    if not found:
        raise InputError(f"the run {directory} has no checkpoint; train it to the end of an epoch at least")
    variables, _ = checkpoints.load(found[-1])
    check_numbers(variables, f"the checkpoint {found[-1]}")
    return Run(directory, config, variables)


def check_numbers(variables: Any, what: str) -> None:
    """Raises InputError that names the arrays with NaN or infinity."""
    bad = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if not np.isfinite(leaf).all()
    ]
    if bad:
        raise InputError(f"{what} holds NaN or infinity in {', '.join(bad)}; train again or use another")


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


def summary(config: Config, **found: Any) -> dict[str, Any]:
    return {"dataset": config.data.name, "model": config.model.name, "levels": config.model.levels, **found}


def _epochs(directory: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    paths = (directory / CHECKPOINTS).glob("*")
    return sorted(
        (path for path in paths if path.name.isdigit() and any(path.glob("*"))), key=lambda path: int(path.name)
    )
