"""ONNX's recurrent layers in JAX: RNN, GRU and LSTM, in one direction or two, by `lax.scan` over the sequence.

X [T, B, I], or [B, T, I] with layout=1; W [D, G H, I], R [D, G H, H] and the bias [D, 2 G H] for D directions, H
units and G gates. Outputs are Y [T, D, B, H] and the last states [D, B, H].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError, listed, shown
from gnsnn_jax.interop.onnx_values import as_jax

State = tuple[Array, ...]
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": jax.nn.elu,
    "hardsigmoid": lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


class Cell(NamedTuple):
    """One direction: what a step needs beside its state and its input.

    weight      R [G H, H]
    bias        of the recurrent product [G H]
    functions   the activations, in ONNX's order
    clip        what currents are cut to before the activations
    peepholes   of an LSTM, [3 H] or None
    """

    weight: Array
    bias: Array
    functions: Sequence[Callable[[Array], Array]]
    clip: Callable[[Array], Array]
    peepholes: Array | None
    linear_before_reset: bool

    def gates(self, current: Array, state: Array) -> list[Array]:
        """The currents [B, G H] with those from the state, by gate [B, H]."""
        return jnp.split(current + self.from_state(state), self.weight.shape[0] // self.weight.shape[1], -1)

    def from_state(self, state: Array, first: int = 0, last: int | None = None) -> Array:
        """R h + b, or its entries from `first` to `last`."""
        return state @ self.weight[first:last].T + self.bias[None, first:last]


Step = Callable[[Cell, Array, State], State]


def _step_of_rnn(cell: Cell, current: Array, state: State) -> State:
    (h,) = state
    return (cell.functions[0](cell.clip(current + cell.from_state(h))),)


def _step_of_gru(cell: Cell, current: Array, state: State) -> State:
    """z, r, and the candidate n of r * (R h + b), or of R (r * h) + b."""
    (h,) = state
    gate, activate = cell.functions
    units = h.shape[-1]
    both = gate(cell.clip(current[:, : 2 * units] + cell.from_state(h, 0, 2 * units)))
    z, r = jnp.split(both, 2, -1)
    inner = r * cell.from_state(h, 2 * units) if cell.linear_before_reset else cell.from_state(r * h, 2 * units)
    n = activate(cell.clip(current[:, 2 * units :] + inner))
    return ((1 - z) * n + z * h,)


def _step_of_lstm(cell: Cell, current: Array, state: State) -> State:
    """Gates i, o, f and the candidate; peepholes let the gates see the cell."""
    h, c = state
    gate, activate, show = cell.functions
    i, o, f, n = cell.gates(current, h)
    see = (0.0, 0.0, 0.0) if cell.peepholes is None else [each[None] for each in jnp.split(cell.peepholes, 3)]
    kept = gate(cell.clip(f + see[2] * c)) * c
    c = kept + gate(cell.clip(i + see[0] * c)) * activate(cell.clip(n))
    return gate(cell.clip(o + see[1] * c)) * show(c), c


def rnn(x, w, r, b=None, lengths=None, h=None, **attributes) -> tuple[Array, ...]:
    return _layer(_step_of_rnn, ("Tanh",), x, w, r, b, lengths, (h,), None, **attributes)


def gru(x, w, r, b=None, lengths=None, h=None, **attributes) -> tuple[Array, ...]:
    return _layer(_step_of_gru, ("Sigmoid", "Tanh"), x, w, r, b, lengths, (h,), None, **attributes)


def lstm(x, w, r, b=None, lengths=None, h=None, c=None, peepholes=None, **attributes) -> tuple[Array, ...]:
    defaults = ("Sigmoid", "Tanh", "Tanh")
    return _layer(_step_of_lstm, defaults, x, w, r, b, lengths, (h, c), peepholes, **attributes)


def _layer(
    step: Step, defaults, x, w, r, b, lengths, initial, peepholes, *, hidden_size=None, direction="forward",
    activations=None, clip=None, layout=0, linear_before_reset=0, input_forget=0, **settings,
) -> tuple[Array, ...]:  # fmt: skip
    if input_forget or settings or direction not in _DIRECTIONS:
        asked = [*settings, *["input_forget"] * bool(input_forget), *[direction] * (direction not in _DIRECTIONS)]
        raise InputError(f"the recurrent layer has {listed(asked)}, which is not known here")
    reversals = _DIRECTIONS[direction]
    functions = _functions(activations or defaults * len(reversals))
    cut = (lambda v: jnp.clip(v, -clip, clip)) if clip else lambda v: v
    x, w, r = map(as_jax, (x, w, r))
    x = jnp.swapaxes(x, 0, 1) if layout else x
    b = jnp.zeros((len(w), 2 * w.shape[1]), w.dtype) if b is None else as_jax(b)
    runs = []
    for at, is_reversed in enumerate(reversals):
        of_input, of_state = jnp.split(b[at], 2)
        sees = None if peepholes is None else as_jax(peepholes)[at]
        mine = functions[at * len(defaults) : (at + 1) * len(defaults)]
        cell = Cell(r[at], of_state, mine, cut, sees, bool(linear_before_reset))
        currents = jnp.matmul(x, w[at].T) + of_input[None, None]
        start = tuple(_initial(each, at, layout, x, r) for each in initial)
        runs.append(_run(partial(step, cell), currents, start, lengths, is_reversed))
    return _outputs(runs, layout)


def _functions(names: Sequence[str]) -> list[Callable[[Array], Array]]:
    if unknown := [name for name in names if name.lower() not in _ACTIVATIONS]:
        raise InputError(f"the recurrent layer has the activation {shown(unknown[0])}, which is not known here")
    return [_ACTIVATIONS[name.lower()] for name in names]


def _initial(given: Any, at: int, layout: int, x: Array, r: Array) -> Array:
    if given is None:
        return jnp.zeros((x.shape[1], r.shape[-1]), x.dtype)
    return as_jax(given)[:, at] if layout else as_jax(given)[at]


def _run(step: Callable, currents: Array, start: State, lengths: Any, is_reversed: bool) -> tuple[Array, State]:
    """The hidden states [T, B, H] and the last states; behind the end of a sequence states stay and outputs are 0."""
    if lengths is None:
        advance = lambda state, current: (new := step(current, state), new[0])
        last, outputs = lax.scan(advance, start, currents, reverse=is_reversed)
        return outputs, last
    order = _order(as_jax(lengths), len(currents)) if is_reversed else None
    currents = currents if order is None else jnp.take_along_axis(currents, order, 0)
    within = (jnp.arange(len(currents))[:, None] < as_jax(lengths)[None])[..., None]

    def advance_within(state, each):
        current, goes_on = each
        new = tuple(
            jnp.where(goes_on, after, before) for after, before in zip(step(current, state), state, strict=True)
        )
        return new, jnp.where(goes_on, new[0], 0)

    last, outputs = lax.scan(advance_within, start, (currents, within))
    return outputs if order is None else jnp.take_along_axis(outputs, order, 0), last


def _order(lengths: Array, steps: int) -> Array:
    """[T, B, 1]: each sequence backwards, what lies behind its end where it is."""
    times = jnp.arange(steps)[:, None]
    return jnp.where(times < lengths[None], lengths[None] - 1 - times, times)[..., None]


def _outputs(runs: Sequence[tuple[Array, State]], layout: int) -> tuple[Array, ...]:
    """[T, D, B, H] and [D, B, H] each, or with layout=1 [B, T, D, H] and [B, D, H]."""
    outputs = jnp.stack([each for each, _ in runs], 1)
    lasts = [jnp.stack(each) for each in zip(*(last for _, last in runs), strict=True)]
    if layout:
        return outputs.transpose(2, 0, 1, 3), *(jnp.swapaxes(each, 0, 1) for each in lasts)
    return outputs, *lasts
