"""Trains a QCFS network and keeps the best epoch in a run directory."""

import sys
import time
from argparse import SUPPRESS
from pathlib import Path

from gnsnn_jax.errors import imports_of, printable

with imports_of("train.py", __name__):
    from gnsnn_jax.data.sets import load_dataset
    from gnsnn_jax.report.training_curves import draw_curves
    from gnsnn_jax.runs.directories import CONFIG, CURVES, check_resumed, create_run, default_workdir, resumed_run
    from gnsnn_jax.runtime.command_line import Parser, console, directory, file, run_script, say
    from gnsnn_jax.runtime.config import load_config, settings
    from gnsnn_jax.runtime.devices import add_process_options, agreed_time, in_first, start_processes
    from gnsnn_jax.training.experiment import run_experiment
    from gnsnn_jax.training.loop import check_experiment
    from gnsnn_jax.training.records import read_metrics

DIGITS = Path(__file__).parent / "configs" / "digits.toml"


def parse(arguments: list[str] | None = None):
    """The command line, and the settings on it as text by dotted name."""
    parser = Parser(prog="train.py", description=__doc__)
    parser.add_argument("config", nargs="?", type=file, help="TOML file (configs/digits.toml)")
    parser.add_argument("--workdir", type=directory, help="run directory (runs/NAME-DATE-TIME)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--overwrite", action="store_true", help="set the run that the directory holds aside")
    start.add_argument("--resume", action="store_true", help="go on with the run that the directory holds, if any")
    add_process_options(parser)
    group = parser.add_argument_group("settings, in place of the configuration's")
    for name, kind, text in settings():
        help = f"{text.replace('%', '%%')} ({getattr(kind, '__name__', kind)})"
        group.add_argument(f"--{name}", dest=name, default=SUPPRESS, metavar="VALUE", help=help)
    command = parser.parse_args(arguments)
    return command, {name: value for name, value in vars(command).items() if "." in name}


def draw(workdir: Path) -> None:
    """The curves of a run, unless its metrics have been moved away."""
    if metrics := read_metrics(workdir):
        draw_curves(metrics, workdir / CURVES)


def main() -> None:
    started = time.perf_counter()
    command, overrides = parse()
    start_processes(command.coordinator, command.processes, command.process_id)
    experiment = command.config or DIGITS
    resumed = resumed_run(command.workdir, experiment) if command.resume else None
    own = resumed / CONFIG if resumed else DIGITS  # of the run, unless the command names one
    config = load_config(command.config or own, overrides)
    dataset = load_dataset(config.data, config.training.seed)
    check_experiment(config, dataset)
    workdir = resumed or command.workdir or default_workdir(experiment, agreed_time())
    if command.resume and not resumed:
        say(f"nothing to resume: {printable(workdir)} is a new run")
    in_first(lambda: check_resumed(workdir, config) if resumed else create_run(workdir, config, command.overwrite))
    summary = run_experiment(workdir, config, dataset, started)
    in_first(lambda: draw(workdir))
    console.print(
        f"best epoch {summary.best_epoch}: validation {100 * summary.validation_accuracy:.2f} %, "
        f"test {100 * summary.test_accuracy:.2f} % of {summary.test_samples} samples, "
        f"{summary.seconds:.0f} s"
    )
    say(f"run: {printable(workdir)}\nnext: python convert.py {printable(workdir)}")


if __name__ == "__main__":
    sys.exit(run_script("train.py", main))
