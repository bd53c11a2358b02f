"""The files of a report in a run directory: report.json, report.md and the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from gnsnn_jax.analysis.behaviour import Behaviour
from gnsnn_jax.errors import InputError
from gnsnn_jax.report.markdown import markdown_of
from gnsnn_jax.report.pictures import draw_accuracy, draw_all
from gnsnn_jax.report.report import Report, damaged
from gnsnn_jax.runs.directories import CONVERSION, set_aside, write_json
from gnsnn_jax.runtime.command_line import say

REPORT = "report.json"
FIGURES = "figures"


def keep_report(directory: Path, report: Report, behaviours: Mapping[str, Behaviour]) -> None:
    """Writes report.json, report.md and the pictures; files of an earlier conversion are set aside.

    Args:
        directory: The directory of the run.
        report: The report to write.
        behaviours: The behaviours by name of the method; empty if the networks were not examined.
    """
    if kept := set_aside(directory, CONVERSION):
        say(f"the files of the conversion before this one are in {kept}")
    write_json(directory / REPORT, report.to_json())
    draw_accuracy(report, directory / "accuracy.png")
    drawn = draw_all(report, behaviours, directory / FIGURES) if behaviours else []
    (directory / "report.md").write_text(markdown_of(report, drawn, FIGURES), encoding="utf-8")


def read_report(directory: Path) -> Report:
    """Reads the report of a run.

    Args:
        directory: The directory of the run.

    Returns:
        The report that its report.json holds.

    Raises:
        InputError: if there is no report.json or it is damaged.
    """
    path = directory / REPORT
    if not path.is_file():
        raise InputError(f"{directory} holds no {REPORT}; give a run directory that convert.py has been over")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(str(path), f"{type(error).__name__}: {error}") from None
    return Report.from_json(content, str(path))
