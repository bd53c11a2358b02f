"""How far a converted network is from the network it was made of, and where it first goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float
from gnsnn_jax.conversion.answers import classes_of
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.dtypes import sum_type, summed_over_time
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.graph import Operation, Slot, evaluate, reached_from
from gnsnn_jax.engine.names import by_present_names
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.tracing import arrays_of, of_arrays, parted, trace
from gnsnn_jax.errors import InputError, listed, nearest
from gnsnn_jax.method.neurons import run

WRONG = 0.1  # relative error beyond which an activation counts as wrong, unless told


class SiteErrors(NamedTuple):
    """Relative errors of the mean output of one population over the first 1..T steps.

    error   in the spiking network, with what the layers before it got wrong
    alone   on the network's own currents: what threshold, levels and so few steps cost by themselves
    """

    name: str
    error: Float[np.ndarray, " T"]
    alone: Float[np.ndarray, " T"]


class _Errors(NamedTuple):
    """What a `Verification` unpacks into."""

    agreement: Float[np.ndarray, " T"] | None
    error: Float[np.ndarray, " T"]
    sites: tuple[SiteErrors, ...]


class Verification(_Errors):
    """What `verify` finds; `str` makes a table of it.

    agreement   share of the predictions after 1..T steps that are those of the network: the largest entries
                along the last axis of outputs [..., K], and the sign where K = 1. Floating-point outputs that
                depend on neurons and have more axes than one count; None where there is none
    error       |mean output over the first 1..T steps - output of the network| / |output of the network|,
                Euclidean over all outputs and samples
    sites       the same for each population, in the order of evaluation
    analog      places and names of the operations in front of the first neurons that are not linear and compute as
                in the network itself
    """

    analog: tuple[str, ...]

    def __new__(cls, agreement, error, sites, analog=()):
        found = super().__new__(cls, agreement, error, sites)
        found.analog = analog
        return found

    def first_wrong(self, tolerance: float = WRONG) -> str | None:
        """The first activation whose error after all steps is not within the tolerance, if there is one."""
        return next((site.name for site in self.sites if not site.error[-1] <= tolerance), None)

    def __str__(self) -> str:
        return _table(self)


def verify(ann: Callable, snn: Callable, batches: Iterable[Any], *, variables: Any = None) -> Verification:
    """Compares a converted network with the network itself by number of steps, and activation by activation.

    `snn` is what `to_spiking` made of `ann`, under `jax.jit` or not. Each batch holds the arguments of both,
    one array or a tuple of several, after `variables` where these are given:
    `print(verify(model.apply, snn, batches, variables=variables))`. Arrays are those of JAX and NumPy, tensors of
    other frameworks, numbers and nested lists of them; trees of arrays are arguments too
    (`engine.batches.as_batch`). Labels are left out, `(x for x, _ in loader)`, and one batch x stands in a list, [x].
    The outputs of all neurons for one batch, at all steps, are in memory together.

    Raises InputError where there are no batches, for what is no batch or none that the network takes, for
    activations of `snn` that `ann` has not, and for inputs with a time axis; TypeError where `snn` is no converted
    network.
    """
    spiking, given = _without_time_axes(snn), Batches(batches, variables, "verify(apply, snn, {})")
    ann, total, compiled_for = given.explaining(ann), None, None
    for args in given.arguments():
        arrays, others = parted(args, {})
        if others != compiled_for:
            compiled_for, names = others, _names(ann, spiking, args)
            analog = spiking.analog(*args)
            compare = jax.jit(partial(_compare, of_arrays(ann, args, {}), _simulation(spiking, args), spiking, names))
        found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), compare(arrays))
        total = found if total is None else jax.tree.map(np.add, total, found)
    agreement, error, of_sites = total
    relative = [SiteErrors(name, *map(_relative, sums)) for name, sums in zip(names, of_sites, strict=True)]
    return Verification(_share(agreement), _relative(error), tuple(relative), analog)


def _without_time_axes(snn: Callable) -> SpikingFunction:
    spiking = converted_function(snn)
    if jax.tree.leaves(spiking.time_axes):
        raise InputError(
            f"verify compares on inputs without a time axis, but this network was converted with time_axes="
            f"{spiking.time_axes!r}; convert it without them for the comparison"
        )
    return spiking


def _simulation(spiking: SpikingFunction, args: tuple) -> Callable:
    """The converted network as a function of arrays that returns its outputs and its spikes by activation."""
    return of_arrays(spiking.observed(lambda spikes, site: {site.name: spikes}), args, {})


def _names(ann: Callable, spiking: SpikingFunction, args: tuple) -> list[str]:
    """The activations that became neurons. Raises InputError where `ann` has none of that name."""
    known = {each.activation.name for each in network_of(trace(ann, args, {})[0], spiking.encoders).activations}
    _, spikes = jax.eval_shape(_simulation(spiking, args), *arrays_of(args, {}))
    names = [name for population in spikes for name in population]
    strange = [name for name in names if name not in known]
    if strange:
        raise InputError(
            f"snn has neurons for {strange[0]!r}, an activation that ann has not{nearest(strange[0], known)}; give "
            "the function that was converted"
        )
    return names


class _Hits(NamedTuple):
    """Predictions [T] that agree, of so many."""

    hits: Array
    count: Array  # type: ignore[assignment]


class _Squares(NamedTuple):
    """Squared errors [T] and the square of what is right, summed."""

    errors: Array
    right: Array


def _share(agreement: _Hits) -> Array | np.ndarray | None:
    return agreement.hits / agreement.count if agreement.count else None


def _relative(sums: _Squares) -> np.ndarray:
    """The square root of the quotient; 0 where there is no error, infinity for errors where 0 is right."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums.errors == 0, 0, np.sqrt(sums.errors / sums.right))


