"""One trained network converted by several methods, each evaluated on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from gnsnn_jax.analysis.evaluation import LONGEST_CALL, Evaluation, Prepare, evaluate_over_time, predict
from gnsnn_jax.conversion.quantised import depth as depth_of
from gnsnn_jax.data.sets import Dataset, normalise
from gnsnn_jax.errors import InputError, extra
from gnsnn_jax.method.methods import Method
from gnsnn_jax.report.report import EarlyStop, MethodResult, Report
from gnsnn_jax.runs.converted import ConvertedNetwork, convert, needs_thresholds, with_corrections, with_thresholds
from gnsnn_jax.runs.directories import Run
from gnsnn_jax.runtime.command_line import progress_bar

with extra("report"):
    from rich.progress import Progress


def compare_methods(
    run: Run,
    dataset: Dataset,
    methods: Sequence[Method],
    steps: Sequence[int],
    batch_size: int,
    confidence: float | None = None,
) -> tuple[Report, dict[str, list[ConvertedNetwork]]]:
    """Converts the network of a run by each method and evaluates all of them on the test split.

    Args:
        run: The run that holds the trained network.
        dataset: The data set of the run; thresholds of ReLUs are found on its training split.
        methods: At least one method.
        steps: Numbers of time-steps T to report, in increasing order.
        batch_size: The number of samples of one batch, also where thresholds are found.
        confidence: If given, the report has the accuracy and latency of samples that stop at this confidence, of
            methods that serve fewer steps.

    Returns:
        The report, and by the names of their directories the converted networks: of each method one, or one for each
        T in increasing order where it does not serve fewer steps.

    Raises:
        InputError: if a threshold rule or a channel axis is given for activations with thresholds of their own.
    """
    prepare = partial(normalise, to=dataset.statistics)
    converted = _convert_all(run, dataset, methods, steps[-1], batch_size)
    for_each_t = partial(
        _for_each_t, dataset=dataset, seed=run.config.training.seed, batch_size=batch_size, steps=steps
    )
    networks = {network.method.name.lower(): for_each_t(network) for network in converted}
    first, results = converted[0], []
    with progress_bar() as bar:
        for each in networks.values():
            evaluations = [_evaluate(network, dataset, prepare, network.steps, batch_size, bar) for network in each]
            results.append((each[-1].method, _joined(evaluations)))
    # The ANN with the same folded weights, so that rounding does not count as disagreement.
    report = make_report(
        dataset=dataset.name,
        model=run.config.model.name,
        levels=run.config.model.levels,
        activation=run.config.model.activation,
        ann_predictions=predict(first.apply(), first.variables, dataset.test, prepare, batch_size),
        results=results,
        steps=steps,
        confidence=confidence,
        depth=_depth(first, methods),
    )
    return report, networks


def _depth(network: ConvertedNetwork, methods: Sequence[Method]) -> int:
    """How many populations stand in a row, where some neurons wait for all of their currents; else 1."""
    if not any(method.neuron.layerwise for method in methods):
        return 1
    return depth_of(network.spiking(1), network.variables, jax.ShapeDtypeStruct((1, *network.image_shape), np.float32))


def _convert_all(
    run: Run, dataset: Dataset, methods: Sequence[Method], steps: int, batch_size: int
) -> list[ConvertedNetwork]:
    first = convert(run.config.model, run.variables, dataset, methods[0], steps)
    if needs_thresholds(first):
        networks = [replace(first, method=replace(method, thresholds=method.rule)) for method in methods]
        with_own = with_thresholds(networks, dataset, run.config.training.seed, batch_size)
        return with_corrections(with_own, dataset, run.config.training.seed, batch_size)
    if any(method.thresholds or method.channel_axis is not None for method in methods):
        raise InputError(
            f"the activations of {run.config.model.name} have thresholds of their own, so none are looked for; leave "
            "--thresholds and --channel-axis out"
        )
    networks = [replace(first, method=method) for method in methods]
    return with_corrections(networks, dataset, run.config.training.seed, batch_size)


def _for_each_t(
    network: ConvertedNetwork, dataset: Dataset, seed: int, batch_size: int, steps: Sequence[int]
) -> list[ConvertedNetwork]:
    """The network, once for each T where its method does not serve fewer steps."""
    if network.method.serves_fewer_steps:
        return [network]
    shorter = [replace(network, steps=each, corrections=None) for each in steps[:-1]]
    return [*with_corrections(shorter, dataset, seed, batch_size), network]


def _joined(evaluations: Sequence[Evaluation]) -> Evaluation:
    """What each step has in the shortest of several runs of the same samples that has it."""
    *shorter, longest = evaluations
    predictions, spikes, confidences = longest.predictions.copy(), longest.spikes.copy(), longest.confidences.copy()
    for each in reversed(shorter):
        steps = len(each.predictions)
        predictions[:steps], spikes[:steps], confidences[:steps] = each.predictions, each.spikes, each.confidences
    return longest._replace(predictions=predictions, spikes=spikes, confidences=confidences)


def _evaluate(
    network: ConvertedNetwork, dataset: Dataset, prepare: Prepare, steps: int, batch_size: int, bar: Progress
) -> Evaluation:
    task = bar.add_task(f"{network.method.name:>8}", total=dataset.test.count, note="test samples")
    part = bar.add_task("", total=steps, note="time-steps of a batch", visible=steps > LONGEST_CALL)
    evaluation = evaluate_over_time(
        network.spiking(steps),
        network.variables,
        dataset.test,
        prepare,
        batch_size,
        on_batch=partial(bar.advance, task),
        on_steps=lambda done: bar.update(part, completed=done),
    )
    bar.remove_task(part)
    return evaluation


def make_report(
    *,
    dataset: str,
    model: str,
    levels: int,
    ann_predictions: np.ndarray,
    results: Sequence[tuple[Method, Evaluation]],
    steps: Sequence[int],
    confidence: float | None = None,
    activation: str | None = None,
    depth: int = 1,
) -> Report:
    """Makes the report of what was evaluated on a test split.

    Args:
        dataset: The name of the data set.
        model: The name of the network.
        levels: L of its activations.
        ann_predictions: The classes that the ANN predicts, of shape [N].
        results: At least one method, each with its evaluation on the same N samples.
        steps: Numbers of time-steps T to report.
        confidence: If given, each method that serves fewer steps has an `early_stop`.
        activation: The name of the activations in the configuration.
        depth: How many populations stand in a row; neurons that wait for all currents take T steps for each.

    Returns:
        The report, without behaviour and analysis.
    """
    labels = results[0][1].labels
    return Report(
        dataset=dataset,
        model=model,
        levels=levels,
        ann_accuracy=float(np.mean(ann_predictions == labels)),
        samples=len(labels),
        activation=activation,
        methods=tuple(_result_of(*result, ann_predictions, steps, confidence, depth) for result in results),
    )


def _result_of(
    method: Method,
    evaluation: Evaluation,
    ann_predictions: np.ndarray,
    steps: Sequence[int],
    confidence: float | None,
    depth: int,
) -> MethodResult:
    waits = depth if method.neuron.layerwise else 1
    return MethodResult(
        name=method.name,
        neuron=method.neuron_name,
        members=method.members,
        probe_steps=method.probe_steps,
        thresholds=method.thresholds,
        channel_axis=method.channel_axis,
        accuracy={t: evaluation.accuracy(t) for t in steps},
        agreement={t: evaluation.agreement(ann_predictions, t) for t in steps},
        latency_steps={t: waits * int(method.latency(t)) for t in steps},
        spikes_per_neuron={t: evaluation.spikes_per_neuron(t) for t in steps},
        early_stop=_early_stop(method, evaluation, confidence),
    )


def _early_stop(method: Method, evaluation: Evaluation, confidence: float | None) -> EarlyStop | None:
    if confidence is None or not method.serves_fewer_steps:
        return None
    accuracy, steps = evaluation.stopped_when(confidence)
    return EarlyStop(confidence, accuracy, method.latency(steps))
