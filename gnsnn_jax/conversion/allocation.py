"""How many members the neurons of each site get, under a budget of spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float
from gnsnn_jax.conversion.quantised import as_graph
from gnsnn_jax.conversion.to_spiking import SpikingFunction, to_spiking
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.encoders import Encoders
from gnsnn_jax.engine.graph import Operation, evaluate
from gnsnn_jax.engine.tracing import Others, parted
from gnsnn_jax.errors import InputError, at_least_one, shown
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.neurons import GroupNeuron, group_neuron

CHOICES = (1, 2, 4, 8, 16)
MOST_POINTS = 2000  # of a front that go on to the next site; cheaper and dearer ones between them are left out


def allocate_members(
    ann: Callable,
    batches: Iterable[Any],
    thresholds: Mapping[str, Any] | None,
    budget: float,
    *,
    choices: Sequence[int] = CHOICES,
    variables: Any = None,
    encoders: Encoders = "auto",
) -> dict[str, GroupNeuron]:
    """Chooses the members of the group neurons of each site so that few spikes cost little accuracy.

        minimise sum over sites of D_s(m_s)   where   sum over sites of N_s(m_s) <= budget

    D_s(m) is the divergence E[KL(p || q)] of the classes q that the network predicts with m levels at site s, and the
    most of the choices elsewhere, from the p with the most everywhere; N_s(m) the spikes that the site then sends for
    one sample in one step. The Pareto front of both sums is built up site by site.

        neurons = gs.allocate_members(apply, batches, thresholds, budget=5000, variables=variables)
        snn = gs.to_spiking(apply, neurons, steps=4, thresholds=thresholds)

    Args:
        ann: the network, as `to_spiking` takes it, whose outputs are one array [batch, classes].
        batches: each holds the arguments of `ann` after `variables`, as in `find_thresholds`.
        thresholds: those of `to_spiking`; None where activations have their own.
        budget: spikes of all neurons for one sample in one step, on average.
        choices: numbers of members, each at least 1.
        variables: the first argument of `ann`, the same for all batches.
        encoders: where they stand, as in `to_spiking`.

    Returns:
        A neuron for each site by its name, for `to_spiking`.

    Raises:
        InputError: for a budget that not even the fewest spikes keep to, choices below 1, no batches, what is no batch
            or none that the network takes, and for outputs of another kind.
        TypeError: for choices that are no integers.

    Wang et al., "Adaptive Calibration", AAAI 2025, arXiv 2412.16219, which spends the budget of burst neurons so.
    """
    choices = sorted({at_least_one("a number of members", each) for each in choices})
    if not choices:
        raise InputError(f"choices must hold at least one number of members, such as {shown(CHOICES)}, got none")
    given = Batches(batches, variables, "allocate_members(apply, {}, thresholds, budget)")
    spiking = to_spiking(
        given.explaining(ann), group_neuron(choices[-1]), steps=1, thresholds=thresholds, encoders=encoders
    )
    total, count = None, 0
    for args in given.arguments():
        arrays, others = parted(args, {})
        names, measured = _names(spiking, args), _measured(spiking, others, tuple(choices), arrays)
        found = [np.asarray(each, np.float64) for each in measured]
        total = found if total is None else [one + other for one, other in zip(total, found, strict=True)]
        count += 1
    divergences, spikes = (each / count for each in total)
    chosen = _cheapest(divergences, spikes, budget)
    return {name: group_neuron(choices[at]) for name, at in zip(names, chosen, strict=True)}


def _names(spiking: SpikingFunction, args: tuple) -> list[str]:
    return [each.activation.name for each in spiking.traced(*args).network.populations]


@partial(jax.jit, static_argnames=("spiking", "others", "choices"))
def _measured(
    spiking: SpikingFunction, others: Others, choices: tuple[int, ...], arrays: list[Any]
) -> tuple[Float[Array, "sites choices"], Float[Array, "sites choices"]]:
    """The divergence, and the spikes of each sample, with each choice at each site."""
    args, _ = others.around(arrays)
    traced = spiking.traced(*args)
    names = [each.activation.name for each in traced.network.populations]
    finest = jnp.full(len(names), choices[-1], jnp.float32)
    settings = jnp.stack([finest.at[site].set(members) for site in range(len(names)) for members in choices])

    def run(members: Float[Array, " sites"]) -> tuple[Array, Array]:
        spikes: dict[str, Array] = {}

        def activate(operation: Operation, values: Sequence[Any]) -> Array:
            name, is_signed = operation.activation.name, operation.activation.kind == "encoder"
            at = members[names.index(name)]
            current, threshold = map(jnp.asarray, values)
            value, units = _in_levels(current, threshold, at, is_signed)
            spikes[name] = jnp.abs(units).sum() / max(len(units), 1)
            return value

        (outputs, *rest) = evaluate(*as_graph(traced.network, traced.inputs), activate)
        if rest or outputs.ndim != 2 or outputs.shape[1] < 2:
            raise InputError(
                "members are allocated by the classes that a network predicts: its outputs must be one array [batch, "
                f"classes] of 2 classes or more, got {shown([each.shape for each in (outputs, *rest)])}"
            )
        return jax.nn.log_softmax(outputs.astype(jnp.float32)), jnp.stack([spikes[name] for name in names])

    wanted, _ = run(finest)

    def compare(members: Float[Array, " sites"]) -> tuple[Array, Array]:
        found, spikes = run(members)
        return (jnp.exp(wanted) * (wanted - found)).sum(-1).mean(), spikes

    divergences, spikes = jax.lax.map(compare, settings)
    of_site = spikes.reshape(len(names), len(choices), len(names))[jnp.arange(len(names)), :, jnp.arange(len(names))]
    return jnp.maximum(divergences, 0).reshape(len(names), len(choices)), of_site


def _in_levels(current: Array, threshold: Array, levels: Array, is_signed: bool) -> tuple[Array, Array]:
    """The quantised current and its units, of a number of levels that is not known while it is compiled."""
    unit = align(threshold.astype(current.dtype), current.shape, "threshold") / levels.astype(current.dtype)
    most = levels.astype(current.dtype)
    units = jnp.clip(jnp.floor(current / unit + 0.5), -most if is_signed else 0, most)
    return units * unit, units


class _Point(NamedTuple):
    """Of a Pareto front: choices of the sites so far."""

    spikes: float
    divergence: float
    choices: tuple[int, ...]


def _cheapest(divergences: np.ndarray, spikes: np.ndarray, budget: float) -> tuple[int, ...]:
    """The choice of each site [sites] with the least sum of divergences whose sum of spikes keeps to the budget."""
    least = spikes.min(1).sum()
    if not least <= budget:
        raise InputError(
            f"a budget of {budget:g} spikes is less than the fewest, {least:.4g}; give a larger one, or smaller choices"
        )
    left = np.append(np.cumsum(spikes.min(1)[::-1])[::-1][1:], 0)  # the fewest that the sites behind take
    front = [_Point(0.0, 0.0, ())]
    for of_site, errors, behind in zip(spikes, divergences, left, strict=True):
        points = [
            _Point(point.spikes + count, point.divergence + error, (*point.choices, at))
            for point in front
            for at, (count, error) in enumerate(zip(of_site, errors, strict=True))
            if point.spikes + count + behind <= budget * (1 + 1e-12)
        ]
        front = _thinned(_pareto(points))
    return min(front, key=lambda point: (point.divergence, point.spikes)).choices


def _pareto(points: Sequence[_Point]) -> list[_Point]:
    """Those that no other point is as good as in both sums, the fewest spikes first."""
    front: list[_Point] = []
    for point in sorted(points):
        if not front or point.divergence < front[-1].divergence:
            front.append(point)
    return front


def _thinned(front: list[_Point]) -> list[_Point]:
    """At most MOST_POINTS of them, evenly, with both ends."""
    if len(front) <= MOST_POINTS:
        return front
    return [front[round(at)] for at in np.linspace(0, len(front) - 1, MOST_POINTS)]
