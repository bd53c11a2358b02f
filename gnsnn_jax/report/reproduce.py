"""Trains the recipes of a data set, converts the networks and puts what papers published beside what was measured.

python -m gnsnn_jax.report.reproduce cifar10 --data-dir data
python -m gnsnn_jax.report.reproduce cifar100 --stand-in --epochs 1 --recipes cifar100_resnet20

A recipe that has been trained to its end is not trained again, and one that was stopped goes on: give the same command.
The first lines estimate what that takes. Where one recipe fails, the others go on, and the table says which is missing.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

from gnsnn_jax.errors import InputError, extra, imports_of, listed, printable

with imports_of("reproduce", __name__), extra("report"):
    from rich.table import Column, Table

    from gnsnn_jax.data.sets import Dataset, load_dataset
    from gnsnn_jax.method.methods import parse_methods
    from gnsnn_jax.report.compare_methods import compare_methods
    from gnsnn_jax.report.files import REPORT, keep_report, read_report
    from gnsnn_jax.report.machine import machine
    from gnsnn_jax.report.published_figures import METHODS, PROBE_STEPS, SETS, STEPS
    from gnsnn_jax.report.recipes import Recipe, deviations, recipes_of, suffix_of
    from gnsnn_jax.report.report import Report
    from gnsnn_jax.report.reproduction import (
        HEAD,
        NOT_COMPARABLE,
        DataRead,
        Reproduction,
        figures_of,
        page_of,
        rows_of,
    )
    from gnsnn_jax.report.training_costs import HOW, TERAFLOPS, Cost, cost_of, in_bytes, in_hours, unread
    from gnsnn_jax.runs.directories import check_resumed, create_run, load_run, write_json
    from gnsnn_jax.runs.stored import read_json
    from gnsnn_jax.runtime.command_line import (
        REFUSALS,
        Interrupted,
        Parser,
        console,
        count,
        directory,
        integer,
        keep_compilations,
        refusal,
        run_script,
        say,
        word,
    )
    from gnsnn_jax.training.experiment import run_experiment
    from gnsnn_jax.training.loop import check_experiment

BATCH = 256  # samples at a time, where networks are converted
PACKAGES = ("jax", "flax", "optax", "numpy", "gnsnn_jax")
DATA_READ = "data.json"  # in the directory of a run
Load = Callable[[Recipe], Dataset]


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="reproduce", description=__doc__)
    parser.add_argument("dataset", type=word, help=" or ".join(SETS))
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
    parser.add_argument(
        "--micro-batches", type=count, metavar="N",
        help="parts of each batch of the recipes, one after the other, where it does not fit into memory",
    )  # fmt: skip
    parser.add_argument("--configs", type=directory, default=Path("configs"), help="where the recipes are (configs)")
    parser.add_argument(
        "--workdir", type=directory, default=Path("runs/reproduce"), help="runs and table (runs/reproduce)"
    )
    parser.add_argument(
        "--teraflops", type=count, metavar="N",
        help=f"useful TFLOP/s of your device, for the estimate of hours alone ({TERAFLOPS})",
    )  # fmt: skip
    return parser.parse_args(arguments)


# What it will take.


def tell_costs(command, recipes: list[Recipe], load: Load) -> None:
    """Prints what the recipes take, before the data set has to be there."""
    for line in deviations(command):
        say(f"{NOT_COMPARABLE}: {line}")
    costs = {each.workdir: _cost_of(command, each, load) for each in recipes if not each.is_trained}
    teraflops = command.teraflops or TERAFLOPS
    if costs:
        say(f"{HOW}; at {teraflops} TFLOP/s, {_whose(command)}")
    if costs and not command.stand_in:
        say(_size_of(command.dataset))
    for recipe in recipes:
        say(f"{recipe}: {takes(recipe, costs.get(recipe.workdir), teraflops)}")
    if len(costs) > 1:
        hours = sum(cost.hours(teraflops) for cost in costs.values())
        disk = sum(cost.disk for cost in costs.values())
        say(f"in all: {in_hours(hours)}, up to {in_bytes(disk)} under {printable(command.workdir)}")


def _cost_of(command, recipe: Recipe, load: Load) -> Cost:
    dataset = load(recipe) if command.stand_in else unread(SETS[command.dataset], recipe.config.data)
    return cost_of(recipe.config, dataset, PROBE_STEPS[command.dataset])


def _whose(command) -> str:
    if command.teraflops:
        return "by --teraflops"
    return (
        "an assumption, about half of the 19.5 that an NVIDIA A100 has in float32 by its specification; --teraflops N "
        "takes another"
    )


def _size_of(name: str) -> str:
    known = SETS[name]
    return (
        f"{name}: {known.train:,} training images and {known.test:,} test images of {known.classes:,} classes, "
        f"{in_bytes(known.archives)} to download, and about as much again once prepared"
    )


def takes(recipe: Recipe, cost: Cost | None, teraflops: int) -> str:
    """What is left to do of a recipe and what it takes, as the end of a line."""
    if recipe.is_done:
        return "done, is not trained again"
    if cost is None:
        return "trained, is converted"
    epochs = f"{cost.epochs} epoch{'s' if cost.epochs > 1 else ''}"
    at_most = "goes on: at most " if recipe.is_started else ""
    return (
        f"{at_most}{epochs}, {cost.images:,} images, {cost.multiply_accumulates:,} multiply-accumulates each; "
        f"{in_hours(cost.hours(teraflops))}, up to {in_bytes(cost.disk)} of disk{_at_speed(cost.images, recipe.speed)}"
    )


def _at_speed(images: int, speed: tuple[int, str] | None) -> str:
    if speed is None:
        return ""
    each_second, device = speed
    hours = in_hours(images / each_second / 3600)
    return f"; {hours} on {device}, by the {each_second:,} images a second that its comments state"


# Training and conversion.


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
    say(f"{recipe}: best epoch {summary.best_epoch}, test {100 * summary.test_accuracy:.2f} %")


def converted(recipe: Recipe, load: Load) -> Report:
    """The report of the methods on the network of a recipe, as it was kept, or made and kept."""
    probe_steps = PROBE_STEPS[recipe.name.split("_")[0]]
    methods = parse_methods(METHODS, members=recipe.config.model.levels, probe_steps=probe_steps)
    if (recipe.workdir / REPORT).is_file():
        report = read_report(recipe.workdir)
        if [each.name for each in report.methods] == [each.name for each in methods] and report.steps == list(STEPS):
            return report
    report, networks = compare_methods(load_run(recipe.workdir), load(recipe), methods, STEPS, BATCH)
    keep_report(recipe.workdir, report, {})
    for name, each in networks.items():
        each[-1].save(recipe.workdir / "converted" / name)
    return report


def data_read(recipe: Recipe, load: Load) -> DataRead:
    """What the run of a recipe was trained on, as it was noted, or else noted now."""
    path = recipe.workdir / DATA_READ
    if not path.is_file():
        write_json(path, DataRead.of(load(recipe)).to_json())
    return read_json(path, DataRead, "remove it and give the same command again")


def reproduced(command) -> Reproduction:
    """Trains and converts whatever has not been, and writes the table after each recipe.

    Args:
        command: What `parse` returned.

    Returns:
        All figures, and which recipes are missing among them.

    Raises:
        InputError: where nothing can be trained and nothing has been.
        Interrupted: after a signal, with the state of training saved.
    """
    recipes = recipes_of(command)
    by_settings = cache(load_dataset)
    load = lambda recipe: by_settings(recipe.config.data, recipe.config.training.seed)
    tell_costs(command, recipes, load)
    missing = refused(recipes, load)
    tell_other_sets(command, [each for each in recipes if not each.is_trained and each.workdir not in missing], load)
    reports: dict[Path, tuple[Report, DataRead]] = {}
    waiting = [each for each in sorted(recipes, key=lambda each: not each.is_done) if each.workdir not in missing]
    missing |= {each.workdir: "not trained yet" for each in waiting}
    for recipe in waiting:
        with noted(recipe, missing):
            if not recipe.is_trained:
                trained(recipe, load(recipe))
            reports[recipe.workdir] = converted(recipe, load), data_read(recipe, load)
            del missing[recipe.workdir]
        if recipe.workdir in missing:
            say(f"{recipe}: {missing[recipe.workdir]}")
        keep(command, gathered(command, recipes, reports, missing))
    return gathered(command, recipes, reports, missing)


def refused(recipes: list[Recipe], load: Load) -> dict[Path, str]:
    """Why recipes that are to be trained cannot be, by their directories, found before the first of them trains.

    Raises InputError where these are all.
    """
    found: dict[Path, str] = {}
    for recipe in recipes:
        if not recipe.is_trained:
            with noted(recipe, found):
                check_experiment(recipe.config, load(recipe))
    if len(found) == len(recipes):
        raise InputError(next(iter(found.values())))
    for recipe in recipes:
        if recipe.workdir in found:
            say(f"{recipe}: {found[recipe.workdir]}")
    return found


def tell_other_sets(command, recipes: list[Recipe], load: Load) -> None:
    """Prints, before recipes train, where their data are not the published ones."""
    if not command.stand_in:
        found = (DataRead.of(load(recipe)).difference(command.dataset) for recipe in recipes)
        for line in dict.fromkeys(filter(None, found)):
            say(f"{NOT_COMPARABLE}: {line}")


@contextmanager
def noted(recipe: Recipe, missing: dict[Path, str]) -> Iterator[None]:
    """Within the context, an error that the user can mend is noted, so that the other recipes go on."""
    try:
        yield
    except REFUSALS as error:
        reason = refusal(error)
        if reason is None:
            raise
        missing[recipe.workdir] = reason


# The table.


def gathered(
    command, recipes: list[Recipe], reports: dict[Path, tuple[Report, DataRead]], missing: dict[Path, str]
) -> Reproduction:
    """The figures of the recipes that there are reports of, and which are missing."""
    sets = dict.fromkeys(read for _, read in reports.values())
    others = [] if command.stand_in else [each.difference(command.dataset) for each in sets]
    changes = (*deviations(command), *(each for each in others if each))
    by_name: dict[str, dict[int, Report]] = {}
    for recipe in recipes:
        if recipe.workdir in reports:
            by_name.setdefault(recipe.name, {})[recipe.config.training.seed] = reports[recipe.workdir][0]
    return Reproduction(
        dataset=command.dataset,
        trained_on="a stand-in" if command.stand_in else "another set of that name" if any(others) else command.dataset,
        deviations=changes,
        command=_typed(),
        date=f"{datetime.now():%Y-%m-%d}",
        machine=machine(PACKAGES),
        figures=tuple(each for name, found in by_name.items() for each in figures_of(name, found, not changes)),
        missing=tuple(f"{each}: {missing[each.workdir]}" for each in recipes if each.workdir in missing),
    )


def keep(command, found: Reproduction) -> None:
    """Writes the table as JSON and Markdown under the work directory."""
    page = page_path(command)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_json(page.with_suffix(".json"), found.to_json())
    page.write_text(page_of(found), encoding="utf-8")


def page_path(command) -> Path:
    return command.workdir / f"{command.dataset}{suffix_of(command)}.md"


def show(found: Reproduction) -> None:
    """Prints the table."""
    columns = (Column(each, no_wrap=each in HEAD[:2], overflow="fold") for each in HEAD)
    shown = Table(*columns, title=f"{NOT_COMPARABLE}: {'; '.join(found.deviations)}" if found.deviations else None)
    for row in rows_of(found):
        shown.add_row(*row)
    console.print(shown)


def _typed() -> str:
    return shlex.join(["python", "-m", "gnsnn_jax.report.reproduce", *sys.argv[1:]])


def main() -> None:
    command = parse()
    keep_compilations()
    found = reproduced(command)
    show(found)
    say(f"the table is in {printable(page_path(command))}")
    if found.missing:
        raise InputError(
            f"not in the table: {listed(found.missing, separator='; ')}; mend that and give the same command again, "
            "which keeps what is done"
        )


if __name__ == "__main__":
    sys.exit(run_script("reproduce", main))
