"""Converted networks as NIR graphs, for other simulators and for neuromorphic hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.graph import Operation
from gnsnn_jax.engine.jaxprs import CONVOLUTIONS, type_of
from gnsnn_jax.engine.parameters import are_parameters
from gnsnn_jax.engine.simulation import Observer, Simulation
from gnsnn_jax.engine.split import How
from gnsnn_jax.engine.tracing import arrays_of, parted
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.interop.from_nir import NirFunction, from_nir
from gnsnn_jax.interop.nir_graph import nir_package, write_graph
from gnsnn_jax.interop.nir_lowering import Building, Lowering, NotExpressible, as_label
from gnsnn_jax.interop.nir_signals import Node, Shape, Signal, Term, whole
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.neurons import GroupNeuron

TOLERANCE = 1e-4  # of the largest current or output, what sums in another order may differ by

Form = Literal["portable", "exact"]
Initial = Literal["bias", "none"]


def to_nir(
    snn: Any,
    *args: Any,
    path: str | Path | None = None,
    form: Form = "portable",
    initial: Initial = "bias",
    overwrite: bool = False,
) -> Any:
    """The converted network as a NIR graph, compared with its simulation before it is returned or written.

        graph = gs.to_nir(snn, variables, images, path="network.nir")

    The input of the graph is the image of each time-step, channels first and without batch, and the first layer a
    part of it; its output is that of one step, to be summed over time. A dense layer behind a map is a convolution
    with a kernel of the whole map, as simulators flatten maps in different ways: what it sends is [N, 1, 1].

    form="portable" has IF neurons of threshold 1 and r = 1 (the thresholds are in the weights), Conv2d with square
    kernels and one group, SumPool2d, Affine and Linear: what SpikingJelly reads, and of chains of layers Sinabs, Norse
    and Spyx too. NIR cannot say that neurons subtract their threshold, nor that they start from half of it, so how
    close a simulator comes is up to its neurons; the metadata say both, and `from_nir` follows them. initial="bias"
    makes up for the start: theta / (2 steps) is added to the current of each step, which in `steps` steps amounts to
    the same.

    form="exact" is the same network in any simulator that follows NIR to the letter, in IF and group neurons alike:
    an integrator I with thresholds k theta/m, whose spikes are scaled by theta/m and come back negative a step later.

        v(t+1) = v(t) + x(t+1) - y(t),   y = theta/m sum_k [v >= k theta/m]

    Args:
        snn: what `to_spiking` returned, or `jax.jit` of it; its neurons are IF, in the exact form also group neurons.
        args: those of `snn`; one array of data with the batch in front. They are what the graph is compared on.
        path: where to write it, by `nir.write`.
        form: "portable" or "exact".
        initial: "bias" or "none", in the portable form.
        overwrite: whether a file that is there is replaced.

    Returns:
        A `nir.NIRGraph`. Node names start with numbers in the order of evaluation.

    Raises:
        InputError: for calibrations, whose potentials depend on the sample, for other neurons, and for all operations
            that NIR cannot express, at once, each with its file and line: those on means and max-pooling, products
            of spikes, and linear ones without a node that would be a matrix of more than 2**22 weights; and where the
            graph does not compute what the simulation does, and for a file that is there.
        MissingPackage: where the extra "nir" is not installed.
    """
    if form not in ("portable", "exact"):
        raise InputError(f'form must be "portable" or "exact", got {shown(form)}')
    if initial not in ("bias", "none"):
        raise InputError(f'initial must be "bias" or "none", got {shown(initial)}')
    nir_package()
    spiking = converted_function(snn)
    _check_settings(spiking, args)
    walk = _Walk(spiking, args, form, initial == "bias" and form == "portable")
    graph = walk.graph()
    _check(from_nir(graph), walk, args)
    if path is not None:
        write_graph(path, graph, overwrite)
    return graph


def _check_settings(spiking: SpikingFunction, args: tuple) -> None:
    if spiking.coding != "rate":
        raise InputError('NIR biases come at each step; convert without coding="once"')
    if spiking.corrections:
        raise InputError(
            "NIR neurons have no bias by time-step and no start potential of their own, as corrections give them; "
            "convert without corrections"
        )
    if spiking.calibration:
        raise InputError(
            "NIR has no initial potentials that depend on the sample, as the calibration finds them; convert without it"
        )
    if spiking.product_dtype is not None:
        raise InputError("a NIR graph has weights in float32; convert without product_dtype")
    if any(isinstance(array, jax.core.Tracer) for array in arrays_of(args, {})):
        raise InputError("to_nir needs weights with known values; call it outside of jit, grad and vmap")


class Placed(NamedTuple):
    """A population in the graph.

    name       of its site
    order      of its neurons there
    shape      of its neurons there
    unit       by which its currents are divided there, in that shape
    charge     added to the current of each step there
    current    the node that its currents arrive at
    spikes     the node that sends its spikes, divided by the unit
    """

    name: str
    order: np.ndarray
    shape: Shape
    unit: np.ndarray
    charge: float
    current: Node
    spikes: Node

    def arranged(self, train: Any) -> np.ndarray:
        """A train [T, B, ...] of the simulation in the order of the graph."""
        train = np.asarray(train, np.float32)
        return train.reshape(*train.shape[:2], -1)[..., self.order].reshape(*train.shape[:2], *self.shape)


@dataclass
class _Walk:
    """Goes through the network and builds the graph."""

    spiking: SpikingFunction
    args: tuple
    form: Form
    biased: bool
    building: Building = field(default_factory=Building)
    placed: list[Placed] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.simulation, slot, shape = _one_sample(self.spiking, self.args)
        self.network = self.simulation.network
        self.lowering = Lowering(self.building, self.simulation.values)
        self.axes = _axes_of_data(self.network.dynamic, slot, len(shape))
        self.input = self.building.add("Input", tuple(shape[axis] for axis in self.axes), [], "input")
        back = np.argsort(self.axes)
        term = whole(self.input, lambda index: index.transpose(back)[None])
        self.lowering.signals[slot] = Signal((term,), np.zeros((1, *shape), np.float32))
        for operation in self.network.dynamic:
            self._take(operation)
        if self.refusals:
            raise InputError(_refused(self.refusals))
        self.output, self.output_order = self._output()

    def _take(self, operation: Operation) -> None:
        signals = self.lowering.signals
        try:
            if operation.is_activation:
                signals[operation.outputs[0]] = self._population(operation)
            elif self.network.how[operation.outputs] is not How.LINEAR:
                raise NotExpressible(_NOT_LINEAR)
            else:
                self.lowering.apply(operation)
        except NotExpressible as error:
            origin = operation.origin.inside(operation.eqn)
            name = operation.activation.name if operation.is_activation else None
            what = name or origin.function or operation.eqn.primitive.name
            self.refusals.append(f"{origin.place or 'unknown place'}: {what}: {error}")
            signals.update(zip(operation.outputs, map(self._unknown, operation.eqn.outvars), strict=True))

    def _unknown(self, var: Any) -> Signal:
        """Something in place of a value that cannot be expressed, so that what is behind it is looked at too."""
        shape = type_of(var).shape
        axes = self.axes if len(shape) == len(self.axes) + 1 else tuple(range(len(shape) - 1))
        node = Node("Input", tuple(shape[axis + 1] for axis in axes))
        term = whole(node, lambda index: index.transpose(np.argsort(axes)).reshape(shape))
        return Signal((term,), np.zeros(shape, np.float32))

    # Populations.

    def _population(self, operation: Operation) -> Signal:
        neuron = self.spiking.neuron_at(operation)
        if type(neuron) is not GroupNeuron:
            raise NotExpressible(f"NIR has no {type(neuron).__name__}; IF and group neurons can be expressed")
        if self.form == "portable" and (neuron.members > 1 or neuron.signed):
            raise NotExpressible(f'the portable form has IF neurons alone, not {neuron!r}; form="exact" has it')
        signal = self.lowering.signals[operation.inputs[0]]
        if not signal.terms:
            raise NotExpressible("its current does not depend on the data")
        threshold = jnp.asarray(self.simulation.values[operation.inputs[1]], jnp.float32)
        full = lambda x: np.asarray(jnp.broadcast_to(align(x, operation.shape, "threshold"), operation.shape))
        unit, label = full(neuron.unit(threshold)), as_label(operation.activation.name)
        if self.form == "portable":
            return self._if(operation, signal, unit, label)
        start = np.asarray(neuron.potential(neuron.init(threshold, operation.shape)), np.float32)
        return self._group(operation, signal, unit, start, label, neuron)

    def _if(self, operation: Operation, signal: Signal, unit: np.ndarray, label: str) -> Signal:
        """IF neurons of threshold 1; what they send is multiplied by their threshold in the weights behind them."""
        charge = 1 / (2 * self.spiking.steps) if self.biased else 0.0
        signal = signal.scaled(1 / unit)
        signal = Signal(signal.terms, signal.bias + np.float32(charge))
        order, shape, sources = self.building.sent(signal, f"to.{label}")
        ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        node = self.building.add("IF", shape, sources, label, r=ones, v_threshold=ones, v_reset=zeros)
        arranged = unit.reshape(-1)[order].reshape(shape)
        self.placed.append(Placed(operation.activation.name, order, shape, arranged, charge, node, node))
        return _sent(node, order, operation.shape, unit)

    def _group(self, operation, signal: Signal, unit, start, label: str, neuron: GroupNeuron) -> Signal:
        """An integrator of what arrives less what was sent, and a threshold for each number of units."""
        add = self.building.add
        order, shape, sources = self.building.sent(signal, f"to.{label}")
        size, offset = (array.reshape(-1)[order].reshape(shape) for array in (unit, start))
        charged = add("I", shape, sources, f"{label}.potential", r=np.ones(shape, np.float32))
        counted = []
        for count in range(1, neuron.members + 1):
            at = np.nextafter(np.float32(count) * size - offset, np.float32(-np.inf))  # > below it is >= there
            counted.append(add("Threshold", shape, [charged], f"{label}.at.{count}", threshold=at))
        if neuron.signed:
            turned = add("Scale", shape, [charged], f"{label}.turned", scale=-np.ones(shape, np.float32))
            below = [np.float32(count) * size + offset for count in range(neuron.members)]
            ats = [add("Threshold", shape, [turned], f"{label}.below.{-k}", threshold=at) for k, at in enumerate(below)]
            counted.append(add("Scale", shape, ats, f"{label}.negative", scale=-np.ones(shape, np.float32)))
        spikes = add("Scale", shape, counted, f"{label}.spikes", scale=size)
        back = add("Scale", shape, [spikes], f"{label}.back", scale=-np.ones(shape, np.float32))
        self.building.edges.append((back, charged))
        self.placed.append(
            Placed(operation.activation.name, order, shape, np.ones(shape, np.float32), 0.0, charged, spikes)
        )
        return _sent(spikes, order, operation.shape, np.ones(operation.shape, np.float32))

    # The graph.

    def _output(self) -> tuple[Node, np.ndarray]:
        (slot,) = self.network.outputs[:1]
        if len(self.network.outputs) != 1:
            raise InputError(f"the network has {len(self.network.outputs)} outputs, where a NIR graph takes one")
        signal = self.lowering.signals.get(slot)
        if signal is None or not signal.terms:
            raise InputError("the output of the network does not depend on the data, or not linearly on spikes")
        try:
            order, shape, sources = self.building.sent(signal, "to.output")
        except NotExpressible as error:
            raise InputError(f"the output of the network cannot be expressed in NIR: {error}") from None
        return self.building.add("Output", shape, sources, "output"), order

    def names(self) -> dict[Node, str]:
        """Of the nodes that the output depends on, numbered in the order of evaluation."""
        kept = {self.input, self.output}
        while True:
            more = kept | {source for source, target in self.building.edges if target in kept}
            if more == kept:
                break
            kept = more
        nodes = [node for node in self.building.nodes if node in kept]
        digits = max(3, len(str(len(nodes))))
        plain = {self.input: "input", self.output: "output"}
        return {node: plain.get(node, f"{at:0{digits}}_{node.label}") for at, node in enumerate(nodes)}

    def graph(self) -> Any:
        nir = nir_package()
        names = self.names()
        nodes = {name: _nir_node(nir, node) for node, name in names.items()}
        edges = [(names[a], names[b]) for a, b in self.building.edges if a in names and b in names]
        return nir.NIRGraph(nodes=nodes, edges=edges, metadata=self._metadata())

    def _metadata(self) -> dict[str, Any]:
        """What a simulator should know, for those that read it."""
        about = {"producer": "gnsnn_jax", "form": self.form, "dt": 1.0, "steps": self.spiking.steps}
        if self.form == "exact":
            return about
        start = 0.0 if self.biased else 0.5
        return {**about, "reset": "subtract", "fires_at_threshold": 1, "v_init": start}


_NOT_LINEAR = (
    "it is not linear, and NIR has nodes for neurons and linear operations alone; leave it out of the network, or use "
    "a linear one, as average pooling in place of max-pooling"
)


def _sent(node: Node, order: np.ndarray, shape: Shape, scale: np.ndarray) -> Signal:
    """What neurons send, in the order of the network."""
    back = np.argsort(order)
    term = whole(node, lambda index: index.reshape(-1)[back].reshape(shape))
    return Signal((Term(node, term.index, scale),), np.zeros(shape, np.float32))


def _nir_node(nir: Any, node: Node) -> Any:
    if node.kind in ("Input", "Output"):
        key = node.kind.lower()
        return getattr(nir, node.kind)({key: np.array(node.shape)})
    values = dict(node.values)
    if node.kind == "Flatten":
        values["input_type"] = {"input": np.array(values["input_type"])}
    return getattr(nir, node.kind)(**values)


def _refused(lines: Sequence[str]) -> str:
    unique = list(dict.fromkeys(lines))
    count = "an operation" if len(unique) == 1 else f"{len(unique)} operations"
    return f"NIR cannot express {count} of the network:\n" + "\n".join(f"  {line}" for line in unique)


# Data.


def _one_sample(spiking: SpikingFunction, args: tuple) -> tuple[Simulation, int, Shape]:
    """The network over time of one sample at one step, the slot of the data, and their shape without batch."""
    arrays, others = parted(args, {})
    data = [at for at, fixed in enumerate(are_parameters(args, {})) if not fixed]
    if len(data) != 1:
        raise InputError(f"a NIR graph takes one array of data, but {len(data)} arguments of the network are data")
    (at,) = data
    sample = _first_step(spiking, args)[at]
    if np.ndim(sample) < 2:
        raise InputError(f"to_nir wants data with a batch axis in front, got shape {np.shape(sample)}")
    arrays[at] = jnp.asarray(sample)[:1]
    one, _ = others.around(arrays)
    simulation, traced = replace(spiking, time_axes=None, reduce=None).stream(*one)
    ((slot, train),) = traced.trains.items()
    return simulation, slot, tuple(train.shape[2:])


def _first_step(spiking: SpikingFunction, args: tuple) -> list[Any]:
    """The arrays of the arguments, those with time at the first step."""
    return [array if axis is None else jnp.take(array, 0, axis) for array, axis in _with_axes(spiking, args)]


def _with_axes(spiking: SpikingFunction, args: tuple) -> list[tuple[Any, int | None]]:
    """The arrays of the arguments, each with its time axis."""
    prefix = spiking.time_axes if isinstance(spiking.time_axes, tuple) else (spiking.time_axes,) * len(args)
    is_axis = lambda node: node is None or isinstance(node, int)
    spread = lambda axis, part: [axis] * len(arrays_of((part,), {}))
    axes = jax.tree.leaves(jax.tree.map(spread, prefix, args, is_leaf=is_axis), is_leaf=is_axis)
    return list(zip(arrays_of(args, {}), axes, strict=True))


def _axes_of_data(operations: Sequence[Operation], slot: int, rank: int) -> tuple[int, ...]:
    """Which axes of a sample are channels and pixels, as the first convolution of maps reads them."""
    for operation in operations:
        if operation.eqn.primitive.name in CONVOLUTIONS and rank == 3:
            order = operation.eqn.params["dimension_numbers"][0]
            if len(order) == 4 and order[0] == 0:
                return tuple(axis - 1 for axis in order[1:])
    return tuple(range(rank))


# Comparison.


def _check(function: NirFunction, walk: _Walk, args: tuple) -> None:
    """Compares every current and the output with the simulation, given the spikes of the simulation, so that a spike
    that rounding moves does not matter behind it.

    Raises InputError where they differ.
    """
    outputs, found = _simulated(walk.spiking, args)
    names, given = walk.names(), {}
    for place in walk.placed:
        spikes = place.arranged(found[place.name][1])
        if place.spikes in names:
            given[names[place.spikes]] = jnp.asarray(spikes / place.unit)
    seen = [names[place.current] for place in walk.placed if place.current in names]
    with jax.default_matmul_precision("highest"):
        made, looked = function.run(_trains(walk, args, len(outputs)), None, given, seen)
    for place in walk.placed:
        if place.current in names:
            arrived, _ = looked[names[place.current]]
            wanted = place.arranged(found[place.name][0]) / place.unit + place.charge
            _compare(np.asarray(arrived) + _came_back(walk, place, found), wanted, f"the currents of {place.name!r}")
    flat = np.asarray(outputs, np.float32).reshape(*outputs.shape[:2], -1)[..., walk.output_order]
    _compare(np.asarray(made["output"]).reshape(flat.shape), flat, "the output")


def _came_back(walk: _Walk, place: Placed, found: Mapping[str, Any]) -> Any:
    """What an integrator lost of its current: the spikes of the step before."""
    if walk.form == "portable":
        return 0.0
    spikes = place.arranged(found[place.name][1])
    return np.concatenate([np.zeros_like(spikes[:1]), spikes[:-1]])


def _simulated(spiking: SpikingFunction, args: tuple) -> tuple[Any, dict[str, Any]]:
    """Outputs [T, B, ...], and currents and spikes of each population by name."""

    def look(memory, operation, inputs, outputs):
        seen = {operation.activation.name: (inputs[0], outputs[0])} if operation.is_activation else None
        return memory, seen

    observing = replace(spiking, observe=Observer(lambda operation: None, look), reduce=None)
    with jax.default_matmul_precision("highest"):
        outputs, seen = observing(*args)
    (outputs,) = jax.tree.leaves(outputs)
    return outputs, {name: both for each in seen for name, both in each.items()}


def _trains(walk: _Walk, args: tuple, steps: int) -> jnp.ndarray:
    """The data at each step, as the input of the graph takes it."""
    (at,) = [at for at, fixed in enumerate(are_parameters(args, {})) if not fixed]
    array, axis = _with_axes(walk.spiking, args)[at]
    array = jnp.asarray(array, jnp.float32)
    train = jnp.broadcast_to(array, (steps, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
    return train.transpose(0, 1, *(axis + 2 for axis in walk.axes))


def _compare(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    allowed = TOLERANCE * max(float(np.abs(wanted).max(initial=0)), TOLERANCE)
    difference = float(np.abs(found - wanted).max(initial=0)) if found.shape == wanted.shape else np.inf
    if not difference <= allowed:
        raise InputError(
            f"the NIR graph does not compute what the network does: {what} differ by {difference:.3g}, where "
            f"{allowed:.3g} is allowed; nothing is written. Does the network treat samples of a batch alike?"
        )
