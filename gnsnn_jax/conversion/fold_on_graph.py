"""Norms of a traced network folded into the layers before them, whatever framework the network is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.norm_chains import Chain, Factor, chains_of, first_along, operand_for, undone
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.engine.arrays import is_array
from gnsnn_jax.engine.graph import Entering, Network, Operation, Slot, entered, evaluate
from gnsnn_jax.engine.jaxprs import bind, type_of
from gnsnn_jax.engine.tracing import arrays_of, trace
from gnsnn_jax.errors import InputError

MOST_ROUNDING = 256  # units in the last place that sums of a layer may differ by, in its largest sum of magnitudes
SAME = 1e-5  # relative difference between the shifts of entries that one entry of a bias makes
LARGEST_BIAS = 2**24  # entries that float32 can number

Values = dict[Slot, Any]


def fold_on_graph(apply: Callable, variables: Any, example: tuple, kwargs: Mapping[str, Any]) -> Any:
    """`variables` with each norm of the network that follows a layer folded into it, as `fold_batch_norm` says."""
    args = (variables, *example)
    arrays, count = arrays_of(args, kwargs), len(arrays_of((variables,), {}))
    _check_known(arrays)
    network = entered(trace(apply, args, kwargs)[0], Entering(calls=lambda eqn: True))
    values = dict(zip(network.inputs, arrays, strict=True))
    given = network.inputs[:count]
    leaves = {slot for slot in given if jnp.issubdtype(values[slot].dtype, jnp.floating)}
    chains = chains_of(network, leaves, set(network.inputs[count:]))
    changed = [_folded(network, chain, {slot: values[slot] for slot in given}) for chain in chains]
    _check(network, values, [pair for pair in zip(chains, changed, strict=True) if pair[1]])
    for each in changed:
        values.update(each)
    return _with_arrays(variables, [values[slot] for slot in given], arrays)


def _check_known(arrays: Sequence[Any]) -> None:
    unknown = [x for x in arrays if isinstance(x, (jax.core.Tracer, jax.ShapeDtypeStruct))]
    if unknown:
        raise InputError(
            f"fold_batch_norm(apply, variables, *example) needs the values of all arrays, got {unknown[0]}; give "
            "arrays, and call it outside of jax.jit"
        )
    if any(0 in x.shape for x in arrays):
        raise InputError("fold_batch_norm got an empty array; give an example of one sample at least")


def _with_arrays(variables: Any, arrays: Sequence[Any], before: Sequence[Any]) -> Any:
    """The tree with these arrays in place of those it had; what did not change stays the same object."""
    pairs = iter(zip(arrays, before, strict=False))
    leaves, structure = jax.tree.flatten(variables)
    new = lambda leaf, pair: leaf if pair[0] is pair[1] else pair[0]
    return jax.tree.unflatten(structure, [new(leaf, next(pairs)) if is_array(leaf) else leaf for leaf in leaves])


# The new values of one chain, computed in float32 or wider whatever types the network has.


def _folded(network: Network, chain: Chain, given: Values) -> Values:
    """The leaves that change: those of the norm, the weights, and the bias that takes the shift.

    The steps behind the outputs y of the layer are affine, z = g y + b. With the norm at the identity, they are
    z = g' y + b'. So the weights take g / g', and some bias the difference of b and b'. Empty where neither the
    weights nor a bias can take it.
    """
    steps = _Steps(network, chain, given)
    before = {slot: _widened(values) for slot, values in given.items()}
    after = before | {factor.leaf: steps.leaf_at_one(factor, before) for factor in chain.factors}
    after |= {leaf: jnp.zeros_like(before[leaf]) for leaf, _ in chain.shifts}
    gain, shift = steps.affine(before)
    _check_finite(chain, gain)
    weights = _scaled(chain, before[chain.leaf], _ratio(gain, steps.affine(after)[0]))
    after = steps.with_shift(after, shift) if weights is not None else None
    if after is None:
        return {}
    touched = {factor.leaf for factor in chain.factors} | {leaf for leaf, _ in chain.shifts}
    changed = {slot: after[slot] for slot in touched} | {chain.leaf: weights}
    return {slot: value.astype(given[slot].dtype) for slot, value in changed.items()}


def _check_finite(chain: Chain, gain: Array) -> None:
    if not np.isfinite(gain).all():
        raise InputError(
            f"what the norm behind the layer at {_place(chain)} scales by is not finite, as of a variance below 0 or "
            "NaN; train it again or give other variables"
        )


def _ratio(one: Array, other: Array) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(one) / np.asarray(other)


def _widened(x: Any) -> Any:
    return jnp.asarray(x, at_least_single(jnp.result_type(x))) if _is_floating(x) else x


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


class _Steps:
    """The steps of a chain as a function of the leaves and of the outputs of the layer."""

    def __init__(self, network: Network, chain: Chain, given: Values):
        self.chain, (self.outputs,) = chain, chain.operation.outputs
        operations = [_wide(each) for each in network.operations if each is not chain.operation]
        constants = {slot: _widened(value) for slot, value in network.constants.items()}
        self.network = replace(network, inputs=(*given, self.outputs), constants=constants, operations=operations)
        self.makers = {slot: each for each in operations for slot in each.outputs}

    def __call__(self, leaves: Values, outputs: Any) -> Array:
        inputs = [*leaves.values(), outputs]
        return evaluate(self.network, inputs, [self.chain.end])[0]

    def _no_outputs(self) -> Array:
        aval = type_of(self.chain.operation.eqn.outvars[0])
        return jnp.zeros(aval.shape, at_least_single(aval.dtype))

    def affine(self, leaves: Values) -> tuple[Array, Array]:
        """The gain of each output of the layer, and the shift of each value at the end."""
        shift, gains = jax.vjp(lambda outputs: self(leaves, outputs), self._no_outputs())
        return gains(jnp.ones_like(shift))[0], shift

    def leaf_at_one(self, factor: Factor, leaves: Values) -> Array:
        """The value of a leaf that makes a factor 1."""
        slot, made = factor.slot, None
        while slot != factor.leaf:
            maker = self.makers[slot]
            made = np.ones(maker.shape, leaves[factor.leaf].dtype) if made is None else made
            known = [np.asarray(self._known(each, leaves)) for each in maker.inputs]
            at = next(at for at, each in enumerate(maker.inputs) if self._leads_to(each, factor.leaf))
            slot, made = maker.inputs[at], operand_for(made, maker, known, at)
        return jnp.ones_like(leaves[slot]) if made is None else jnp.asarray(made)

    def _known(self, slot: Slot, leaves: Values) -> Array:
        return evaluate(self.network, [*leaves.values(), self._no_outputs()], [slot])[0]

    def _leads_to(self, slot: Slot, leaf: Slot) -> bool:
        maker = self.makers.get(slot)
        return slot == leaf or (maker is not None and any(self._leads_to(each, leaf) for each in maker.inputs))

    def with_shift(self, leaves: Values, wanted: Array) -> Values | None:
        """The leaves with one that gives the wanted shift; None where none of them can.

        The first choice is the bias of the layer, then that of the last norm, then a mean.
        """
        remaining = wanted - self(leaves, self._no_outputs())
        if not remaining.any():
            return leaves
        found = (self._shifting(leaf, leaves, remaining) for leaf in self._biases(leaves))
        return next((leaves | each for each in found if each), None)

    def _biases(self, leaves: Values) -> list[Slot]:
        def order(pair: tuple[Slot, int]) -> tuple:
            leaf, at = pair
            is_subtracted = bool((self._added(leaf, leaves, jnp.ones_like(leaves[leaf])) < 0).any())
            return is_subtracted, at > self.chain.first_scale, -at

        return [leaf for leaf, _ in sorted(self.chain.shifts, key=order)]

    def _added(self, leaf: Slot, leaves: Values, values: Array) -> Array:
        """What these values of a leaf add at the end of the chain."""
        end = lambda x: self(leaves | {leaf: x}, self._no_outputs())
        return jax.jvp(end, (leaves[leaf],), (values,))[1]

    def _shifting(self, leaf: Slot, leaves: Values, wanted: Array) -> Values:
        """A leaf that adds these numbers at the end of the chain: each of its entries adds some multiple of itself
        to some of them. Empty where these want different entries."""
        numbers = jnp.arange(leaves[leaf].size, dtype=leaves[leaf].dtype).reshape(leaves[leaf].shape)
        multiple = self._added(leaf, leaves, jnp.ones_like(numbers))
        of = np.rint(_ratio(self._added(leaf, leaves, numbers), multiple))
        entries, first = np.unique(of, return_index=True)
        if numbers.size >= LARGEST_BIAS or not np.array_equal(entries, np.arange(numbers.size)):
            return {}
        found = jnp.asarray(_ratio(wanted, multiple).reshape(-1)[first].reshape(numbers.shape))
        is_right = np.allclose(self._added(leaf, leaves, found), wanted, rtol=SAME, atol=0)
        return {leaf: found} if is_right else {}


def _wide(operation: Operation) -> Operation:
    """The operation without what makes floats narrower than float32."""
    eqn, made = operation.eqn, type_of(operation.eqn.outvars[0]) if operation.eqn.outvars else None
    if eqn.primitive is not lax.convert_element_type_p or not jnp.issubdtype(made.dtype, jnp.floating):
        return operation
    return operation._replace(eqn=eqn.replace(params=eqn.params | {"new_dtype": at_least_single(made.dtype)}))


def _scaled(chain: Chain, weights: Array, gain: np.ndarray) -> Array | None:
    """Weights with the gain of each output of their layer; None where outputs of one weight differ in it."""
    axes = _axes_of_weights(chain)
    others = [axis for axis in range(gain.ndim) if axis not in axes]
    alone = first_along(gain, others)
    if not np.allclose(gain, alone, rtol=SAME, atol=0):
        return None
    factor = _along(axes, alone, type_of(chain.operation.eqn.invars[chain.position]).shape)
    for move in chain.moves:
        factor = undone(move, factor)
    return weights * factor.astype(weights.dtype)


def _along(axes: Mapping[int, int], x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`x` repeated to a shape, given which of its axes are which of the shape; all others have length 1."""
    kept = sorted(axes, key=axes.__getitem__)
    in_order = x.transpose([*kept, *(axis for axis in range(x.ndim) if axis not in axes)])
    sizes = [shape[axis] if axis in axes.values() else 1 for axis in range(len(shape))]
    return np.broadcast_to(in_order.reshape(sizes), shape)


