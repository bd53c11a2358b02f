"""Networks that were not trained here, as runs like those of training: PyTorch's weights, a user's function or file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnsnn_jax.data.sets import Dataset, load_dataset
from gnsnn_jax.errors import InputError
from gnsnn_jax.interop.functions import by_path, own_network
from gnsnn_jax.interop.network_files import READERS, is_network_file
from gnsnn_jax.interop.weights import load_weights
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.directories import CHECKPOINTS, Run, check_numbers, check_workdir, create_run, default_workdir
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.command_line import directory, file, word
from gnsnn_jax.runtime.config import Config, decode

OWN_LEVELS = "16"  # of the neurons that a user's own network gets by default


def add_import_options(group: Any) -> None:
    """The options of the command line that describe a network and the data it was trained on."""
    group.add_argument("--weights", type=file, metavar="FILE", help=".safetensors, .npz or .pth in the published names")
    group.add_argument(
        "--network",
        type=word,
        metavar="NETWORK",
        help=f"of yours: a file ({', '.join(READERS)}), or MODULE:FUNCTION, which returns (apply, variables) or a "
        "module of PyTorch",
    )
    group.add_argument("--model", type=word, help="network that the weights belong to, such as vgg16")
    group.add_argument(
        "--levels",
        type=word,
        help=f"levels L that the weights were trained with; of a --network, members and probe steps ({OWN_LEVELS})",
    )
    group.add_argument("--classes", type=word, help="outputs of the weights (as many as the data set has classes)")
    group.add_argument("--dataset", type=word, help="data set to test it on")
    group.add_argument("--data-dir", type=word, help="where NAME.npz or the prepared set is, unless it is built in")
    group.add_argument("--image-size", type=word, help="height and width to resize images to (as stored)")
    group.add_argument("--mean", type=word, help="of the pixels per channel, as [125.3, 123.0] (of the training split)")
    group.add_argument("--deviation", type=word, help="of the pixels per channel (of the training split)")
    group.add_argument("--seed", type=word, help="of the split of a data set that comes without one (0)")
    group.add_argument("--workdir", type=directory, help="run directory to make (runs/NAME-DATE-TIME)")
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


def import_run(command: Namespace) -> tuple[Run, Dataset]:
    """Reads the network and the data set that a command line names; writes nothing yet.

    Args:
        command: the options of `add_import_options`.

    Returns:
        The run, as `load_run` would read it, and its data set.

    Raises:
        InputError: where an option is missing or wrong, where the weights do not fit the network, where the
            user's function fails, and where the work directory holds a run already.
    """
    config = _config(command)
    workdir = command.workdir or default_workdir(_path_of(command), devices.agreed_time())
    check_workdir(workdir, command.overwrite)
    dataset = load_dataset(config.data, config.training.seed)
    if command.network:
        variables = own_network(config.model.name).variables
        check_numbers(variables, f"what {command.network} returned")
    else:
        variables = load_weights(command.weights, build_network(config.model, dataset.num_classes))
    return Run(workdir, config, variables), dataset


def keep_import(run: Run, command: Namespace) -> None:
    """Makes the run directory, with the configuration and the weights as its checkpoint."""
    devices.in_first(lambda: create_run(run.directory, run.config, command.overwrite))
    variables = by_path(run.variables) if command.network else run.variables
    source = {"network": command.network} if command.network else {"weights": str(command.weights)}
    checkpoints.save(run.directory / CHECKPOINTS / "0", variables, source)


def refuse_import_options(command: Namespace) -> None:
    """Raises InputError for options that have no meaning for a run of train.py."""
    if given := _given(command, (*SETTINGS, "workdir")):
        raise InputError(f"{given} only means something beside a file of weights; give it with --weights or --network")


def _config(command: Namespace) -> Config:
    _check_options(command)
    given = {setting: getattr(command, name) for name, setting in SETTINGS.items()}
    if command.network:
        levels = command.levels or OWN_LEVELS
        given |= {"model.name": _network_name(command.network), "model.levels": levels, "model.activation": "relu"}
    return decode({}, "command line", {setting: value for setting, value in given.items() if value is not None})


def _check_options(command: Namespace) -> None:
    """Raises InputError for options that contradict each other, are missing, or have no meaning with the others."""
    kind, needed, meaningless = _rules(command)
    sources = [("the run", command.run), ("--weights", command.weights), ("--network", command.network)]
    named = [f"{what} {value}" for what, value in sources if value]
    if len(named) > 1:
        raise InputError(f"give either {' or '.join(named)}, not both")
    if missing := [f"--{name}" for name in needed if getattr(command, name) is None]:
        raise InputError(f"{kind} also needs {', '.join(missing)}, which it does not say")
    if given := _given(command, meaningless):
        raise InputError(f"{given} comes with {kind}; leave it out")


def _rules(command: Namespace) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The option that names the network, those that it needs, and those that it makes meaningless."""
    if command.network:
        return "--network", ("dataset",), ("model", "classes")
    return "--weights", ("model", "levels", "dataset"), ()


def _given(command: Namespace, names: Sequence[str]) -> str:
    """Those of the options that were given, as they are written."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(command, name) is not None)


def _network_name(given: str) -> str:
    """The name of a user's network, a file with its folders, so that a stored network finds it from anywhere."""
    return str(Path(given).expanduser().absolute()) if is_network_file(given) else given


def _path_of(command: Namespace) -> Path:
    """What the run is named after."""
    if command.network and not is_network_file(command.network):
        return Path(command.network.replace(".", "-").replace(":", "-"))
    return Path(command.network or command.weights)
