"""All methods on one network: accuracy, spikes, operations, latency and energy, beside the quantised network.

python -m gnsnn_jax.report.arena [RUN …] [--methods METHOD …] [--steps T …]
python -m gnsnn_jax.report.arena RUN … --collect PAGE
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from gnsnn_jax.errors import InputError, imports_of, printable

with imports_of("arena", __name__):
    from gnsnn_jax.data.sets import load_dataset
    from gnsnn_jax.method.methods import ALL, names_explained, parse_methods
    from gnsnn_jax.report.arena_measures import measure
    from gnsnn_jax.report.arena_pages import collect, page_of
    from gnsnn_jax.report.arena_picture import draw_arena
    from gnsnn_jax.report.arena_results import Arena, read_arena
    from gnsnn_jax.runs.directories import ARENA, Run, load_run, newest_run, set_aside, write_json
    from gnsnn_jax.runtime.command_line import (
        Parser,
        count,
        directory,
        file,
        integer,
        keep_compilations,
        parse_steps,
        run_script,
        say,
        separated,
        word,
    )


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="arena", description=__doc__, epilog=names_explained())
    parser.add_argument(
        "runs", nargs="*", type=directory, metavar="RUN", help="run directories of train.py (the newest under runs/)"
    )
    parser.add_argument(
        "--methods", nargs="+", type=word, default=[ALL], metavar="METHOD",
        help="neurons and calibrations by the names below, joined by + (all)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", nargs="+", type=word, default=["1,2,4,8,16,32"], metavar="T", help="time-steps T (1 2 4 8 16 32)"
    )
    parser.add_argument("--members", type=count, help="members m of a group neuron (the levels L)")
    parser.add_argument("--probe-steps", type=count, help="probe steps rho of calibrations (the levels L)")
    parser.add_argument("--passes", type=count, default=1, help="passes of COS (1)")
    parser.add_argument("--thresholds", type=word, metavar="RULE", help="for ReLUs, as in convert.py (by method)")
    parser.add_argument(
        "--channel-axis", type=integer, metavar="AXIS", help="for ReLUs, as in convert.py (one threshold an activation)"
    )
    parser.add_argument("--batch-size", type=count, default=256, help="samples at a time (256)")
    parser.add_argument(
        "--collect", type=file, metavar="PAGE", help="measure nothing; write what the runs hold to a Markdown page"
    )
    return parser.parse_args(arguments)


def measured(command, run: Run) -> Arena:
    """The arena of one run."""
    steps, levels = parse_steps(command.steps), run.config.model.levels
    methods = parse_methods(
        separated(command.methods),
        members=command.members or levels,
        probe_steps=command.probe_steps or levels,
        passes=command.passes,
        thresholds=command.thresholds,
        channel_axis=command.channel_axis,
    )
    dataset = load_dataset(run.config.data, run.config.training.seed)
    typed = shlex.join(["python", "-m", "gnsnn_jax.report.arena", *sys.argv[1:]])
    return measure(run, dataset, methods, steps, command.batch_size, typed, say)


def keep(directory: Path, arena: Arena) -> None:
    """Writes arena.json, arena.md and arena.png into the directory; those of an earlier time are set aside."""
    if kept := set_aside(directory, ARENA):
        say(f"the arena before this one is in {printable(kept)}")
    results, page, picture = (directory / name for name in ARENA)
    write_json(results, arena.to_json())
    draw_arena(arena, picture)
    page.write_text(page_of(arena, picture.name), encoding="utf-8")


def collected(page: Path, runs: Sequence[Path]) -> None:
    """Writes the page of several runs."""
    if not runs:
        raise InputError("--collect takes at least one run that the arena has been over; name them before it")
    if not page.resolve().parent.is_dir():
        raise InputError(f"there is no directory {printable(page.resolve().parent)} for --collect; make it first")
    collect([read_arena(run) for run in runs], page)
    say(f"the page is {printable(page)}")


def main() -> None:
    command = parse()
    if command.collect:
        return collected(command.collect, command.runs)
    keep_compilations()
    for run in [load_run(each) for each in command.runs or [newest_run()]]:
        keep(run.directory, measured(command, run))
        say(f"{', '.join(ARENA)} are in {printable(run.directory)}")


if __name__ == "__main__":
    sys.exit(run_script("arena", main))