def _compare(
    ann: Callable, simulation: Callable, spiking: SpikingFunction, names: Sequence[str], arrays: list[Any]
) -> tuple[_Hits, _Squares, list[tuple[_Squares, _Squares]]]:
    """The sums over a batch."""
    network = network_of(jax.make_jaxpr(ann)(*arrays), spiking.encoders)
    thresholds = by_present_names(spiking.thresholds or {}, network.operations)
    by_name = {operation.activation.name: operation for operation in network.activations}
    populations = [by_name[name] for name in names]
    slots = {slot for each in populations for slot in (*each.activation[2:], *each.outputs) if slot is not None}
    slots.update(network.outputs)
    values = dict(zip(slots, evaluate(network, arrays, slots), strict=True))
    outputs, trains = simulation(*arrays)
    trains = {name: train for population in trains for name, train in population.items()}
    rights = [jnp.asarray(values[slot]) for slot in network.outputs]
    pairs = list(zip(jax.tree.leaves(outputs), rights, strict=True))
    of_sites = []
    for name, operation in zip(names, populations, strict=True):
        right = values[operation.outputs[0]]
        alone = _run_alone(spiking, thresholds, operation, values)
        of_sites.append((_squares(trains[name], right), _squares(alone, right)))
    reached = reached_from(network.operations, {slot for each in populations for slot in each.outputs})
    predict = [slot in reached and _has_classes(right) for slot, right in zip(network.outputs, rights, strict=True)]
    hits = [_hits(*pair) for pair, predicts in zip(pairs, predict, strict=True) if predicts]
    none = _Hits(jnp.zeros(spiking.steps), jnp.zeros(()))
    return _total([none, *hits]), _total([_squares(*pair) for pair in pairs]), of_sites


def _run_alone(
    spiking: SpikingFunction, thresholds: Mapping[str, Any], operation: Operation, values: Mapping[Slot, Any]
) -> Array:
    """The spikes of a population on the current that the network itself has there."""
    name, _, current, own = operation.activation
    threshold = thresholds.get(name, None if own is None else values[own])
    currents = jnp.asarray(values[current])
    currents = jnp.broadcast_to(currents, (spiking.steps, *currents.shape))
    return run(spiking.neuron_at(operation), currents, threshold)[0]


def _floating(values: Array) -> Array:
    """Values in the type for their sums, at least single precision, whole numbers and truth values too."""
    return values.astype(sum_type(values.dtype) if jnp.issubdtype(values.dtype, jnp.floating) else jnp.float32)


def _mean_so_far(train: Array) -> Array:
    sums = summed_over_time(_floating(train))
    return sums / jnp.arange(1, len(train) + 1, dtype=sums.dtype).reshape(-1, *(1,) * (train.ndim - 1))


def _squares(train: Array, right: Array) -> _Squares:
    right = _floating(right)
    errors = (_mean_so_far(train) - right[None]) ** 2
    return _Squares(*map(_widest, (errors.reshape(len(train), -1).sum(-1), (right**2).sum())))


def _has_classes(output: Array) -> bool:
    return output.ndim > 1 and jnp.issubdtype(output.dtype, jnp.floating)


def _hits(train: Array, right: Array) -> _Hits:
    same = classes_of(_mean_so_far(train)) == classes_of(_floating(right))[None]
    return _Hits(_widest(same.reshape(len(train), -1).sum(-1)), _widest(jnp.asarray(same[0].size)))


def _widest(values: Array) -> Array:
    """In the one type that sums of several outputs have."""
    return values.astype(jnp.zeros(()).dtype)


def _total(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *parts: sum(parts), *parts)


def _table(found: Verification) -> str:
    """One column for each power of two among the steps, and for the last of them."""
    steps = len(found.error)
    shown = sorted({*(2**power for power in range(steps.bit_length())), steps})
    percent = lambda values: [f"{100 * values[t - 1]:.1f}" for t in shown]
    rows = [["steps T", *map(str, shown)]]
    if found.agreement is not None:
        rows.append(["same predictions, %", *percent(found.agreement)])
    rows.append(["error of the outputs, %", *percent(found.error)])
    for site in found.sites:
        both = zip(percent(site.error), percent(site.alone), strict=True)
        rows.append([site.name, *(f"{error} ({alone})" for error, alone in both)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    wrong = found.first_wrong()
    verdict = (
        f"first off by more than {WRONG:.0%}: {wrong}" if wrong else f"no activation is off by more than {WRONG:.0%}"
    )
    legend = "activations: error in %, and in brackets that of the neurons alone, on the network's own currents"
    analog = [f"not linear, and analog in front of the first neurons: {listed(found.analog)}"] if found.analog else []
    return "\n".join([*lines, legend, *analog, f"after {steps} steps {verdict}"])
