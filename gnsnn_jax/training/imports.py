"""A network whose weights come from PyTorch, as a run like those of training."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from gnsnn_jax.command_line import directory
from gnsnn_jax.errors import InputError
from gnsnn_jax.interop.weights import load_weights
from gnsnn_jax.training import checkpoints, devices
from gnsnn_jax.training.config import Config, decode
from gnsnn_jax.training.data import Dataset, load_dataset
from gnsnn_jax.training.network import network_of
from gnsnn_jax.training.runs import CHECKPOINTS, Run, check_workdir, create_run, default_workdir


def add_import_options(group: Any) -> None:
    """The options of the command line that describe a file of weights and the data it was trained on."""
    group.add_argument("--weights", type=Path, metavar="FILE", help=".safetensors, .npz or .pth in the published names")
    group.add_argument("--model", help="network that the weights belong to, such as vgg16")
    group.add_argument("--levels", help="levels L that it was trained with; no file says")
    group.add_argument("--classes", help="its outputs (as many as the data set has classes)")
    group.add_argument("--dataset", help="data set to test it on")
    group.add_argument("--data-dir", help="where NAME.npz or the prepared set is, unless it is built in")
    group.add_argument("--image-size", help="height and width to resize images to (as stored)")
    group.add_argument("--mean", help="of the pixels per channel, as [125.3, 123.0] (of the training split)")
    group.add_argument("--deviation", help="of the pixels per channel (of the training split)")
    group.add_argument("--seed", help="of the split of a data set that comes without one (0)")
    group.add_argument("--workdir", type=directory, help="run directory to make (runs/FILE-DATE-TIME)")
    group.add_argument("--overwrite", action="store_true", help="set the run that the directory holds aside")


SETTINGS = {
    "model": "model.name",
    "levels": "model.levels",
    "classes": "model.classes",
    "dataset": "data.name",
    "data_dir": "data.directory",
    "image_size": "data.image_size",
    "mean": "data.mean",
    "deviation": "data.deviation",
    "seed": "training.seed",
}
REQUIRED = ("model", "levels", "dataset")


def import_run(command: Namespace) -> tuple[Run, Dataset]:
    """Reads the weights and the data set that a command line names; writes nothing yet.

    Raises InputError where an option is missing or wrong, where the weights do not fit the network,
    and where the work directory holds a run already.
    """
    if command.run:
        raise InputError(f"give either the run {command.run} or --weights {command.weights}, not both")
    if missing := [f"--{name}" for name in REQUIRED if getattr(command, name) is None]:
        raise InputError(f"--weights also needs {', '.join(missing)}, which the file does not say")
    config = _config(command)
    workdir = command.workdir or default_workdir(command.weights, devices.agreed_time())
    check_workdir(workdir, command.overwrite)
    dataset = load_dataset(config.data, config.training.seed)
    variables = load_weights(command.weights, network_of(config.model, dataset.num_classes))
    return Run(workdir, config, variables), dataset


def keep_import(run: Run, command: Namespace) -> None:
    """Makes the run directory, with the configuration and the weights as its checkpoint."""
    devices.in_first(lambda: create_run(run.directory, run.config, command.overwrite))
    checkpoints.save(run.directory / CHECKPOINTS / "0", run.variables, {"weights": str(command.weights)})


def refuse_import_options(command: Namespace) -> None:
    """Raises InputError for options that say nothing without --weights."""
    given = [name for name in (*SETTINGS, "workdir") if getattr(command, name) is not None]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{options} only means something beside a file of weights; give it with --weights")


def _config(command: Namespace) -> Config:
    given = {setting: getattr(command, name) for name, setting in SETTINGS.items()}
    overrides = {setting: value for setting, value in given.items() if value is not None}
    return decode({}, "command line", overrides)
