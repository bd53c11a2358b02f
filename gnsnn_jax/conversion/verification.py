"""How far a converted network is from the network it was made of, and where it first goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float
from gnsnn_jax.conversion.answers import classes_of
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction, Traced
from gnsnn_jax.dtypes import sum_type, summed_over_time
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.graph import Network, Operation, Slot, evaluate, reached_from
from gnsnn_jax.engine.names import by_present_names
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.tracing import Others, parted, trace
from gnsnn_jax.errors import InputError, listed, nearest
from gnsnn_jax.method.neurons import run

WRONG = 0.1  # relative error beyond which an activation counts as wrong by default


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
    on_means    the same of those behind neurons that are not linear, and so run on means or sums of spikes, in full at
                each time-step
    """

    analog: tuple[str, ...]
    on_means: tuple[str, ...]

    def __new__(cls, agreement, error, sites, analog=(), on_means=()):
        found = super().__new__(cls, agreement, error, sites)
        found.analog, found.on_means = analog, on_means
        return found

    def first_wrong(self, tolerance: float = WRONG) -> str | None:
        """The first activation whose error after all steps is not within the tolerance, if there is one."""
        return next((site.name for site in self.sites if not site.error[-1] <= tolerance), None)

    def __str__(self) -> str:
        return _table(self)


def verify(ann: Callable, snn: Callable, batches: Iterable[Any], *, variables: Any = None) -> Verification:
    """Compares a converted network with the network itself by number of steps, and activation by activation.

        print(verify(model.apply, snn, batches, variables=variables))

    The outputs of all neurons for one batch, at all steps, are in memory together.

    Args:
        ann: the network.
        snn: what `to_spiking` made of it, under `jax.jit` or not. With `time_axes`, its mean output after t steps is
            compared with the network on the mean of the inputs of these steps; the network's own currents are then
            what each step changes of t times its current there.
        batches: each holds the arguments of both after `variables`, one array or a tuple of several. Arrays are those
            of JAX and NumPy, tensors of other frameworks, numbers and nested lists of them; trees of arrays are
            arguments too (`engine.batches.as_batch`). Leave labels out, `(x for x, _ in loader)`, and put one batch x
            into a list, [x].
        variables: the first argument of both, the same for all batches.

    Returns:
        A `Verification`, which prints as a table.

    Raises:
        InputError: without batches, for what is no batch or none that the network takes, and for activations of
            `snn` that `ann` does not have.
        TypeError: where `snn` is not a converted network.
    """
    given, spiking = Batches(batches, variables, "verify(apply, snn, {})"), converted_function(snn)
    spiking = replace(spiking, ann=given.explaining(spiking.ann), reduce=None)
    ann, total, compiled_for = given.explaining(ann), None, None
    for args in given.arguments():
        arrays, others = parted(args, {})
        if others != compiled_for:
            compiled_for, network = others, spiking.traced(*args).network
            names = [each.activation.name for each in network.populations]
            compare = jax.jit(partial(_compare, ann, spiking, others, names))
        found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), compare(arrays))
        total = found if total is None else jax.tree.map(np.add, total, found)
    agreement, error, of_sites = total
    relative = [SiteErrors(name, *map(_relative, sums)) for name, sums in zip(names, of_sites, strict=True)]
    analog = (*network.analog, *network.kept)
    return Verification(_share(agreement), _relative(error), tuple(relative), analog, tuple(network.on_means))


class _Hits(NamedTuple):
    """Predictions [T] that agree, of so many."""

    hits: Array
    count: Array  # type: ignore[assignment]


class _Squares(NamedTuple):
    """Squared errors [T] and the square of what is right [T], or [1] where that is the same at all steps, summed."""

    errors: Array
    right: Array


def _share(agreement: _Hits) -> Array | np.ndarray | None:
    return agreement.hits / agreement.count if agreement.count else None


