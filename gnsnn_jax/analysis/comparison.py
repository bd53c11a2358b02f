"""One trained network converted by several methods, each evaluated on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from gnsnn_jax.analysis.evaluation import evaluate_over_time, predict
from gnsnn_jax.analysis.report import Result, make_report
from gnsnn_jax.command_line import progress_bar
from gnsnn_jax.methods import Method
from gnsnn_jax.training.converted import ConvertedNetwork, convert
from gnsnn_jax.training.data import Dataset, normalise
from gnsnn_jax.training.runs import Run


def compare_methods(
    run: Run, dataset: Dataset, methods: Sequence[Method], steps: Sequence[int], batch_size: int
) -> tuple[dict[str, Any], dict[str, ConvertedNetwork]]:
    """Returns the report and the converted networks by directory name."""
    images, labels = dataset.test
    prepare = partial(normalise, to=dataset.statistics)
    networks = {
        method.name.lower(): convert(run.config.model, run.variables, dataset, method, steps[-1]) for method in methods
    }
    results = []
    with progress_bar() as bar:
        for network in networks.values():
            task = bar.add_task(f"{network.method.name:>8}", total=len(labels), note="test samples")
            evaluation = evaluate_over_time(
                network.spiking(steps[-1]),
                network.variables,
                images,
                prepare,
                batch_size,
                on_batch=partial(bar.advance, task),
            )
            results.append(Result(network.method, evaluation))
    # The ANN with the same folded weights, so that rounding does not count as disagreement.
    ann = network.network().apply
    report = make_report(
        dataset=dataset.name,
        model=run.config.model.name,
        levels=run.config.model.levels,
        labels=labels,
        ann_predictions=predict(ann, network.variables, images, prepare, batch_size),
        results=results,
        steps=steps,
    )
    return report, networks
