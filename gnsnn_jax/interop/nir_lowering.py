"""The linear operations between populations as nodes of a NIR graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.engine.graph import Operation
from gnsnn_jax.engine.jaxprs import CONVOLUTIONS, bind, type_of
from gnsnn_jax.interop.nir_signals import NOTHING, Node, Shape, Signal, Term, Weights, added, whole
from gnsnn_jax.interop.nir_weights import (
    Kernel,
    channels_of,
    fitted,
    matrix_of,
    of_channels,
    undilated,
    ungrouped,
    windows,
)

LARGEST_MATRIX = 2**22  # weights of a linear operation that NIR has no node for, written out

IDENTITIES = frozenset("convert_element_type reduce_precision copy copy_p name optimization_barrier encode".split())
MOVES = frozenset(
    "reshape broadcast_in_dim squeeze expand_dims transpose rev slice split unstack tile device_put concatenate stack "
    "pad gather dynamic_slice dynamic_update_slice select_n real stop_gradient computed_once".split()
)
SUMS = ("add", "add_any", "sub")


class NotExpressible(Exception):
    """NIR has no nodes for this; the message ends a sentence that starts with the place."""


@dataclass
class Building:
    """The nodes and edges so far, each node behind those that it reads."""

    nodes: list[Node] = field(default_factory=list)
    edges: list[tuple[Node, Node]] = field(default_factory=list)
    made: dict[tuple, Any] = field(default_factory=dict)

    def add(self, kind: str, shape: Shape, inputs: Sequence[Node], label: str, **values: Any) -> Node:
        node = Node(kind, shape, values, label)
        self.nodes.append(node)
        self.edges += [(each, node) for each in dict.fromkeys(inputs)]
        return node

    def node(self, part: Node | Weights, scale: np.ndarray | None = None, bias: np.ndarray | None = None) -> Node:
        """Weights as a node, with a scale and a bias for each of its output channels."""
        if isinstance(part, Node):
            return part
        key = (id(part), *(None if each is None else each.tobytes() for each in (scale, bias)))
        if key not in self.made:
            self.made[key] = self._weighted(part, scale, bias), part  # kept, so that its id stays its own
        return self.made[key][0]

    def _weighted(self, part: Weights, scale: np.ndarray | None, bias: np.ndarray | None) -> Node:
        outputs = part.shape[0]
        scale = np.ones(outputs, np.float32) if scale is None else scale
        weight = part.weight * scale.reshape(-1, *(1,) * (part.weight.ndim - 1))
        bias = np.zeros(outputs, np.float32) if bias is None else bias
        kind = "Linear" if part.kind == "Affine" and not bias.any() else part.kind
        values = part.values if kind == "Linear" else {**part.values, "bias": bias.astype(np.float32)}
        return self.add(kind, part.shape, part.inputs, part.label, weight=weight.astype(np.float32), **values)

    # Signals as nodes.

    def settled(self, signal: Signal) -> Signal:
        """The same value made of nodes; scales become a part of their weights where they fit in."""
        return Signal(tuple(map(self._settled, signal.terms)), signal.bias)

    def _settled(self, term: Term) -> Term:
        if isinstance(term.source, Node):
            return term
        scale = term.per_channel(term.scale)
        kept = term.scale if scale is None else np.ones_like(term.scale)
        return Term(self.node(term.source, scale), term.index, kept)

    def sent(self, signal: Signal, label: str) -> tuple[np.ndarray, Shape, list[Node]]:
        """A value as what arrives at a node.

        Returns:
            The order of its elements there, the shape there, and the nodes that send it.
        """
        order, shape = _layout(signal)
        if shape:
            try:
                return order, shape, self._senders(signal.in_layout(order, shape), label)
            except NotExpressible:
                pass
        order = np.arange(signal.bias.size)
        shape = (order.size, 1, 1) if all(len(term.source.shape) == 3 for term in signal.terms) else (order.size,)
        return order, shape, self._senders(signal.in_layout(order, shape), label)

    def _senders(self, signal: Signal, label: str) -> list[Node]:
        shape = signal.shape
        parts = [self._part(term, shape, label) for term in signal.terms]
        offset = None
        if signal.bias.any():
            per_channel = signal.bias.reshape(shape[0], -1)
            if (per_channel != per_channel[:, :1]).any():
                raise NotExpressible("its bias differs from pixel to pixel")
            offset = np.ascontiguousarray(per_channel[:, 0])
            if not any(isinstance(part, Weights) for part, _ in parts):
                parts[0] = (self._identity(signal.terms[0], shape, label), None)
        nodes = []
        for part, scale in parts:
            has_bias = offset is not None and isinstance(part, Weights)
            nodes.append(self.node(part, scale, offset if has_bias else None))
            offset = None if has_bias else offset
        return nodes

    def _part(self, term: Term, shape: Shape, label: str) -> tuple[Node | Weights, np.ndarray | None]:
        """A term as a node, or as weights with the scale of their outputs."""
        in_place = term.source.shape == shape and np.array_equal(term.index.reshape(-1), np.arange(term.size))
        scale = term.per_channel(term.scale)
        if in_place and isinstance(term.source, Weights) and scale is not None:
            return term.source, scale
        if in_place and (term.scale == 1).all():
            return self.node(term.source), None
        if in_place and scale is None:
            return self.add("Scale", shape, [self.node(term.source)], label, scale=term.scale), None
        return self._identity(term, shape, label), None

    def _identity(self, term: Term, shape: Shape, label: str) -> Weights:
        """Weights that only move, scale and leave out elements of a node."""
        source = self.node(term.source)
        term = replace(term, source=source)
        found = channels_of(term)
        if found:
            weight = of_channels(np.eye(shape[0], dtype=np.float32)[:, :, None, None], found, source.shape[0])
            kernel = fitted(weight, (1, 1), found.borders, source.shape[1:], shape[1:])
            return convolved(kernel, shape, [source], label)
        if shape[1:] not in ((), (1, 1)):
            raise NotExpressible("NIR cannot order its elements so")
        check_size(int(np.prod(shape)) * term.size)
        weights = self.matrix(np.eye(int(np.prod(shape)), dtype=np.float32), term, label, flat=len(shape) == 1)
        return weights

    def matrix(self, matrix: np.ndarray, term: Term, label: str, flat: bool = False) -> Weights:
        """A matrix [N, elements of the value] applied to a term, by a convolution with a kernel of the whole map where
        its source is a map: the axes of Flatten count a batch for some simulators."""
        source = self.node(term.source)
        weight, outputs = matrix_of(matrix, term), len(matrix)
        if len(source.shape) == 3 and not flat:
            size = source.shape[1:]
            stride = (1, 1) if size[0] == size[1] else (max(size), max(size))
            kernel = fitted(weight.reshape(outputs, *source.shape), stride, ((0, 0), (0, 0)), size, (1, 1))
            return convolved(kernel, (outputs, 1, 1), [source], label)
        if len(source.shape) != 1:
            shape = (term.size,)
            source = self.add("Flatten", shape, [source], label, input_type=source.shape, start_dim=0, end_dim=-1)
        return Weights("Affine", (outputs,), (source,), weight, {}, label)


def convolved(kernel: Kernel | None, shape: Shape, sources: Sequence[Node], label: str) -> Weights:
    if kernel is None:
        raise NotExpressible("no square kernel with the same padding on both sides does the same")
    values: dict[str, Any] = {"input_shape": sources[0].shape[1:], "stride": kernel.stride, "padding": kernel.padding}
    values |= {"dilation": (1, 1), "groups": 1}
    return Weights("Conv2d", shape, tuple(sources), kernel.weight, values, label)


def check_size(size: int) -> None:
    if size > LARGEST_MATRIX:
        raise NotExpressible(f"as a matrix it would have {size} weights, more than {LARGEST_MATRIX}")


def _layout(signal: Signal) -> tuple[np.ndarray, Shape | None]:
    """Order and shape of the first term that is all of its source."""
    for term in signal.terms:
        if term.is_bijective:
            return np.argsort(term.index, None), term.source.shape
    return np.arange(signal.bias.size), None


# Operations.


@dataclass
class Lowering:
    """Follows signals through the operations of a network.

    Args:
        building: takes the nodes.
        values: by slot, of what does not depend on the data.
        signals: by slot, of what does.
    """

    building: Building
    values: Mapping[int, Any]
    signals: dict[int, Signal] = field(default_factory=dict)

    def apply(self, operation: Operation) -> None:
        """Adds the signals of the outputs of a linear operation.

        Raises NotExpressible where NIR has no nodes for it.
        """
        eqn = operation.eqn
        name = eqn.primitive.name
        positions = operation.reads(self.signals)
        lower = self._lower_by_name(name)
        biases = self._biases(operation, bool(lower))
        if lower and len(positions) == 1:
            try:
                outputs = [lower(operation, self.signals[operation.inputs[positions[0]]], biases[0])]
            except NotExpressible:
                outputs = self._by_matrices(operation, positions, biases)
        elif name in SUMS:
            outputs = [self._sum(operation, positions, biases[0])]
        elif name in IDENTITIES:
            outputs = [Signal(self.signals[operation.inputs[0]].terms, biases[0])]
        elif name in MOVES:
            outputs = self._moved(operation, positions, biases)
        else:
            outputs = self._by_matrices(operation, positions, biases)
        self.signals.update(zip(operation.outputs, outputs, strict=True))

    def _lower_by_name(self, name: str) -> Callable[[Operation, Signal, np.ndarray], Signal] | None:
        if name in CONVOLUTIONS:
            return self._convolution
        return {
            "mul": self._product, "div": self._quotient, "neg": self._negative, "dot_general": self._dot,
            "reduce_sum": self._reduced, "reduce_window_sum": self._pooled,
        }.get(name)  # fmt: skip

    def _biases(self, operation: Operation, keeps_zero: bool) -> list[np.ndarray]:
        """What the outputs are where all nodes send 0."""
        if keeps_zero and not any(
            self.signals[operation.inputs[at]].bias.any() for at in operation.reads(self.signals)
        ):
            return [np.zeros(type_of(var).shape, np.float32) for var in operation.eqn.outvars]
        return [_floats(bias) for bias in self._bound(operation, lambda position: self._bias(operation, position))]

    def _bias(self, operation: Operation, position: int) -> Any:
        slot = operation.inputs[position]
        return self.signals[slot].bias if slot in self.signals else self.values[slot]

    def _bound(self, operation: Operation, value: Callable[[int], Any]) -> list[Any]:
        return bind(operation.eqn, *(jnp.asarray(value(at)) for at in range(len(operation.inputs))))

    # Without weights.

    def _sum(self, operation: Operation, positions: Sequence[int], bias: np.ndarray) -> Signal:
        negative = operation.eqn.primitive.name == "sub"
        signs = [-1.0 if negative and position == 1 else 1.0 for position in positions]
        found = [self.signals[operation.inputs[position]] for position in positions]
        return added([each.scaled(sign) for each, sign in zip(found, signs, strict=True)], bias)

    def _product(self, operation: Operation, signal: Signal, bias: np.ndarray) -> Signal:
        other = next(slot for slot in operation.inputs if slot not in self.signals)
        return Signal(signal.scaled(np.asarray(self.values[other])).terms, bias)

    def _quotient(self, operation: Operation, signal: Signal, bias: np.ndarray) -> Signal:
        return Signal(signal.scaled(1 / _floats(self.values[operation.inputs[1]])).terms, bias)

    def _negative(self, operation: Operation, signal: Signal, bias: np.ndarray) -> Signal:
        return Signal(signal.scaled(-1.0).terms, bias)

    def _moved(self, operation: Operation, positions: Sequence[int], biases: Sequence[np.ndarray]) -> list[Signal]:
        """Of what moves values: the same move of indices and scales."""
        terms: list[list[Term]] = [[] for _ in biases]
        for position in positions:
            for term in self.signals[operation.inputs[position]].terms:
                index = self._of_one(operation, position, term.index, NOTHING)
                scale = self._of_one(operation, position, term.scale, 0)
                for found, at, factor in zip(terms, index, scale, strict=True):
                    at = np.maximum(np.asarray(at, np.int32), NOTHING)  # where a gather reads outside
                    if (at >= 0).any():
                        found.append(Term(term.source, at, _floats(factor)))
        return [Signal(tuple(found), bias) for found, bias in zip(terms, biases, strict=True)]

    def _of_one(self, operation: Operation, position: int, array: np.ndarray, nothing: int) -> list[Any]:
        """The operation applied to an array in place of one operand, with nothing in place of other data."""

        def value(at: int) -> Any:
            type_ = type_of(operation.eqn.invars[at])
            if at == position:
                return array
            is_data = jnp.issubdtype(type_.dtype, jnp.floating)
            return np.full(type_.shape, nothing, array.dtype) if is_data else self.values[operation.inputs[at]]

        return self._bound(operation, value)

    # With weights.

    def _by_matrices(
        self, operation: Operation, positions: Sequence[int], biases: Sequence[np.ndarray]
    ) -> list[Signal]:
        """Any linear operation, as the matrix of its derivatives."""
        outputs: list[list[Signal]] = [[] for _ in biases]
        for position in positions:
            signal = self.building.settled(self.signals[operation.inputs[position]])
            for at, bias in enumerate(biases):
                check_size(signal.bias.size * bias.size)
                outputs[at].append(self._applied(self._derivatives(operation, position, at), signal, bias, operation))
        return [added(found, bias) for found, bias in zip(outputs, biases, strict=True)]

    def _derivatives(self, operation: Operation, position: int, output: int) -> np.ndarray:
        """[elements of the output, elements of the operand], the other data being 0."""
        shape = type_of(operation.eqn.invars[position]).shape
        zero = lambda at: jnp.zeros(type_of(operation.eqn.invars[at]).shape, jnp.float32)
        other = lambda at: zero(at) if operation.inputs[at] in self.signals else self.values[operation.inputs[at]]
        apply = lambda x: self._bound(operation, lambda at: x if at == position else other(at))[output]
        size = int(np.prod(shape))
        columns = jax.vmap(apply)(jnp.eye(size, dtype=jnp.float32).reshape(size, *shape))
        return _floats(columns).reshape(size, -1).T

    def _applied(self, matrix: np.ndarray, signal: Signal, bias: np.ndarray, operation: Operation) -> Signal:
        """A matrix [elements of the output, elements of the value] applied to a settled value, whose own bias is a
        part of the one given."""
        arranged = lambda index: index.reshape(bias.shape)
        terms = []
        for term in signal.terms:
            parts = Term(term.source, term.index.reshape(-1), term.scale.reshape(-1))
            terms.append(whole(self.building.matrix(matrix, parts, label_of(operation)), arranged))
        return Signal(tuple(terms), bias)

    def _dot(self, operation: Operation, signal: Signal, bias: np.ndarray) -> Signal:
        (contracted, batched) = operation.eqn.params["dimension_numbers"]
        position = operation.reads(self.signals)[0]
        if any(map(len, batched)):
            raise NotExpressible("it has weights for each of several places")
        own, other = contracted[position], contracted[1 - position]
        weights = _floats(self.values[operation.inputs[1 - position]])
        free = [axis for axis in range(signal.bias.ndim) if axis not in own]
        outputs = [axis for axis in range(weights.ndim) if axis not in other]
        weights = weights.transpose(*outputs, *other).reshape(-1, int(np.prod([signal.shape[at] for at in own])))
        first = position == 0  # the free axes of the data come first among the outputs
        if int(np.prod([signal.shape[at] for at in free])) == 1:
            index = np.arange(signal.bias.size).reshape(signal.shape).transpose(*own, *free).reshape(-1)
            matrix = np.zeros((len(weights), signal.bias.size), np.float32)
            matrix[:, index] = weights
            return self._applied(matrix, self.building.settled(signal), bias, operation)
        if signal.bias.ndim != 4 or len(own) != 1 or len(outputs) != 1:
            raise NotExpressible("it is no layer of a map")
        order = (free[0], own[0], *free[1:])
        back = (*free, own[0]) if first else (own[0], *free)
        kernel = weights[:, :, None, None]
        return self._convolved(
            operation, signal, bias, kernel, (1, 1), ((0, 0), (0, 0)), order, tuple(map(order.index, back))
        )

    def _convolution(self, operation: Operation, signal: Signal, bias: np.ndarray) -> Signal:
        params = operation.eqn.params
        order, of_kernel, out = params["dimension_numbers"]
        plain = set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1
        if operation.inputs[0] not in self.signals or len(order) != 4 or not plain:
            raise NotExpressible("it is no convolution of maps")
        weight = _floats(self.values[operation.inputs[1]]).transpose(of_kernel)
        weight = undilated(ungrouped(weight, params["feature_group_count"]), params["rhs_dilation"])
        back = tuple(int(at) for at in np.argsort(out))
        return self._convolved(
            operation, signal, bias, weight, params["window_strides"], params["padding"], order, back
        )

    def _convolved(self, operation, signal, bias, weight, stride, padding, order, back) -> Signal:
        """A convolution of a value whose axes in `order` are batch, channels and pixels; transposed by `back`, these
        are the axes of the output."""
        to_map = lambda array: array.transpose(order)[0]
        signal = Signal(tuple(each.moved(lambda x, _: to_map(x)) for each in signal.terms), to_map(signal.bias))
        of_output = tuple(int(at) for at in np.argsort(back))
        uneven = not _is_even(bias.transpose(of_output)[0])
        signal = self._without_bias(signal, label_of(operation)) if uneven else signal
        shape = tuple(bias.shape[at] for at in of_output[1:])
        arranged = lambda index: index[None].transpose(back)
        found = [
            self._convolved_term(term, weight, stride, padding, shape, label_of(operation))
            for term in self.building.settled(signal).terms
        ]
        if uneven and not signal.bias.any():
            bias = np.zeros_like(bias)
        return added([Signal((whole(each, arranged),), bias) for each in _merged(found)], bias)

    def _convolved_term(self, term: Term, weight, stride, padding, shape: Shape, label: str) -> Weights:
        term = self._evenly_scaled(term, label)
        found, source = channels_of(term), self.building.node(term.source)
        if found is None:
            raise NotExpressible("it reads a map in another order than channels and pixels")
        own = of_channels(weight, found, source.shape[0])
        around = [
            (before + low, high + after) for (before, after), (low, high) in zip(found.borders, padding, strict=True)
        ]
        return convolved(fitted(own, stride, around, source.shape[1:], shape[1:]), shape, [source], label)

    def _evenly_scaled(self, term: Term, label: str) -> Term:
        """With a node Scale where the scale differs from pixel to pixel."""
        if term.per_channel(term.scale) is not None or not term.is_bijective:
            return term
        key = (id(term.source), term.index.tobytes(), term.scale.tobytes())
        if key not in self.building.made:
            scale = term.scale.reshape(-1)[np.argsort(term.index, None)].reshape(term.source.shape)
            source = self.building.node(term.source)
            node = self.building.add("Scale", term.source.shape, [source], label, scale=scale)
            self.building.made[key] = node, term.source
        return Term(self.building.made[key][0], term.index, np.ones_like(term.scale))

    def _without_bias(self, signal: Signal, label: str) -> Signal:
        """A map [C, H, W] with its bias in nodes of its own in front of a convolution that pads."""
        if not signal.terms or not _is_even(signal.bias):
            return signal
        try:
            order, _, nodes = self.building.sent(signal, label)
        except NotExpressible:
            return signal
        back = np.argsort(order)
        terms = [whole(node, lambda index: index.reshape(-1)[back].reshape(signal.shape)) for node in nodes]
        return Signal(tuple(terms), np.zeros_like(signal.bias))

    def _reduced(self, operation: Operation, signal: Signal, bias: np.ndarray) -> Signal:
        """Sums over axes, as a pool where they are sums over windows of a map."""
        axes = tuple(operation.eqn.params["axes"])
        kept = [axis for axis in range(signal.bias.ndim) if axis not in axes]
        together = lambda array: array.transpose(*kept, *axes).reshape(bias.size, -1)
        terms = []
        for term in self.building.settled(signal).terms:
            index, scale = together(term.index), together(term.scale)
            order = np.argsort(index.min(-1))
            size = windows(index[order], term.source.shape)
            if size is None or (scale != scale[:, :1]).any():
                raise NotExpressible("it is no sum over windows")
            node = self._pool(self.building.node(term.source), size[0], size[1], (0, 0), label_of(operation))
            of_output = np.argsort(order).astype(np.int32).reshape(bias.shape)
            terms.append(Term(node, of_output, scale[:, 0].reshape(bias.shape)))
        return Signal(tuple(terms), bias)

    def _pool(self, source: Node, size, stride, padding, label: str) -> Node:
        key = ("pool", id(source), size, stride, padding)
        if key not in self.building.made:
            shape = tuple(
                (pixels + 2 * around - window) // step + 1
                for pixels, window, step, around in zip(source.shape[1:], size, stride, padding, strict=True)
            )
            values = {"kernel_size": np.array(size), "stride": np.array(stride), "padding": np.array(padding)}
            node = self.building.add("SumPool2d", (source.shape[0], *shape), [source], label, **values)
            self.building.made[key] = node, source
        return self.building.made[key][0]

    def _pooled(self, operation: Operation, signal: Signal, bias: np.ndarray) -> Signal:
        """Sums over windows that may overlap."""
        params = operation.eqn.params
        window, stride, padding = params["window_dimensions"], params["window_strides"], params["padding"]
        pixels = [axis for axis, size in enumerate(window) if size > 1 or stride[axis] > 1 or any(padding[axis])]
        plain = set(params["base_dilation"]) == set(params["window_dilation"]) == {1}
        if signal.bias.ndim != 4 or len(pixels) != 2 or 0 in pixels or not plain:
            raise NotExpressible("it is no pool of maps")
        channels = next(axis for axis in (1, 2, 3) if axis not in pixels)
        order = (0, channels, *pixels)
        count = signal.shape[channels]
        ones = np.ones((1, 1, *(window[at] for at in pixels)), np.float32)
        weight = np.eye(count, dtype=np.float32)[:, :, None, None] * ones
        strides, around = tuple(stride[at] for at in pixels), [padding[at] for at in pixels]
        even = all(before == after for before, after in around)
        back = tuple(int(at) for at in np.argsort(order))
        as_pools = self._as_pools(operation, signal, bias, window, strides, around, order, back) if even else None
        return as_pools or self._convolved(operation, signal, bias, weight, strides, around, order, back)

    def _as_pools(self, operation, signal, bias, window, stride, padding, order, back) -> Signal | None:
        terms = []
        signal = self.building.settled(signal)
        for term in signal.terms:
            term = self._evenly_scaled(term, label_of(operation))
            found = channels_of(term.moved(lambda array, _: array.transpose(order)[0]))
            same = found and np.array_equal(found.of_node, np.arange(term.source.shape[0]))
            if not same or any(map(any, found.borders)):
                return None
            source, size = self.building.node(term.source), tuple(window[at] for at in order[2:])
            node = self._pool(source, size, stride, tuple(before for before, _ in padding), label_of(operation))
            arranged = lambda index: index[None].transpose(back)
            scale = np.broadcast_to(found.scale[:, None, None], node.shape)
            terms.append(Term(node, whole(node, arranged).index, arranged(scale)))
        return Signal(tuple(terms), bias)


def _merged(found: Sequence[Weights]) -> list[Weights]:
    """Equal weights of several nodes as one node that they all go into."""
    merged: list[Weights] = []
    for part in found:
        same = [at for at, each in enumerate(merged) if _alike(each, part)]
        if same:
            merged[same[0]] = replace(merged[same[0]], inputs=(*merged[same[0]].inputs, *part.inputs))
        else:
            merged.append(part)
    return merged


def _alike(one: Weights, other: Weights) -> bool:
    return one.values == other.values and one.shape == other.shape and np.array_equal(one.weight, other.weight)


def _is_even(array: np.ndarray) -> bool:
    """Whether a map [C, H, W] has one value for each channel."""
    flat = array.reshape(array.shape[0], -1)
    return bool((flat == flat[:, :1]).all())


def _floats(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)


def label_of(operation: Operation) -> str:
    """The module that an operation was made in, or its name, as NIR allows it in the name of a node."""
    scope = operation.origin.inside(operation.eqn).scope
    return as_label(scope[-1] if scope else operation.eqn.primitive.name)


def as_label(name: str) -> str:
    return re.sub(r"[^\w.-]+", ".", name).strip(".") or "node"