def _axes_of_weights(chain: Chain) -> dict[int, int]:
    """Axes of the outputs of a layer that are axes of its weights, which stand beside each."""
    params = chain.operation.eqn.params
    if "window_strides" in params:
        _, kernel, outputs = params["dimension_numbers"]
        return {outputs[1]: kernel[0]}
    contracted, batch = params["dimension_numbers"]
    free = [
        [axis for axis in range(type_of(operand).ndim) if axis not in (*contracted[at], *batch[at])]
        for at, operand in enumerate(chain.operation.eqn.invars)
    ]
    first = len(batch[0]) + (len(free[0]) if chain.position == 1 else 0)
    return dict(enumerate(batch[chain.position])) | {first + at: axis for at, axis in enumerate(free[chain.position])}


# What was folded gives what was there before.


def _check(network: Network, values: Values, pairs: Sequence[tuple[Chain, Values]]) -> None:
    """Compares each folded layer and norm with what they were, on the data that reach them in the example.

    Raises InputError where they differ by more than rounding.
    """
    inputs = evaluate(network, [values[slot] for slot in network.inputs], [chain.data for chain, _ in pairs])
    for (chain, changed), data in zip(pairs, inputs, strict=True):
        _check_chain(network, chain, values, changed, data)


def _check_chain(network: Network, chain: Chain, values: Values, changed: Values, data: Any) -> None:
    compute = _Alone(network, chain, values, data)
    before, after = compute({}), compute(changed)
    contributions = [before, after, compute.sum_of_magnitudes(changed)]
    contributions += [before - compute({leaf: jnp.zeros_like(values[leaf])}) for leaf, _ in chain.shifts]
    types = [before.dtype, compute.dtype, *(values[slot].dtype for slot in changed)]
    bound = max(map(_largest, contributions)) * MOST_ROUNDING * max(float(jnp.finfo(each).eps) for each in types)
    if not _largest(after - before) <= bound:
        raise InputError(
            f"folding the norm behind the layer at {_place(chain)} changes values by {_largest(after - before):.2g}, "
            "more than rounding; convert the network without folding it"
        )


