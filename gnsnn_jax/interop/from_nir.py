"""NIR graphs as functions of JAX, a time-step after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError, listed, shown
from gnsnn_jax.interop.nir_graph import Flat, flattened, nir_package, read_graph
from gnsnn_jax.xla.convolution import conv_general_dilated

DEFAULT_DT = 1e-4  # seconds, what SpikingJelly and snnTorch export with

Reset = Literal["subtract", "value"] | None
Variables = Mapping[str, Mapping[str, Array]]


def from_nir(path: Any, *, dt: float | None = None, reset: Reset = None) -> NirFunction:
    """Reads a NIR graph as a function of currents over time.

        run = gs.from_nir("network.nir")
        outputs = run(currents)                          # [T, B, ...] -> [T, B, ...]

    Shapes are those of NIR, without batch and with channels first. Nodes with time constants take Euler steps of
    `dt`; an edge that closes a cycle delivers one step later; edges into one node add up. A neuron fires where its
    potential exceeds the threshold, and then takes the value of its reset, as NIR says; graphs of `to_nir` say in
    their metadata that it fires at the threshold too, that the threshold is subtracted and where the potential
    starts, in thresholds. The derivative of a spike is that of an arctangent.

    Args:
        path: a file, or a `nir.NIRGraph`.
        dt: length of a step in the unit of the time constants; by default that of the metadata, else 1 where there
            are neurons without time constant alone, IF and I with r = 1, and 1e-4 seconds otherwise.
        reset: "subtract" or "value", for all spiking neurons; by default what the metadata says, else "value".

    Returns:
        A function of currents, an array [T, B, ...] or a dictionary of them by the names of the inputs, which works
        under `jit`, `grad` and `vmap`. Its attribute `variables` holds the arrays of the nodes by name, and it takes
        others in their place: run(currents, variables).

    Raises:
        InputError: where there is no such file, where it is damaged, for nodes that are not known, all at once, and
            for arrays of shapes that do not go together.
    """
    nir = nir_package()
    if reset not in ("subtract", "value", None):
        raise InputError(f'reset must be "subtract", "value" or None, got {shown(reset)}')
    if dt is not None and not (isinstance(dt, int | float) and math.isfinite(dt) and dt > 0):
        raise InputError(f"dt must be a positive number, got {shown(dt)}")
    graph = path if isinstance(path, nir.NIRGraph) else read_graph(path)
    flat = flattened(graph)
    unknown = [f"{name} ({type(node).__name__})" for name, node in flat.nodes.items() if _kind(node) not in KINDS]
    if unknown:
        raise InputError(f"the NIR graph has nodes that are not known here: {listed(unknown)}")
    metadata = graph.metadata if isinstance(graph.metadata, dict) else {}
    reading = Reading(
        dt or _number(metadata, "dt") or _default_dt(flat),
        (reset or metadata.get("reset")) in ("subtract", b"subtract"),
        bool(_number(metadata, "fires_at_threshold")),
        _number(metadata, "v_init"),
    )
    return NirFunction(graph, flat, reading)


def _number(metadata: Mapping[str, Any], name: str) -> float:
    """A number of the metadata, 0 where there is none."""
    value = np.asarray(metadata.get(name, 0))
    return float(value) if value.ndim == 0 and value.dtype.kind in "fiub" and np.isfinite(value) else 0.0


def _default_dt(flat: Flat) -> float:
    """1 where all neurons are IF and I that count steps."""
    timed = [node for node in flat.nodes.values() if _kind(node) in TIMED]
    counts = all(_kind(node) in ("IF", "I") and np.all(np.asarray(node.r) == 1) for node in timed)
    return 1.0 if timed and counts else DEFAULT_DT


def _kind(node: Any) -> str:
    return type(node).__name__


@dataclass(frozen=True)
class Reading:
    """What a simulator adds to a graph.

    Args:
        dt: length of a step.
        subtracts: whether the threshold is subtracted after a spike, else the potential takes the value of the reset.
        fires_at_threshold: whether a potential equal to the threshold fires.
        v_init: initial potential of neurons that spike, in thresholds.
    """

    dt: float
    subtracts: bool = False
    fires_at_threshold: bool = False
    v_init: float = 0.0


@dataclass(frozen=True, eq=False)
class NirFunction:
    """What `from_nir` returns: a function of currents [T, B, ...], with the graph and the arrays of its nodes."""

    graph: Any
    flat: Flat
    reading: Reading
    variables: dict[str, dict[str, Array]] = field(init=False)

    def __post_init__(self) -> None:
        arrays = {name: _arrays(name, node) for name, node in self.flat.nodes.items()}
        object.__setattr__(self, "variables", {name: found for name, found in arrays.items() if found})

    def __call__(self, currents: Any, variables: Variables | None = None) -> Any:
        """The outputs [T, B, ...] for currents [T, B, ...]; of several inputs or outputs a dictionary by name."""
        outputs, _ = self.run(currents, variables)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def run(
        self,
        currents: Any,
        variables: Variables | None = None,
        given: Mapping[str, Array] | None = None,
        seen: Sequence[str] = (),
    ) -> tuple[dict[str, Array], dict[str, tuple[Array, Array]]]:
        """The same, with the outputs of some nodes given, and what others read and make.

        Args:
            currents: [T, B, ...], or a dictionary of them.
            variables: in place of the arrays of the graph.
            given: by node, outputs [T, B, ...] that take the place of its own.
            seen: names of nodes.

        Returns:
            The outputs by name, and of each node in `seen` its inputs and its own outputs, all [T, B, ...].
        """
        trains = self._trains(currents)
        variables = {**self.variables, **(variables or {})}
        try:
            return self._scanned(trains, variables, dict(given or {}), tuple(seen))
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the arrays of the NIR graph do not go together: {str(error).splitlines()[0]}") from error

    def _scanned(self, trains, variables, given, seen):
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (trains, given))
        empty: dict[str, Any] = {}
        started, back, _ = jax.eval_shape(lambda now: self._step(variables, empty, empty, *now, seen)[:3], first)
        zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
        states = {name: self._start(name, variables, like) for name, like in started.items()}

        def step(carry, now):
            states, back, outputs, looked = self._step(variables, *carry, *now, seen)
            return (states, back), (outputs, looked)

        _, found = jax.lax.scan(step, (states, zeros(back)), (trains, given))
        return found

    def _trains(self, currents: Any) -> dict[str, Array]:
        """The currents by input, checked against its shape."""
        inputs = [name for name in self.flat.of_type("Input") if "/" not in name or name in self.graph.nodes]
        if not isinstance(currents, Mapping):
            if len(inputs) != 1:
                raise InputError(f"the NIR graph has the inputs {listed(inputs)}; give a dictionary of currents")
            currents = {inputs[0]: currents}
        if set(currents) != set(inputs):
            raise InputError(f"currents has the names {listed(currents)}, but the inputs are {listed(inputs)}")
        return {name: self._train(name, x) for name, x in currents.items()}

    def _train(self, name: str, x: Any) -> Array:
        x = jnp.asarray(x)
        shape = tuple(int(size) for size in np.ravel(self.flat.nodes[name].input_type["input"]))
        if x.shape[2:] != shape or x.ndim < 2:
            raise InputError(f"the input {name!r} takes currents [T, B, {_sizes(shape)}], got shape {x.shape}")
        return x.astype(jnp.float32)

    def _start(self, name: str, variables: Variables, like: Any) -> Any:
        """The state of a node before the first step, of the type of a later one."""
        node = self.flat.nodes[name]
        start = lambda x: jnp.zeros(x.shape, x.dtype)
        state = jax.tree.map(start, like)
        if _kind(node) in SPIKING:
            state["v"] += self.reading.v_init * _at(variables[name]["v_threshold"], state["v"])
        if "v_leak" in variables.get(name, {}):
            state["v"] += _at(variables[name]["v_leak"], state["v"])
        return state

    def _step(self, variables, states, back, trains, given, seen):
        """One step: the states and the values of delayed edges after it, the outputs, and what was looked at.

        States and delayed values that are not there are taken for 0.
        """
        values: dict[str, Array] = {}
        after: dict[str, Any] = {}
        looked: dict[str, tuple[Array, Array]] = {}
        for name, node in self.flat.nodes.items():
            arrived = [values[source] for source, target in self.flat.edges if target == name]
            delayed = [source for source, target in self.flat.delayed if target == name]
            arrived += [back[source] for source in delayed if source in back]
            arrived += [trains[name]] if name in trains else []
            x = sum(arrived[1:], arrived[0])
            state, y = KINDS[_kind(node)](node, variables.get(name, {}), states.get(name), x, self.reading)
            if state is not None:
                after[name] = state
            if name in seen:
                looked[name] = (x, y)
            values[name] = given.get(name, y)
        kept = {source: values[source] for source, _ in self.flat.delayed}
        outputs = [name for name in self.flat.of_type("Output") if "/" not in name or name in self.graph.nodes]
        return after, kept, {name: values[name] for name in outputs}, looked


def _sizes(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _arrays(name: str, node: Any) -> dict[str, Array]:
    """The floating-point arrays of a node."""
    wanted = TRAINED.get(_kind(node), ())
    found = {key: np.asarray(getattr(node, key)) for key in wanted if getattr(node, key, None) is not None}
    wrong = [key for key, value in found.items() if value.dtype.kind not in "fiub"]
    if wrong:
        raise InputError(f"the node {name!r} of the NIR graph has no numbers for {listed(wrong)}")
    return {key: jnp.asarray(np.asarray(value, np.float32)) for key, value in found.items()}


# Spikes.


@jax.custom_jvp
def _fires(above: Array, at_zero: Array) -> Array:
    return jnp.where(above > 0, 1.0, jnp.where(above < 0, 0.0, at_zero)).astype(above.dtype)


@_fires.defjvp
def _gradient_of_fires(primals, tangents):
    above, at_zero = primals
    return _fires(above, at_zero), tangents[0] / (1 + jnp.square(jnp.pi * above))


def _at(array: Array, x: Array) -> Array:
    """An array of a node as it broadcasts to values with a batch axis."""
    return array.reshape(*(1,) * (x.ndim - array.ndim), *array.shape)


def _spikes(v: Array, threshold: Array, at_threshold: bool) -> Array:
    """1 where v > threshold, and where they are equal if `at_threshold`."""
    return _fires(v - _at(threshold, v), jnp.asarray(float(at_threshold), v.dtype))


def _reset(arrays, v: Array, reading: Reading) -> tuple[Array, Array]:
    """The potential after the spikes, and the spikes."""
    z = _spikes(v, arrays["v_threshold"], reading.fires_at_threshold)
    if reading.subtracts:
        return v - z * _at(arrays["v_threshold"], v), z
    return v + z * (_at(arrays["v_reset"], v) - v), z


# What nodes do: (node, arrays, state, x, reading) -> (state after, y). A state that is not there is 0.


def _linear(node, arrays, state, x, reading):
    y = jnp.einsum("...oi,b...i->b...o", arrays["weight"], x)
    return None, y + _at(arrays["bias"], x) if "bias" in arrays else y


def _scale(node, arrays, state, x, reading):
    return None, x * _at(arrays["scale"], x)


def _convolution(node, arrays, state, x, reading):
    weight = arrays["weight"]
    rank = weight.ndim - 2
    numbers = ("NCHW", "OIHW", "NCHW") if rank == 2 else ("NCH", "OIH", "NCH")
    dilation = _per_axis(node.dilation, rank)
    padding = _padding(node.padding, weight.shape[2:], dilation)
    y = conv_general_dilated(
        x, weight, _per_axis(node.stride, rank), padding, rhs_dilation=dilation, dimension_numbers=numbers,
        feature_group_count=int(node.groups),
    )  # fmt: skip
    return None, y + arrays["bias"].reshape(1, -1, *(1,) * rank)


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(int(each) for each in np.broadcast_to(np.asarray(value), (rank,)))


def _padding(padding: Any, taps: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Before and after each axis; "same" puts the odd one after, as PyTorch does."""
    padding = padding.decode() if isinstance(padding, bytes) else padding
    if isinstance(padding, str) and padding == "same":
        total = [(tap - 1) * step for tap, step in zip(taps, dilation, strict=True)]
        return [(each // 2, each - each // 2) for each in total]
    sizes = _per_axis(0 if isinstance(padding, str) else padding, len(taps))
    return [(size, size) for size in sizes]


def _sum_pool(node, arrays, state, x, reading):
    padding = [(0, 0), (0, 0), *((size, size) for size in _per_axis(node.padding, 2))]
    window, stride = (1, 1, *_per_axis(node.kernel_size, 2)), (1, 1, *_per_axis(node.stride, 2))
    return None, jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, window, stride, padding)


def _mean_pool(node, arrays, state, x, reading):
    _, total = _sum_pool(node, arrays, state, x, reading)
    return None, total / math.prod(_per_axis(node.kernel_size, 2))


def _flatten(node, arrays, state, x, reading):
    """Its axes do not count the batch."""
    rank = x.ndim - 1
    first, last = (int(at) % rank for at in (node.start_dim, node.end_dim)) if rank else (0, -1)
    return None, x.reshape(*x.shape[: first + 1], -1, *x.shape[last + 2 :])


def _delay(node, arrays, state, x, reading):
    steps = np.round(np.asarray(node.delay, np.float64) / reading.dt).astype(np.int32)
    longest = int(steps.max(initial=0))
    if steps.min(initial=0) < 0 or longest > 10**4:
        raise InputError(f"a delay of the NIR graph is {longest} steps of {reading.dt}; give from_nir its dt")
    past = jnp.zeros((longest, *x.shape), x.dtype) if state is None else state["past"]
    past = jnp.concatenate([x[None], past])  # past[k] is x k steps ago
    which = jnp.broadcast_to(jnp.asarray(steps), x.shape)
    return {"past": past[:longest]}, jnp.take_along_axis(past, which[None], 0)[0]


def _potential(state, x):
    return jnp.zeros_like(x) if state is None else state["v"]


def _integrator(node, arrays, state, x, reading):
    v = _potential(state, x) + reading.dt * _at(arrays["r"], x) * x
    return {"v": v}, v


def _if(node, arrays, state, x, reading):
    v, z = _reset(arrays, _integrator(node, arrays, state, x, reading)[1], reading)
    return {"v": v}, z


def _leaky(node, arrays, state, x, reading, tau="tau"):
    v = _potential(state, x)
    v += reading.dt / _at(arrays[tau], v) * (_at(arrays["v_leak"], v) - v + _at(arrays["r"], v) * x)
    return {"v": v}, v


def _lif(node, arrays, state, x, reading):
    v, z = _reset(arrays, _leaky(node, arrays, state, x, reading)[1], reading)
    return {"v": v}, z


def _cuba_li(node, arrays, state, x, reading):
    current = jnp.zeros_like(x) if state is None else state["current"]
    current += reading.dt / _at(arrays["tau_syn"], x) * (_at(arrays["w_in"], x) * x - current)
    _, v = _leaky(node, arrays, state, current, reading, "tau_mem")
    return {"v": v, "current": current}, v


def _cuba_lif(node, arrays, state, x, reading):
    state, charged = _cuba_li(node, arrays, state, x, reading)
    v, z = _reset(arrays, charged, reading)
    return {**state, "v": v}, z


def _threshold(node, arrays, state, x, reading):
    return None, _spikes(x, arrays["threshold"], False)


def _identity(node, arrays, state, x, reading):
    return None, x


KINDS: Mapping[str, Callable] = {
    "Input": _identity, "Output": _identity, "Linear": _linear, "Affine": _linear, "Scale": _scale,
    "Conv1d": _convolution, "Conv2d": _convolution, "SumPool2d": _sum_pool, "AvgPool2d": _mean_pool,
    "Flatten": _flatten, "Delay": _delay, "Threshold": _threshold, "I": _integrator, "IF": _if, "LI": _leaky,
    "LIF": _lif, "CubaLI": _cuba_li, "CubaLIF": _cuba_lif,
}  # fmt: skip
SPIKING = ("IF", "LIF", "CubaLIF")
TIMED = ("I", "LI", "CubaLI", "Delay", *SPIKING)
_SPIKES = ("v_threshold", "v_reset")
TRAINED: Mapping[str, tuple[str, ...]] = {
    "Linear": ("weight",), "Affine": ("weight", "bias"), "Scale": ("scale",), "Conv1d": ("weight", "bias"),
    "Conv2d": ("weight", "bias"), "Threshold": ("threshold",), "I": ("r",), "IF": ("r", *_SPIKES),
    "LI": ("tau", "r", "v_leak"), "LIF": ("tau", "r", "v_leak", *_SPIKES),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "w_in", *_SPIKES),
}  # fmt: skip
