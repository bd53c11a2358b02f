"""One trained network converted by several methods, each evaluated on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gnsnn_jax.analysis.evaluation import LONGEST_CALL, evaluate_over_time, predict
from gnsnn_jax.data.sets import Dataset, normalise
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.methods import Method
from gnsnn_jax.report.results import Result, make_report
from gnsnn_jax.runs.converted import ConvertedNetwork, convert, needs_thresholds, with_thresholds
from gnsnn_jax.runs.directories import Run
from gnsnn_jax.runtime.command_line import progress_bar


def compare_methods(
    run: Run,
    dataset: Dataset,
    methods: Sequence[Method],
    steps: Sequence[int],
    batch_size: int,
    confidence: float | None = None,
) -> tuple[dict[str, Any], dict[str, ConvertedNetwork]]:
    """Returns the report and the converted networks by directory name.

    Thresholds of ReLUs are found in batches of that size too.
    """
    prepare = partial(normalise, to=dataset.statistics)
    converted = _convert_all(run, dataset, methods, steps[-1], batch_size)
    networks = {network.method.name.lower(): network for network in converted}
    first, results = converted[0], []
    with progress_bar() as bar:
        for network in networks.values():
            task = bar.add_task(f"{network.method.name:>8}", total=dataset.test.count, note="test samples")
            part = bar.add_task("", total=steps[-1], note="time-steps of a batch", visible=steps[-1] > LONGEST_CALL)
            evaluation = evaluate_over_time(
                network.spiking(steps[-1]),
                network.variables,
                dataset.test,
                prepare,
                batch_size,
                on_batch=partial(bar.advance, task),
                on_steps=lambda done, part=part: bar.update(part, completed=done),
            )
            bar.remove_task(part)
            results.append(Result(network.method, evaluation))
    # The ANN with the same folded weights, so that rounding does not count as disagreement.
    report = make_report(
        dataset=dataset.name,
        model=run.config.model.name,
        levels=run.config.model.levels,
        labels=results[0].evaluation.labels,
        ann_predictions=predict(first.apply(), first.variables, dataset.test, prepare, batch_size),
        results=results,
        steps=steps,
        confidence=confidence,
    )
    return report, networks


def _convert_all(
    run: Run, dataset: Dataset, methods: Sequence[Method], steps: int, batch_size: int
) -> list[ConvertedNetwork]:
    first = convert(run.config.model, run.variables, dataset, methods[0], steps)
    if needs_thresholds(first):
        networks = [replace(first, method=replace(method, thresholds=method.rule)) for method in methods]
        return with_thresholds(networks, dataset, run.config.training.seed, batch_size)
    if any(method.thresholds or method.channel_axis is not None for method in methods):
        raise InputError(
            f"the activations of {run.config.model.name} have thresholds of their own, so none are looked for; leave "
            "--thresholds and --channel-axis out"
        )
    return [replace(first, method=method) for method in methods]