def _relative(sums: _Squares) -> np.ndarray:
    """The square root of the quotient; 0 where there is no error, infinity for errors where 0 is right."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums.errors == 0, 0, np.sqrt(sums.errors / sums.right))


def _compare(
    ann: Callable, spiking: SpikingFunction, others: Others, names: Sequence[str], arrays: list[Any]
) -> tuple[_Hits, _Squares, list[tuple[_Squares, _Squares]]]:
    """The sums over a batch."""
    args, _ = others.around(arrays)
    traced = spiking.traced(*args)
    outputs, found = spiking.observed(lambda spikes, site: {site.name: spikes}).simulated(traced)
    trains = {name: train for population in found for name, train in population.items()}
    if spiking.coding == "once":
        outputs, trains = jax.tree.map(_as_rates, (outputs, trains))
    right = _Right(ann, spiking, args, traced, names)
    of_sites = []
    for name, operation in right.populations.items():
        wanted = right.values[operation.outputs[0]]
        of_sites.append((_squares(trains[name], wanted), _squares(right.run_alone(operation), wanted)))
    pairs = list(zip(jax.tree.leaves(outputs), right.outputs, strict=True))
    hits = [_hits(*pair) for pair, predicts in zip(pairs, right.predict, strict=True) if predicts]
    none = _Hits(jnp.zeros(spiking.steps), jnp.zeros(()))
    return _total([none, *hits]), _total([_squares(*pair) for pair in pairs]), of_sites


class _Right:
    """What the network itself computes of one batch, [1, ...], or [T, ...] on means so far of inputs with time.

    The network has a trace of its own, whose activations go by their names.
    """

    def __init__(self, ann: Callable, spiking: SpikingFunction, args: tuple, traced: Traced, names: Sequence[str]):
        self.spiking, self.varies = spiking, [slot in traced.trains for slot in traced.network.inputs]
        inputs = [_mean_so_far(x) if varies else x for x, varies in zip(traced.inputs, self.varies, strict=True)]
        seen = [x[0] if varies else x for x, varies in zip(inputs, self.varies, strict=True)]
        self.network = network_of(trace(ann, args, {}, seen)[0], spiking.encoders)
        self.thresholds = by_present_names(spiking.thresholds or {}, self.network.operations)
        self.populations = _by_name(self.network, names)
        self.values = self._evaluated(inputs)

    @property
    def outputs(self) -> list[Array]:
        return [self.values[slot] for slot in self.network.outputs]

    @property
    def predict(self) -> list[bool]:
        """Of each output, whether it holds classes."""
        spikes = {slot for each in self.populations.values() for slot in each.outputs}
        reached = reached_from(self.network.operations, spikes)
        pairs = zip(self.network.outputs, self.outputs, strict=True)
        return [slot in reached and _has_classes(right) for slot, right in pairs]

    def run_alone(self, operation: Operation) -> Array:
        """The spikes of a population on the current that the network itself has there."""
        name, _, current, own = operation.activation
        threshold = self.thresholds.get(name, None if own is None else self.values[own][0])
        trains = run(self.spiking.neuron_at(operation), self._currents(self.values[current]), threshold)[0]
        return _as_rates(trains) if self.spiking.coding == "once" else trains

    def _currents(self, values: Array) -> Array:
        """What each step adds to t times the current on the means of t steps; in once coding all comes first."""
        if self.spiking.coding == "once":
            return jnp.concatenate([values, jnp.zeros((self.spiking.steps - 1, *values.shape[1:]), values.dtype)])
        if not any(self.varies):
            return jnp.broadcast_to(values, (self.spiking.steps, *values.shape[1:]))
        sums = _floating(values) * _steps(values).astype(_floating(values).dtype)
        return jnp.diff(sums, axis=0, prepend=jnp.zeros_like(sums[:1])).astype(values.dtype)

    def _evaluated(self, inputs: Sequence[Any]) -> dict[Slot, Array]:
        """The values of all that is compared."""
        of_populations = ((*each.activation[2:], *each.outputs) for each in self.populations.values())
        slots = {slot for each in of_populations for slot in each if slot is not None} | {*self.network.outputs}
        evaluated = lambda inputs: list(map(jnp.asarray, evaluate(self.network, inputs, slots)))
        found = self._at_each_step(evaluated, inputs) if any(self.varies) else [x[None] for x in evaluated(inputs)]
        return dict(zip(slots, found, strict=True))

    def _at_each_step(self, evaluated: Callable, inputs: Sequence[Any]) -> list[Array]:
        trains = [x[: self.spiking.steps] for x, varies in zip(inputs, self.varies, strict=True) if varies]

        def at_step(parts):
            part = iter(parts)
            return evaluated([next(part) if varies else x for x, varies in zip(inputs, self.varies, strict=True)])

        return jax.lax.map(at_step, trains)


def _by_name(network: Network, names: Sequence[str]) -> dict[str, Operation]:
    """The activations of these names. Raises InputError where the network has none."""
    known = {operation.activation.name: operation for operation in network.activations}
    strange = [name for name in names if name not in known]
    if strange:
        raise InputError(
            f"snn has neurons for {strange[0]!r}, an activation that ann has not{nearest(strange[0], known)}; give "
            "the function that was converted"
        )
    return {name: known[name] for name in names}


def _floating(values: Array) -> Array:
    """Values in the type for their sums, at least single precision, whole numbers and truth values too."""
    return values.astype(sum_type(values.dtype) if jnp.issubdtype(values.dtype, jnp.floating) else jnp.float32)


def _mean_so_far(train: Array) -> Array:
    sums = summed_over_time(_floating(train))
    return sums / _steps(sums).astype(sums.dtype)


def _as_rates(train: Array) -> Array:
    """A train whose mean so far is at each step the sum so far of this one."""
    sums = summed_over_time(_floating(train))
    return jnp.diff(sums * _steps(sums).astype(sums.dtype), axis=0, prepend=jnp.zeros_like(sums[:1]))


def _steps(train: Array) -> Array:
    """The numbers of steps 1..T, [T, 1, ...]."""
    return jnp.arange(1, len(train) + 1).reshape(-1, *(1,) * (train.ndim - 1))


def _squares(train: Array, right: Array) -> _Squares:
    right = _floating(right)
    errors = (_mean_so_far(train) - right) ** 2
    return _Squares(*(_widest(each.reshape(len(each), -1).sum(-1)) for each in (errors, right**2)))


def _has_classes(output: Array) -> bool:
    return output.ndim > 2 and jnp.issubdtype(output.dtype, jnp.floating)


def _hits(train: Array, right: Array) -> _Hits:
    same = classes_of(_mean_so_far(train)) == classes_of(_floating(right))
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
    means = [f"these run on means or sums of spikes, at each step: {listed(found.on_means)}"] if found.on_means else []
    return "\n".join([*lines, legend, *analog, *means, f"after {steps} steps {verdict}"])
