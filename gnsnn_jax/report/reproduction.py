"""What a reproduction found: published and measured accuracies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from gnsnn_jax.data.sets import Dataset
from gnsnn_jax.report.machine import in_words
from gnsnn_jax.report.markdown import table
from gnsnn_jax.report.published_figures import PUBLISHED, SETS, published
from gnsnn_jax.report.report import Report

ANN = "ANN"
HEAD = ("recipe", "method", "T", "published, %", "measured, %", "difference", "seeds")
NOT_COMPARABLE = "not comparable with published figures"


@dataclass(frozen=True)
class Figure:
    """One accuracy, in %.

    Attributes:
        recipe: The name of the configuration.
        method: Its name, or "ANN" for the network itself.
        probe_steps: ρ of the calibration; 0 without one.
        steps: T; None for the network itself.
        published: None where nothing is published or nothing may be compared.
        source: The paper that it is published in.
        measured: By seed.
    """

    recipe: str
    method: str
    probe_steps: int
    steps: int | None
    published: float | None
    source: str | None
    measured: dict[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.measured.values())

    @property
    def difference(self) -> float | None:
        """Measured less published, in percentage points; None where nothing is compared."""
        return None if self.published is None else self.mean - self.published


@dataclass(frozen=True)
class DataRead:
    """The size of the data that a run was trained and tested on.

    Attributes:
        train: Images of the training split, those held out for validation included.
        test: Images of the test split.
        classes: How many.
    """

    train: int
    test: int
    classes: int

    @staticmethod
    def of(dataset: Dataset) -> DataRead:
        return DataRead(dataset.train.count + dataset.validation.count, dataset.test.count, dataset.num_classes)

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    def difference(self, name: str) -> str | None:
        """In words, how it differs in size from the published set of a name; None where it does not."""
        known = SETS[name]
        if (self.train, self.test, self.classes) == (known.train, known.test, known.classes):
            return None
        return (
            f"the set named {name} has {self.train:,} training and {self.test:,} test images of {self.classes} "
            f"classes, where the published one has {known.train:,} and {known.test:,} of {known.classes}"
        )


@dataclass(frozen=True)
class Reproduction:
    """All figures of one data set.

    Attributes:
        dataset: The name of the data set that the recipes are for.
        trained_on: What the networks were trained on: the data set itself, or a stand-in in words.
        deviations: What differs from the recipes; where anything does, nothing is compared.
        command: The command line.
        date: The day, as 2026-11-29.
        machine: Processor, device and versions.
        figures: By recipe, method and T.
        missing: The recipes that there are no figures of, each with the reason.
    """

    dataset: str
    trained_on: str
    deviations: tuple[str, ...]
    command: str
    date: str
    machine: dict[str, str]
    figures: tuple[Figure, ...]
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns what reproduction.json holds; `from_json` reads it."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Reproduction:
        """Returns what `to_json` was called on, also where JSON turned its tuples to lists and its keys to text."""
        by_seed = lambda figure: {int(seed): value for seed, value in figure["measured"].items()}
        figures = tuple(Figure(**figure | {"measured": by_seed(figure)}) for figure in content["figures"])
        texts = {name: tuple(content[name]) for name in ("deviations", "missing")}
        return Reproduction(**{**content, **texts, "figures": figures})


def figures_of(recipe: str, reports: Mapping[int, Report], compared: bool) -> list[Figure]:
    """Returns the figures of one recipe.

    Args:
        recipe: The name of the configuration.
        reports: By seed; all of the same methods and numbers of time-steps.
        compared: Whether the published figures stand beside them.
    """
    first = next(iter(reports.values()))
    known = [each for each in PUBLISHED if each.recipe == recipe and compared]
    anns = {each.ann: each.source for each in known}
    percent = lambda of: {seed: 100 * of(report) for seed, report in reports.items()}
    measured = percent(lambda report: report.ann_accuracy)
    found = [Figure(recipe, ANN, 0, None, ann, source, measured) for ann, source in (anns or {None: None}).items()]
    for place, method in enumerate(first.methods):
        of_paper = published(recipe, method.name) if compared else None
        for t in method.accuracy:
            value = of_paper.at_steps.get(t) if of_paper else None
            source = of_paper.source if of_paper and value is not None else None
            accuracies = percent(lambda report, place=place, t=t: report.methods[place].accuracy[t])
            found.append(Figure(recipe, method.name, method.probe_steps, t, value, source, accuracies))
    return found


def rows_of(found: Reproduction) -> list[list[str]]:
    """Returns the rows of the table, under HEAD."""
    return [_row(figure) for figure in found.figures]


def _row(figure: Figure) -> list[str]:
    probe = f", ρ = {figure.probe_steps}" if figure.probe_steps else ""
    difference = figure.difference
    return [
        figure.recipe,
        f"{figure.method}{probe}",
        "–" if figure.steps is None else str(figure.steps),
        "–" if figure.published is None else f"{figure.published:.2f}",
        _measured(list(figure.measured.values())),
        "–" if difference is None else f"{difference:+.2f}",
        " ".join(map(str, figure.measured)),
    ]


def _measured(values: Sequence[float]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _title(found: Reproduction) -> str:
    """Says at once where a page is of a trial of the command alone."""
    what = f"{found.dataset}, trained on {found.trained_on}"
    return f"# A trial of the command, no reproduction: {what}" if found.deviations else f"# {what}"


def page_of(found: Reproduction) -> str:
    """Writes a reproduction as Markdown.

    Args:
        found: What was measured.

    Returns:
        The text of the page.
    """
    parts = [
        _title(found),
        *([f"**{NOT_COMPARABLE.capitalize()}**: {'; '.join(found.deviations)}."] if found.deviations else []),
        f"{found.date}; {in_words(found.machine)}.",
        f"```\n{found.command}\n```",
        "\n".join(["Not in the table:\n", *(f"- {each}" for each in found.missing)]) if found.missing else "",
        table(HEAD, rows_of(found)) if found.figures else "",
        "ANN is the network that was trained, IF, GN and COS are what it converts to, at T time-steps; COS takes ρ "
        "more before these. – stands where nothing is published or nothing may be compared, and the difference is in "
        "percentage points.",
        "Test accuracy, the mean over seeds and their standard deviation where there are several. The best epoch is "
        "chosen on a part of the training split, where the authors chose it on the test split.",
        "\n".join(f"- {source}" for source in dict.fromkeys(each.source for each in found.figures) if source),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