def _largest(x: Array) -> float:
    return float(jnp.abs(x.astype(jnp.float32)).max(initial=0))


def _place(chain: Chain) -> str:
    return chain.operation.origin.inside(chain.operation.eqn).place or "a line that is not known"


class _Alone:
    """A layer and the steps behind it, on given data and in full precision; a device rounds products by default."""

    def __init__(self, network: Network, chain: Chain, values: Values, data: Any):
        eqn = chain.operation.eqn
        self.chain, self.values, self.data, self.dtype = chain, values, data, type_of(eqn.outvars[0]).dtype
        exact = eqn.replace(params=eqn.params | {"precision": (lax.Precision.HIGHEST,) * 2})
        self.layer = chain.operation._replace(eqn=exact)
        operations = [self.layer if each is chain.operation else each for each in network.operations]
        operations = [each for each in operations if chain.data not in each.outputs]
        self.others = [slot for slot in network.inputs if slot != chain.data]
        self.network = replace(network, inputs=(*self.others, chain.data), operations=operations)

    def _evaluate(self, changed: Values, *wanted: Slot) -> list[Any]:
        values = self.values | changed
        return evaluate(self.network, [*(values[slot] for slot in self.others), self.data], wanted)

    def __call__(self, changed: Values) -> Array:
        return self._evaluate(changed, self.chain.end)[0]

    def sum_of_magnitudes(self, changed: Values) -> Array:
        """What the layer would add up if no terms cancelled."""
        return bind(self.layer.eqn, *map(jnp.abs, self._evaluate(changed, *self.layer.inputs)))[0]
