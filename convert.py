"""Converts a trained network into spiking ones and compares them at several numbers of time-steps."""

import shlex
import sys
from typing import Any

from gnsnn_jax.errors import imports_of, printable

with imports_of("convert.py", __name__):
    from gnsnn_jax.data.sets import Dataset, load_dataset
    from gnsnn_jax.method.methods import ALL, names_explained, parse_methods
    from gnsnn_jax.report.compare_methods import compare_methods
    from gnsnn_jax.report.examination import examine
    from gnsnn_jax.report.files import keep_report
    from gnsnn_jax.report.terminal import print_report
    from gnsnn_jax.runs.directories import Run, load_run, newest_run
    from gnsnn_jax.runs.imported_networks import add_import_options, import_run, keep_import, refuse_import_options
    from gnsnn_jax.runtime.command_line import (
        Parser,
        console,
        count,
        directory,
        integer,
        keep_compilations,
        parse_steps,
        probability,
        run_script,
        say,
        separated,
        word,
    )
    from gnsnn_jax.runtime.devices import add_process_options, in_first, start_processes


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="convert.py", description=__doc__, epilog=names_explained())
    parser.add_argument("run", nargs="?", type=directory, help="run directory of train.py (the newest under runs/)")
    parser.add_argument(
        "--methods", nargs="+", type=word, default=["if", "gn", "cos", "gn+cos"], metavar="METHOD",
        help="neurons and calibrations by the names below, joined by +, or all (if gn cos gn+cos)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", nargs="+", type=word, default=["1,2,4,8,16,32"], metavar="T", help="time-steps T (1 2 4 8 16 32)"
    )
    parser.add_argument("--members", type=count, help="members m of a group neuron (the levels L)")
    parser.add_argument("--probe-steps", type=count, help="probe steps of COS, rho (the levels L)")
    parser.add_argument("--passes", type=count, default=1, help="passes of COS (1)")
    parser.add_argument(
        "--thresholds", type=word, metavar="RULE", help="for ReLUs: mse, percentile, max, balance, ltb (by method)"
    )
    parser.add_argument(
        "--channel-axis", type=integer, metavar="AXIS",
        help="for ReLUs: a threshold for each channel, -1 for channels last and -3 for [C, H, W] (one an activation)",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=count, default=256, help="samples at a time (256)")
    parser.add_argument("--confidence", type=probability, metavar="C", help="report early stop at this confidence too")
    parser.add_argument("--quick", action="store_true", help="accuracy alone: no errors, operations and energy")
    add_process_options(parser)
    add_import_options(parser.add_argument_group("weights from PyTorch, or a network of your own, instead of a run"))
    return parser.parse_args(arguments)


def chosen_run(command) -> tuple[Run, Dataset]:
    refuse_import_options(command)
    run = load_run(command.run or newest_run())
    return run, load_dataset(run.config.data, run.config.training.seed)


def main() -> None:
    command = parse()
    steps = parse_steps(command.steps)
    start_processes(command.coordinator, command.processes, command.process_id)
    keep_compilations()
    run, dataset = import_run(command) if command.weights or command.network else chosen_run(command)
    levels = run.config.model.levels
    methods = parse_methods(
        separated(command.methods),
        members=command.members or levels,
        probe_steps=command.probe_steps or levels,
        passes=command.passes,
        thresholds=command.thresholds,
        channel_axis=command.channel_axis,
    )
    report, networks = compare_methods(run, dataset, methods, steps, command.batch_size, command.confidence)
    behaviours: dict[str, Any] = {}
    if not command.quick:
        report, behaviours = examine(report, networks, dataset, steps, command.batch_size)
    if command.weights or command.network:
        keep_import(run, command)
    in_first(lambda: keep_report(run.directory, report, behaviours))
    for name, each in networks.items():
        each[-1].save(run.directory / "converted" / name)
    print_report(report, console)
    say(f"report.md, report.json, accuracy.png and converted/ are in {printable(run.directory)}")
    if ALL in separated(command.methods):
        again = shlex.join(["python", "-m", "gnsnn_jax.report.arena", str(run.directory)])
        say(f"beside networks quantised to as many levels: {printable(again)}")


if __name__ == "__main__":
    sys.exit(run_script("convert.py", main))
