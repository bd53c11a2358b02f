"""What a value of a network is made of, when it is a linear map of what the nodes of a NIR graph send.

Every element i of a value is

    value[i] = sum over terms of  scale[i] * source[index[i]]  +  bias[i]

where `source` are the outputs of a node, flattened; an index of -1 stands for no element. So what moves, scales and
adds up values needs no node: it changes indices, scales and biases, which the next weights or neurons take in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

NOTHING = -1  # the index of an element that is not there

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """A node of the NIR graph: its kind, the shape of its outputs, and its arguments."""

    kind: str
    shape: Shape
    values: dict[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights that are no node yet, so that scales and biases behind them can become a part of them.

    Its outputs [O, ...] are those of the node, Conv2d or Affine, that `inputs` go into, whose weight is [O, ...].
    """

    kind: str
    shape: Shape
    inputs: tuple[Node, ...]
    weight: np.ndarray
    values: dict[str, Any]
    label: str


@dataclass(frozen=True, eq=False)
class Term:
    source: Node | Weights
    index: np.ndarray
    scale: np.ndarray

    @property
    def size(self) -> int:
        return int(np.prod(self.source.shape, dtype=np.int64))

    @property
    def is_bijective(self) -> bool:
        return self.index.size == self.size and np.array_equal(np.sort(self.index, None), np.arange(self.size))

    def moved(self, move: Callable[[np.ndarray, Any], np.ndarray]) -> Term:
        """With `move(array, what stands where nothing is)` applied to indices and scales."""
        return replace(self, index=move(self.index, NOTHING), scale=move(self.scale, 0.0))

    def per_channel(self, of_elements: np.ndarray) -> np.ndarray | None:
        """By channel of the source, the one number that all its elements in the value have; None where they differ."""
        channels = self.index // max(self.size // self.source.shape[0], 1)
        there = self.index >= 0
        found = np.zeros(self.source.shape[0], np.float32)
        found[channels[there]] = of_elements[there]
        return found if np.array_equal(found[channels[there]], of_elements[there]) else None


@dataclass(frozen=True, eq=False)
class Signal:
    """A value: its terms, and its bias in full shape."""

    terms: tuple[Term, ...]
    bias: np.ndarray

    @property
    def shape(self) -> Shape:
        return self.bias.shape

    def scaled(self, factor: Any) -> Signal:
        factor = np.broadcast_to(np.asarray(factor, np.float32), self.shape)
        terms = tuple(replace(term, scale=term.scale * factor) for term in self.terms)
        return Signal(terms, self.bias * factor)

    def in_layout(self, order: np.ndarray, shape: Shape) -> Signal:
        """The elements in another order and shape."""
        put = lambda array: array.reshape(-1)[order].reshape(shape)
        return Signal(tuple(term.moved(lambda array, _: put(array)) for term in self.terms), put(self.bias))


def whole(source: Node | Weights, arranged: Callable[[np.ndarray], np.ndarray]) -> Term:
    """All outputs of a node, arranged from its shape to that of a value."""
    index = arranged(np.arange(int(np.prod(source.shape, dtype=np.int64)), dtype=np.int32).reshape(source.shape))
    return Term(source, index, np.ones(index.shape, np.float32))


def added(signals: Sequence[Signal], bias: np.ndarray) -> Signal:
    """The sum of some signals, their biases in `bias` already; terms of one source and order become one."""
    terms: list[Term] = []
    for term in (term for signal in signals for term in signal.terms):
        same = [at for at, each in enumerate(terms) if _equal(each, term)]
        if same:
            terms[same[0]] = replace(term, scale=terms[same[0]].scale + term.scale)
        else:
            terms.append(term)
    return Signal(tuple(terms), bias)


def _equal(one: Term, other: Term) -> bool:
    return one.source is other.source and np.array_equal(one.index, other.index)
