"""Trains the recipes of a data set, converts the networks and puts what papers published beside what was measured.

python -m gnsnn_jax.report.reproduce cifar10 --data-dir data
python -m gnsnn_jax.report.reproduce cifar100 --stand-in --epochs 1 --recipes cifar100_resnet20

A recipe that has been trained to its end is not trained again, and one that was stopped goes on: give the same command.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path

from gnsnn_jax.errors import InputError, extra, imports_of, nearest, printable

with imports_of("reproduce", __name__), extra("report"):
    from rich.table import Table

    from gnsnn_jax.data.sets import Dataset, load_dataset
    from gnsnn_jax.method.methods import parse_methods
    from gnsnn_jax.report.compare_methods import compare_methods
    from gnsnn_jax.report.files import REPORT, keep_report, read_report
    from gnsnn_jax.report.machine import machine
    from gnsnn_jax.report.published_figures import METHODS, PROBE_STEPS, STEPS
    from gnsnn_jax.report.report import Report
    from gnsnn_jax.report.reproduction import HEAD, NOT_COMPARABLE, Reproduction, figures_of, page_of, rows_of
    from gnsnn_jax.runs.directories import CONFIG, SUMMARY, check_resumed, create_run, load_run, write_json
    from gnsnn_jax.runtime.command_line import (
        Interrupted,
        Parser,
        console,
        count,
        directory,
        integer,
        keep_compilations,
        run_script,
        separated,
        word,
    )
    from gnsnn_jax.runtime.config import Config, Data, load_config
    from gnsnn_jax.training.experiment import run_experiment
    from gnsnn_jax.training.loop import check_experiment

STAND_IN = Data("digits", image_size=32, test_fraction=0.25, validation_fraction=0.2, crop_padding=4)
STAND_IN_BATCH = 64  # as of such a small set
SPEED = re.compile(r"^#.*?([\d,]+) images a second on ([\w -]+)", re.MULTILINE)  # in the comments of a recipe
BATCH = 256  # samples at a time, where networks are converted
PACKAGES = ("jax", "flax", "optax", "numpy", "gnsnn_jax")


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

    @property
    def is_done(self) -> bool:
        """Whether it has been trained to its end."""
        return (self.workdir / SUMMARY).is_file()

    @property
    def is_started(self) -> bool:
        return (self.workdir / CONFIG).is_file()


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="reproduce", description=__doc__)
    parser.add_argument("dataset", type=word, help=" or ".join(PROBE_STEPS))
    parser.add_argument("--data-dir", type=directory, help="where the prepared set is (that of TensorFlow Datasets)")
    parser.add_argument(
        "--recipes", nargs="+", type=word, metavar="NAME", help="some of configs/ (all of the data set)"
    )
    parser.add_argument("--seeds", nargs="+", type=integer, metavar="SEED", help="a run for each (that of the recipe)")
    parser.add_argument("--epochs", type=count, help="in place of those of the recipes, and then nothing is compared")
    parser.add_argument(
        "--stand-in", action="store_true",
        help="train on the digits of scikit-learn at 32x32 instead; tries the command, and nothing is compared",
    )  # fmt: skip
    parser.add_argument("--configs", type=directory, default=Path("configs"), help="where the recipes are (configs)")
    parser.add_argument(
        "--workdir", type=directory, default=Path("runs/reproduce"), help="runs and table (runs/reproduce)"
    )
    return parser.parse_args(arguments)


def recipes_of(command) -> list[Recipe]:
    """The recipes that the command asks for, each with each seed, in the order of their names."""
    if command.dataset not in PROBE_STEPS:
        raise InputError(
            f"unknown data set {command.dataset!r}; published figures are held of {', '.join(PROBE_STEPS)}"
            f"{nearest(command.dataset, PROBE_STEPS)}"
        )
    files = {path.stem: path for path in sorted(command.configs.glob(f"{command.dataset}_*.toml"))}
    if not files:
        raise InputError(
            f"there is no recipe {command.dataset}_*.toml in {printable(command.configs)}; give the folder configs of "
            "the repository by --configs"
        )
    names = separated(command.recipes) if command.recipes else list(files)
    if unknown := [name for name in names if name not in files]:
        raise InputError(
            f"unknown recipe {unknown[0]!r} of {command.dataset}; there are {', '.join(files)}"
            f"{nearest(unknown[0], files)}"
        )
    return [recipe for name in names for recipe in _with_seeds(command, files[name])]


def _with_seeds(command, path: Path) -> list[Recipe]:
    config, found = load_config(path), SPEED.search(path.read_text(encoding="utf-8"))
    speed = (int(found[1].replace(",", "")), found[2]) if found else None
    stand_in = "-stand-in" if command.stand_in else ""
    short = f"-{command.epochs}-epochs" if command.epochs else ""
    recipes = []
    for seed in command.seeds or [config.training.seed]:
        workdir = command.workdir / f"{path.stem}{stand_in}{short}-seed{seed}"
        recipes.append(Recipe(path.stem, _changed(command, config, seed), speed, workdir))
    return recipes


def _changed(command, config: Config, seed: int) -> Config:
    """The settings of a recipe with those of the command in place."""
    training = replace(config.training, seed=seed, epochs=command.epochs or config.training.epochs)
    if command.stand_in:
        return replace(config, data=STAND_IN, training=replace(training, batch_size=STAND_IN_BATCH))
    where = str(command.data_dir) if command.data_dir else config.data.directory
    return replace(config, data=replace(config.data, directory=where), training=training)


def deviations(command) -> tuple[str, ...]:
    """What the command changes of the recipes, in words."""
    found = []
    if command.stand_in:
        found.append(f"trained on a stand-in, the digits of scikit-learn at 32x32, in place of {command.dataset}")
    if command.epochs:
        found.append(f"the epochs of the recipe replaced by {command.epochs}")
    return tuple(found)


def cost_of(recipe: Recipe, dataset: Dataset) -> str:
    """What training a recipe takes, in a line."""
    if recipe.is_done:
        return f"{recipe.name}, seed {recipe.config.training.seed}: done, is not trained again"
    epochs = recipe.config.training.epochs
    images = epochs * dataset.train.count
    goes_on = "goes on: at most " if recipe.is_started else ""
    takes = f"{goes_on}{epochs} epochs, {images:,} images; {_hours(images, recipe.speed)}"
    return f"{recipe.name}, seed {recipe.config.training.seed}: {takes}"


def _hours(images: int, speed: tuple[int, str] | None) -> str:
    if speed is None:
        return "no estimate of hours, since its comments state no speed; the first epoch shows the time left"
    each_second, device = speed
    hours = images / each_second / 3600
    return f"estimate: {hours:,.2g} hours on {device}, by the {each_second:,} images a second that its comments state"


def trained(recipe: Recipe, dataset: Dataset) -> None:
    """Trains a recipe, or what is left of it."""
    if recipe.is_started:
        check_resumed(recipe.workdir, recipe.config)
    else:
        create_run(recipe.workdir, recipe.config, overwrite=False)
    try:
        summary = run_experiment(recipe.workdir, recipe.config, dataset, time.perf_counter())
    except Interrupted as stop:
        raise Interrupted(
            f"stopped while {recipe.name} was training, with the state saved; to go on: {_typed()}", stop.status - 128
        ) from None
    say(f"{recipe.name}: best epoch {summary.best_epoch}, test {100 * summary.test_accuracy:.2f} %")


def converted(recipe: Recipe, dataset: Dataset) -> Report:
    """The report of the methods on the network of a recipe, as it was kept, or made and kept."""
    probe_steps = PROBE_STEPS[recipe.name.split("_")[0]]
    methods = parse_methods(METHODS, members=recipe.config.model.levels, probe_steps=probe_steps)
    if (recipe.workdir / REPORT).is_file():
        report = read_report(recipe.workdir)
        if [each.name for each in report.methods] == [each.name for each in methods] and report.steps == list(STEPS):
            return report
    report, networks = compare_methods(load_run(recipe.workdir), dataset, methods, STEPS, BATCH)
    keep_report(recipe.workdir, report, {})
    for name, network in networks.items():
        network.save(recipe.workdir / "converted" / name)
    return report


def reproduced(command) -> Reproduction:
    """Trains and converts whatever has not been, and gathers all figures."""
    recipes = recipes_of(command)
    load = cache(load_dataset)
    datasets = {recipe.workdir: load(recipe.config.data, recipe.config.training.seed) for recipe in recipes}
    for line in deviations(command):
        say(f"{NOT_COMPARABLE}: {line}")
    for recipe in recipes:
        say(cost_of(recipe, datasets[recipe.workdir]))
    for recipe in recipes:
        check_experiment(recipe.config, datasets[recipe.workdir])
    reports: dict[str, dict[int, Report]] = {}
    for recipe in recipes:
        trained(recipe, datasets[recipe.workdir])
        of_recipe = reports.setdefault(recipe.name, {})
        of_recipe[recipe.config.training.seed] = converted(recipe, datasets[recipe.workdir])
    changes = deviations(command)
    return Reproduction(
        dataset=command.dataset,
        trained_on="a stand-in" if command.stand_in else command.dataset,
        deviations=changes,
        command=_typed(),
        date=f"{datetime.now():%Y-%m-%d}",
        machine=machine(PACKAGES),
        figures=tuple(each for name, found in reports.items() for each in figures_of(name, found, not changes)),
    )


def keep(command, found: Reproduction) -> Path:
    """Writes the table as JSON and Markdown under the work directory; returns the page."""
    stem = f"{command.dataset}{'-stand-in' if command.stand_in else ''}"
    command.workdir.mkdir(parents=True, exist_ok=True)
    write_json(command.workdir / f"{stem}.json", found.to_json())
    page = command.workdir / f"{stem}.md"
    page.write_text(page_of(found), encoding="utf-8")
    return page


def show(found: Reproduction) -> None:
    """Prints the table."""
    shown = Table(*HEAD, title=f"{NOT_COMPARABLE}: {'; '.join(found.deviations)}" if found.deviations else None)
    for row in rows_of(found):
        shown.add_row(*row)
    console.print(shown)


def say(text: str) -> None:
    console.print(text, soft_wrap=True)


def _typed() -> str:
    return shlex.join(["python", "-m", "gnsnn_jax.report.reproduce", *sys.argv[1:]])


def main() -> None:
    command = parse()
    keep_compilations()
    found = reproduced(command)
    page = keep(command, found)
    show(found)
    say(f"the table is in {printable(page)}")


if __name__ == "__main__":
    sys.exit(run_script("reproduce", main))
