"""The advanced pipeline of SNN calibration: weights that bring each spiking layer near to that of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.corrections_by_site import corrections_for
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.graph import Operation, Slot, evaluate
from gnsnn_jax.engine.simulation import Simulation, evaluated_once
from gnsnn_jax.engine.tracing import Others, parted
from gnsnn_jax.errors import InputError, at_least_one
from gnsnn_jax.method.activations import align


def calibrate_weights(
    snn: Callable, batches: Iterable[Any], optimiser: Any, *, variables: Any, iterations: int, target: Any = None
) -> tuple[Any, list[float]]:
    """Changes the weights of a converted network so that each layer emits what the network itself has there.

        loss = sum over populations of E[(mean_t y_t - h)^2],   h the activation in the network before

    Each population is compared on the spikes that the calibrated layers before it make, and no gradient goes on to
    them: so each layer learns its own weights, all of them in one pass. The gradient is straight through the rounding,
    that of clip(mean_t x_t, 0, theta). Labels are not needed.

    It corrects what thresholds, uneven spikes or rounded weights shift, and cannot correct the rounding of the spikes
    themselves: at T of 4 or less that is most of the error, and weights that follow it get worse. Compare the losses,
    and the accuracy on data that were not used here.

        import optax
        variables, losses = gs.calibrate_weights(snn, batches, optax.adam(4e-5), variables=variables, iterations=500)

    Args:
        snn: what `to_spiking` returned, or `jax.jit` of it, of the steps that are asked for; it may have corrections,
            which the paper finds first, and no calibration.
        batches: each holds the arguments of `snn` after `variables`, as in `find_thresholds`; they are kept, and come
            again in their order until there were so many iterations. The paper takes 1024 training images.
        optimiser: of optax, or any object with its `init` and `update`. It gets the gradients of all floating-point
            arrays among the variables, the statistics of batch norms too: `optax.masked` keeps some as they are.
        variables: the first argument of `snn`, a tree of arrays.
        iterations: at least 1; the paper takes 5000.
        target: the variables of the network that is imitated, `variables` by default; others where those were rounded
            or pruned.

    Returns:
        The calibrated variables, and the loss before each iteration.

    Raises:
        InputError: for no batches, what is no batch or none that the network takes, iterations < 1, a network with a
            calibration, with inputs that have time or in once coding, and for a loss that is NaN or infinite.
        TypeError: where `snn` is not a converted network, or the optimiser has no `init` and `update`.

    Li et al., ICML 2021, "A Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration".
    """
    if not (hasattr(optimiser, "init") and hasattr(optimiser, "update")):
        raise TypeError(f"optimiser must have init and update, as optax.adam(4e-5) has, got {optimiser!r}")
    iterations = at_least_one("iterations", iterations)
    given, spiking = Batches(batches, variables, "calibrate_weights(snn, {}, ...)"), converted_function(snn)
    spiking = replace(_checked(spiking), ann=given.explaining(spiking.ann), observe=None, reduce=None)
    data = [args[1:] for args in given.arguments()]
    original = variables if target is None else target
    state, losses = optimiser.init(_parts(variables)[0]), []
    for _, batch in zip(range(iterations), cycle(data), strict=False):
        arrays, others = parted(batch, {})
        loss, gradients = _loss_and_gradients(spiking, others, variables, original, arrays)
        losses.append(float(loss))
        if not jnp.isfinite(loss):
            raise InputError(
                f"the loss is {losses[-1]} at iteration {len(losses)}; give the optimiser a smaller learning rate"
            )
        learned, rest = _parts(variables)
        updates, state = optimiser.update(gradients, state, learned)
        variables = _joined(jax.tree.map(jnp.add, learned, updates), rest)
    return variables, losses


def _checked(spiking: SpikingFunction) -> SpikingFunction:
    if spiking.calibration:
        raise InputError("weights are calibrated without a calibration that probes each sample; leave it out")
    if spiking.coding != "rate":
        raise InputError('weights are calibrated for currents that come at each step; leave coding="once" out')
    if any(axis is not None for axis in jax.tree.leaves(spiking.time_axes, is_leaf=lambda axis: axis is None)):
        raise InputError("weights are calibrated for inputs without time; leave time_axes out and give one frame each")
    return spiking


def _parts(variables: Any) -> tuple[Any, Any]:
    """The floating-point arrays of a tree, and the others; None in each where the other has something."""
    learns = lambda leaf: jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    learned = jax.tree.map(lambda leaf: jnp.asarray(leaf) if learns(leaf) else None, variables)
    return learned, jax.tree.map(lambda leaf: None if learns(leaf) else leaf, variables)


def _joined(learned: Any, rest: Any) -> Any:
    is_none = lambda leaf: leaf is None
    return jax.tree.map(lambda own, other: other if own is None else own, learned, rest, is_leaf=is_none)


@partial(jax.jit, static_argnames=("spiking", "others"))
def _loss_and_gradients(spiking: SpikingFunction, others: Others, variables: Any, original: Any, arrays: list[Any]):
    args, _ = others.around(arrays)
    learned, rest = _parts(variables)

    def loss(learned: Any) -> Array:
        return _loss(spiking, (_joined(learned, rest), *args), (original, *args))

    return jax.value_and_grad(loss)(learned)


def _loss(spiking: SpikingFunction, args: tuple, original: tuple) -> Array:
    traced, before = spiking.traced(*args), spiking.traced(*original)
    slots = [each.outputs[0] for each in before.network.populations]
    wanted = evaluate(before.network.ann, before.inputs, slots)
    names = [each.activation.name for each in before.network.populations]
    values = evaluated_once(traced.network, traced.inputs)
    corrections = corrections_for(traced.network, spiking.corrections)
    comparing = _Comparing(
        traced.network, values, spiking.neuron_at, spiking.steps, spiking.product_dtype, corrections=corrections
    )
    comparing.wanted = dict(zip(names, wanted, strict=True))
    comparing.chunk({}, spiking.steps, comparing.start())
    return sum(comparing.losses, jnp.zeros(()))


class _Comparing(Simulation):
    """A simulation of all steps as one chunk in which no gradient goes from one population to those before it."""

    wanted: Mapping[str, Any]

    def __init__(self, network: Any, values: Mapping[Slot, Any], *settings: Any, **more: Any):
        super().__init__(network, values, *settings, **more)
        self.losses: list[Array] = []

    def _fire(self, operation: Operation, views: Any, state: Any, calibration: Any) -> Any:
        inputs, fired = super()._fire(operation, views, state, calibration)
        spikes, after = jax.lax.stop_gradient(fired)
        currents, threshold = (jnp.asarray(each, jnp.float32) for each in inputs)
        theta = align(threshold, currents.shape[1:], "threshold")
        lowest = -theta if operation.activation.kind == "encoder" else jnp.zeros_like(theta)
        smooth = jnp.clip(currents.mean(0), lowest, theta)
        emitted = smooth + jax.lax.stop_gradient(spikes.astype(jnp.float32).mean(0) - smooth)
        wanted = jax.lax.stop_gradient(jnp.asarray(self.wanted[operation.activation.name]))
        self.losses.append(((emitted - wanted.astype(jnp.float32)) ** 2).mean())
        return inputs, (spikes, after)
