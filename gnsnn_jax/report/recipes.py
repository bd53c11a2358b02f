"""The recipes of configs/ as a command asks for them, and where their runs are."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from gnsnn_jax.errors import InputError, nearest, printable
from gnsnn_jax.report.files import REPORT
from gnsnn_jax.report.published_figures import SETS
from gnsnn_jax.runs.directories import CONFIG, SUMMARY
from gnsnn_jax.runtime.command_line import separated
from gnsnn_jax.runtime.config import Config, Data, load_config

STAND_IN = Data("digits", image_size=32, test_fraction=0.25, validation_fraction=0.2, crop_padding=4)
STAND_IN_BATCH = 64  # as of such a small set
SPEED = re.compile(r"^#.*?([\d,]+) images a second on ([\w -]*\w)", re.MULTILINE)  # in the comments of a recipe


@dataclass(frozen=True)
class Recipe:
    """A configuration of configs/ with a seed.

    Attributes:
        name: Of its file, without .toml.
        config: Its settings, those of the command in place.
        speed: Images a second and the device, where the comments of the file state them.
        workdir: The directory of its run.
    """

    name: str
    config: Config
    speed: tuple[int, str] | None
    workdir: Path

    def __str__(self) -> str:
        return f"{self.name}, seed {self.config.training.seed}"

    @property
    def is_started(self) -> bool:
        return (self.workdir / CONFIG).is_file()

    @property
    def is_trained(self) -> bool:
        """Whether it has been trained to its end."""
        return self.is_started and (self.workdir / SUMMARY).is_file()

    @property
    def is_done(self) -> bool:
        """Whether it has been trained and converted."""
        return self.is_trained and (self.workdir / REPORT).is_file()


def recipes_of(command: Namespace) -> list[Recipe]:
    """Returns the recipes that a command asks for, each with each seed, in the order of their names.

    Args:
        command: What `reproduce.parse` returned.

    Raises:
        InputError: for an unknown data set or recipe, and for a folder without recipes.
    """
    if command.dataset not in SETS:
        raise InputError(
            f"unknown data set {command.dataset!r}; published figures are held of {', '.join(SETS)}"
            f"{nearest(command.dataset, SETS)}"
        )
    files = {path.stem: path for path in sorted(command.configs.glob(f"{command.dataset}_*.toml"))}
    if not files:
        raise InputError(
            f"there is no recipe {command.dataset}_*.toml in {printable(command.configs)}; give the folder configs of "
            "the repository by --configs"
        )
    names = list(dict.fromkeys(separated(command.recipes))) if command.recipes else list(files)
    if unknown := [name for name in names if name not in files]:
        raise InputError(
            f"unknown recipe {unknown[0]!r} of {command.dataset}; there are {', '.join(files)}"
            f"{nearest(unknown[0], files)}"
        )
    return [recipe for name in names for recipe in _with_seeds(command, files[name])]


def _with_seeds(command: Namespace, path: Path) -> list[Recipe]:
    config, found = load_config(path), SPEED.search(path.read_text(encoding="utf-8"))
    speed = (int(found[1].replace(",", "")), found[2]) if found else None
    recipes = []
    for seed in dict.fromkeys(command.seeds or [config.training.seed]):
        workdir = command.workdir / f"{path.stem}{suffix_of(command)}-seed{seed}"
        recipes.append(Recipe(path.stem, _changed(command, config, seed), speed, workdir))
    return recipes


def suffix_of(command: Namespace) -> str:
    """What the names of runs and tables say about the changes that a command makes, so that none hides another."""
    return ("-stand-in" if command.stand_in else "") + (f"-{command.epochs}-epochs" if command.epochs else "")


def _changed(command: Namespace, config: Config, seed: int) -> Config:
    """The settings of a recipe with those of the command in place."""
    training = replace(config.training, seed=seed, epochs=command.epochs or config.training.epochs)
    parts = command.micro_batches or config.optimizer.micro_batches
    config = replace(config, optimizer=replace(config.optimizer, micro_batches=parts))
    if command.stand_in:
        return replace(config, data=STAND_IN, training=replace(training, batch_size=STAND_IN_BATCH))
    where = str(command.data_dir) if command.data_dir else config.data.directory
    return replace(config, data=replace(config.data, directory=where), training=training)


def deviations(command: Namespace) -> tuple[str, ...]:
    """What a command changes of the recipes, in words."""
    found = []
    if command.stand_in:
        found.append(f"trained on a stand-in, the digits of scikit-learn at 32x32, in place of {command.dataset}")
    if command.epochs:
        found.append(f"the epochs of the recipe replaced by {command.epochs}")
    return tuple(found)
