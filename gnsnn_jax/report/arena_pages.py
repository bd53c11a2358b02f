"""The pages of arenas: arena.md of one run, and a page of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gnsnn_jax.report.arena_picture import draw_arena
from gnsnn_jax.report.arena_results import Arena, Row, front
from gnsnn_jax.report.machine import in_words
from gnsnn_jax.report.markdown import image, table
from gnsnn_jax.runs.directories import write_json

MARK = "<!-- Below this line the page is written by python -m gnsnn_jax.report.arena --collect. -->"
TITLE = "# All methods on one network\n\n"
CAPTION = (
    "Accuracy against synaptic operations, a mark for each T. The thick line is the front: no other row takes at most "
    "as many operations and is at least as accurate. Crosses are the quantised ANNs of the rows."
)
COLUMNS = [
    "method",
    "T",
    "accuracy, %",
    "quantised ANN, %",
    "its levels",
    "levels a step",
    "latency, pipelined",
    "layer by layer",
    "spikes",
    "AC",
    "MAC",
    "operations on means",
    "nJ",
    "quantised ANN, nJ",
    "calibration samples",
]
LEGEND = """\
- Quantised ANN: the network with the same weights and thresholds, its activations quantised to members x T levels \
(encoders to as many of either sign), without time and without further training. The means of T steps of the neurons \
have as many values.
- Levels a step: how many values besides 0 a neuron can send in one step, those of either sign.
- Latency in time-steps. Pipelined, a layer works on each step as it arrives: probe steps + T. A probe needs all \
currents of its steps before the layer sends its first spike, so that layers come one after the other: \
depth x (probe steps + T). Methods without a probe need not.
- Spikes, AC (accumulates), MAC (multiply-accumulates) and energy are for one sample, the probe included. A unit spike \
costs one accumulate for each of its connections. The first layer is MAC and evaluated once. A spike of mt counts once \
whatever its size, and one of hmt once for each binary digit. Synaptic operations are AC and MAC together.
- nJ: an estimate, {energy_model}, no measurement. The quantised ANN has activations of ceil(log2(levels + 1)) bits; \
it skips no zeros.
- Calibration samples are of the training split, without augmentation: those that thresholds of ReLUs, and the \
corrections that a method takes from data, were found from. 0 where thresholds were trained and the method takes \
nothing from data. None are of the test split, on which accuracy is measured. A correction that is for one T was found \
for each T by itself."""


def page_of(arena: Arena, picture: str) -> str:
    """Writes an arena as Markdown.

    Args:
        arena: What was found.
        picture: The name of its picture, relative to the page.

    Returns:
        The text of arena.md.
    """
    return f"{TITLE}{_section(arena, picture)}\n\n{LEGEND.format(energy_model=arena.energy_model)}\n"


def collect(arenas: Sequence[Arena], page: Path) -> None:
    """Writes a page of several arenas, with their pictures and their JSON beside it; what stands above the MARK of the
    page is kept.

    Args:
        arenas: At least one.
        page: The Markdown file to write.
    """
    before = page.read_text(encoding="utf-8").split(MARK)[0] if page.exists() else TITLE
    sections = []
    for arena in arenas:
        picture = page.with_name(f"{page.stem}_{arena.run}.png")
        draw_arena(arena, picture)
        write_json(picture.with_suffix(".json"), arena.to_json())
        sections.append(_section(arena, picture.name))
    legend = f"## What the columns mean\n\n{LEGEND.format(energy_model=arenas[0].energy_model)}"
    page.write_text("\n\n".join([before.rstrip(), MARK, *sections, legend]) + "\n", encoding="utf-8")


def _section(arena: Arena, picture: str) -> str:
    parts = [
        f"## {arena.model}, {arena.activations}, on {arena.dataset}",
        _head(arena),
        f"```\n{arena.command}\n```",
        image(picture, CAPTION),
        _accuracies(arena),
        _details(arena),
        _left_out(arena),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(arena: Arena) -> str:
    return (
        f"{arena.date}, seed {arena.seed}; {in_words(arena.machine)}. The network itself (ANN) reaches "
        f"{100 * arena.ann_accuracy:.2f} % of {arena.test_samples} test samples and takes "
        f"{arena.ann_multiply_accumulates:,} MAC, {arena.ann_nanojoules:,.0f} nJ in float32. It has "
        f"{arena.neurons:,} neurons, at most {arena.depth} populations one after the other. Spikes and operations are "
        f"means over {arena.examined_samples} test samples."
    )


def _accuracies(arena: Arena) -> str:
    """Accuracy by method and T, with that of the quantised network in brackets."""
    steps = sorted({row.steps for row in arena.rows})
    rows = []
    for method in arena.methods:
        found = {row.steps: row for row in arena.of(method)}
        rows.append([method, *(_both(found[t]) if t in found else "–" for t in steps)])
    return table(["accuracy (of the quantised ANN), %", *(f"T = {t}" for t in steps)], rows)


def _both(row: Row) -> str:
    return f"{100 * row.accuracy:.2f} ({100 * row.quantised.accuracy:.2f})"


def _details(arena: Arena) -> str:
    best = front(arena.rows)
    rows = [_cells(row, row in best) for row in arena.rows]
    words = "Rows of the front are in bold."
    return f"{words}\n\n{table(COLUMNS, rows)}"


def _cells(row: Row, is_best: bool) -> list[str]:
    name = f"**{row.method}**" if is_best else row.method
    return [
        name,
        str(row.steps),
        f"{100 * row.accuracy:.2f}",
        f"{100 * row.quantised.accuracy:.2f}",
        str(row.quantised.levels),
        str(row.levels_a_step),
        str(row.latency),
        "–" if row.layerwise is None else str(row.layerwise),
        f"{row.spikes:,.0f}",
        f"{row.accumulates:,.0f}",
        f"{row.multiply_accumulates:,}",
        f"{row.mean_operations:,}",
        f"{row.nanojoules:,.0f}",
        f"{row.quantised.nanojoules:,.0f}",
        f"{row.calibration_samples:,}",
    ]


def _left_out(arena: Arena) -> str:
    return "\n".join(f"- {name} is left out: {reason}" for name, reason in arena.left_out.items())
