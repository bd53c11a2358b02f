"""A traced network as a flat list of operations, split into what spikes reach and what they do not.

Conversion asks that everything which a spike reaches be linear in the spikes; what is not is refused
here, all of it at once, each with the place in the user's code and what to do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from gnsnn_jax._types import Array
from gnsnn_jax.activations import qcfs_p
from gnsnn_jax.errors import InputError

Slot = int  # names a value; every value of a program has its own


class Operation(NamedTuple):
    eqn: JaxprEqn
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    @property
    def is_activation(self) -> bool:
        return self.eqn.primitive is qcfs_p


@dataclass
class Program:
    """A network without calls: `fixed` is evaluated once, `timed` at each time-step after it."""

    inputs: tuple[Slot, ...] = ()
    outputs: tuple[Slot, ...] = ()
    constants: dict[Slot, Any] = field(default_factory=dict)
    fixed: list[Operation] = field(default_factory=list)
    timed: list[Operation] = field(default_factory=list)
    has_time: set[Slot] = field(default_factory=set)

    @property
    def activations(self) -> list[Operation]:
        return [operation for operation in self.timed if operation.is_activation]

    @property
    def is_sharded(self) -> bool:
        """Whether the type of some current says more than shape and dtype, as under explicit sharding."""
        currents = (activation.eqn.invars[0].aval for activation in self.activations)
        return any(aval != jax.core.ShapedArray(aval.shape, aval.dtype) for aval in currents)


def flatten(network: ClosedJaxpr, inputs_have_time: Sequence[bool]) -> Program:
    """Enters every call of a traced network and sorts its operations.

    Raises InputError where the network has no activation, or where spikes reach an operation that
    is not linear in them; the error names each such operation, its file and line, and the remedy.
    """
    return _Flattening().flatten(network, inputs_have_time)


class _Refusals:
    """What cannot be converted, each with its place: the innermost line of the user's code, which for
    an operation in a library function that JAX traced by itself is the line that called the function."""

    def __init__(self, lines: list[str] | None = None, caller: str | None = None):
        self.lines, self.caller = [] if lines is None else lines, caller

    def inside(self, eqn: JaxprEqn) -> _Refusals:
        """The same list, for the operations within an equation."""
        return _Refusals(self.lines, _place(eqn) or self.caller)

    def add(self, eqn: JaxprEqn, remedy: str) -> None:
        place = _place(eqn) or self.caller or "unknown place"
        self.lines.append(f"{place}: {eqn.primitive.name}: {remedy}")


class _Flattening:
    def __init__(self):
        self.program = Program()
        self.refusals = _Refusals()
        self.new_slot = itertools.count().__next__

    def flatten(self, network: ClosedJaxpr, inputs_have_time: Sequence[bool]) -> Program:
        program = self.program
        program.inputs = tuple(self.new_slot() for _ in network.jaxpr.invars)
        program.has_time = {slot for slot, has_time in zip(program.inputs, inputs_have_time, strict=True) if has_time}
        program.outputs = tuple(self.enter(network.jaxpr, network.consts, program.inputs, self.refusals))
        if self.refusals.lines:
            raise InputError(_refusal_text(self.refusals.lines))
        if not program.activations:
            raise InputError(
                "found no activation to turn into neurons; conversion looks for calls of "
                "gnsnn_jax.qcfs(x, threshold, levels), so use it where the network has its activations"
            )
        return program

    def constant(self, value: Any) -> Slot:
        slot = self.new_slot()
        self.program.constants[slot] = value
        return slot

    def enter(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Slot], refusals: _Refusals) -> list[Slot]:
        """Adds the operations of a jaxpr to the program; returns the slots of its outputs."""
        slots = dict(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        slots.update(zip(jaxpr.invars, inputs, strict=True))

        def slot_of(atom):
            return self.constant(atom.val) if isinstance(atom, Literal) else slots[atom]

        for eqn in jaxpr.eqns:
            outputs = self.add(eqn, tuple(map(slot_of, eqn.invars)), refusals)
            slots.update(zip(eqn.outvars, outputs, strict=True))
        return [slot_of(atom) for atom in jaxpr.outvars]

    def add(self, eqn: JaxprEqn, inputs: tuple[Slot, ...], refusals: _Refusals) -> Sequence[Slot]:
        have_time = [slot in self.program.has_time for slot in inputs]
        called = _called(eqn)
        if called and (_has_activation(called.jaxpr) or (any(have_time) and not _has_own_gradient(eqn))):
            return self.enter(called.jaxpr, called.consts, inputs, refusals.inside(eqn))
        outputs = tuple(self.new_slot() for _ in eqn.outvars)
        operation = Operation(eqn, inputs, outputs)
        spread = _spread(eqn, have_time, refusals)
        self.program.has_time.update(slot for slot, timed in zip(outputs, spread, strict=True) if timed)
        timed = any(have_time) or operation.is_activation
        (self.program.timed if timed else self.program.fixed).append(operation)
        return outputs


# How time spreads.

ANY = None  # every operand may carry spikes
# Operations that are linear in the operands at these positions together.
LINEAR = {
    **dict.fromkeys(
        "add add_any sub neg reduce_sum reduce_window_sum cumsum fft copy name device_put "
        "reshape broadcast_in_dim squeeze expand_dims transpose rev slice split concatenate stack unstack tile pad "
        "real imag conj complex reduce_precision optimization_barrier sharding_constraint reshard mesh_cast "
        "pvary pcast psum psum_invariant all_gather all_to_all ppermute reduce_scatter "
        "debug_callback debug_print".split(),
        ANY,
    ),
    "convert_element_type": ANY,
    "div": {0},
    "gather": {0},
    "dynamic_slice": {0},
    "dynamic_update_slice": {0, 1},
    "scatter": {0, 2},
    "scatter-add": {0, 2},
    "scatter_add": {0, 2},
    "scatter-mul": {0},
    "scatter_mul": {0},
    "triangular_solve": {1},
}
# Operations that are linear in each operand while the others are fixed.
BILINEAR = {"mul", "dot_general", "conv_general_dilated", "ragged_dot_general"}

_USE_QCFS = "conversion knows the activation gnsnn_jax.qcfs; use it here, or move this out of the network"
_TRAINING_NORM = (
    "if this is a batch norm, run it in inference mode (train=False, use_running_average=True); layer "
    "and group norms do not convert"
)
REMEDIES = {
    **dict.fromkeys(["max", "min", "clamp", "tanh", "logistic", "erf", "sign", "abs"], _USE_QCFS),
    **dict.fromkeys(["square", "integer_pow", "pow", "sqrt", "rsqrt"], _TRAINING_NORM),
    **dict.fromkeys(
        ["reduce_window_max", "reduce_max", "reduce_window", "reduce_min", "select_and_gather_add"],
        "the maximum of spike trains is not the maximum of their rates; use average pooling",
    ),
    **dict.fromkeys(
        ["exp", "log", "argmax", "argmin", "sort", "top_k"],
        "leave it out of the network and apply it to the outputs summed over time",
    ),
    **dict.fromkeys(
        ["mul", "dot_general", "conv_general_dilated", "ragged_dot_general"],
        "it multiplies one spike train by another; only products with fixed values convert (" + _TRAINING_NORM + ")",
    ),
    "div": "spikes cannot be divided by; divide by fixed values only (" + _TRAINING_NORM + ")",
    "select_n": "the condition of a selection must not depend on spikes",
}
_DEFAULT_REMEDY = "use operations that are linear in the spikes, or move it out of the network"
_HIDDEN_ACTIVATION = {
    True: "an activation inside would need a neuron for each pass; write the layers out one by one",
    False: "an activation inside cannot be reached; apply this to the converted network instead",
}
CONTROL_FLOW = ("scan", "while", "cond")


def _spread(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    """Which outputs of an operation vary in time when these inputs do; adds what cannot be to `refusals`."""
    name = eqn.primitive.name
    if eqn.primitive is qcfs_p:
        if have_time[1]:
            refusals.add(eqn, "the threshold depends on spikes; make it a parameter")
        return [True]
    if any(map(_has_activation, _inner_jaxprs(eqn))):
        refusals.add(eqn, _HIDDEN_ACTIVATION[name in CONTROL_FLOW])
        return [True] * len(eqn.outvars)
    if not any(have_time):
        return [False] * len(eqn.outvars)
    if name in CONTROL_FLOW:
        return _spread_control_flow(eqn, have_time, refusals)
    if called := _called(eqn):
        return _spread_through(called.jaxpr, have_time, refusals.inside(eqn))
    if not _is_linear(eqn, have_time):
        refusals.add(eqn, REMEDIES.get(name, _DEFAULT_REMEDY))
    return [True] * len(eqn.outvars)


def _spread_through(jaxpr: Jaxpr, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    timed = {var for var, has_time in zip(jaxpr.invars, have_time, strict=True) if has_time}
    is_timed = lambda atom: not isinstance(atom, Literal) and atom in timed
    for eqn in jaxpr.eqns:
        spread = _spread(eqn, [is_timed(atom) for atom in eqn.invars], refusals)
        timed.update(var for var, has_time in zip(eqn.outvars, spread, strict=True) if has_time)
    return [is_timed(atom) for atom in jaxpr.outvars]


def _spread_control_flow(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    """Loops and branches are applied as they are: they may carry spikes, not be steered by them."""
    if eqn.primitive.name == "cond":
        if have_time[0]:
            refusals.add(eqn, "the branch taken must not depend on spikes")
        inside = refusals.inside(eqn)
        branches = [_spread_through(body, have_time[1:], inside) for body in _inner_jaxprs(eqn)]
        return [any(timed) for timed in zip(*branches, strict=True)]
    return (_spread_scan if eqn.primitive.name == "scan" else _spread_while)(eqn, have_time, refusals)


def _spread_scan(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    body = eqn.params["jaxpr"].jaxpr
    # A scanned input or output has one axis more outside of the body than in it.
    whole = lambda outside, inside: sum(o.aval.shape == i.aval.shape for o, i in zip(outside, inside, strict=True))
    carried = whole(eqn.outvars, body.outvars)
    fixed = whole(eqn.invars, body.invars) - carried
    head, carry, scanned = have_time[:fixed], have_time[fixed : fixed + carried], have_time[fixed + carried :]
    carry, spread = _spread_carry(body, head, carry, scanned, refusals.inside(eqn))
    return [*carry, *spread[carried:]]


def _spread_while(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    test_consts, body_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_test, of_body = have_time[:test_consts], have_time[test_consts : test_consts + body_consts]
    body, carry = eqn.params["body_jaxpr"].jaxpr, have_time[test_consts + body_consts :]
    carry, _ = _spread_carry(body, of_body, carry, [], refusals.inside(eqn))
    if any(_spread_through(eqn.params["cond_jaxpr"].jaxpr, [*of_test, *carry], _Refusals())):
        refusals.add(eqn, "the number of passes must not depend on spikes")
    return carry


def _spread_carry(body: Jaxpr, fixed, carry, scanned, refusals: _Refusals) -> tuple[list[bool], list[bool]]:
    """What of the carry has time once some pass gave it time, and what of the body's outputs has."""
    carry = list(carry)
    while True:
        found = _Refusals(caller=refusals.caller)
        spread = _spread_through(body, [*fixed, *carry, *scanned], found)
        grown = [old or new for old, new in zip(carry, spread, strict=False)]
        if grown == carry:
            refusals.lines.extend(found.lines)
            return carry, spread
        carry = grown


def _is_linear(eqn: JaxprEqn, have_time: Sequence[bool]) -> bool:
    name = eqn.primitive.name
    timed = {position for position, has_time in enumerate(have_time) if has_time}
    if name == "convert_element_type":
        return jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact)
    if name == "select_n":
        return 0 not in timed
    if name in BILINEAR:
        return len(timed) == 1
    return name in LINEAR and (LINEAR[name] is ANY or timed <= LINEAR[name])


# Reading equations.

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def _called(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The body of an equation that only calls it."""
    body = eqn.params.get(CALLS.get(eqn.primitive.name))
    return ClosedJaxpr(body, ()) if isinstance(body, Jaxpr) else body


def _has_own_gradient(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call")


def _inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _has_activation(jaxpr: Jaxpr) -> bool:
    return any(eqn.primitive is qcfs_p or any(map(_has_activation, _inner_jaxprs(eqn))) for eqn in jaxpr.eqns)


def bind(eqn: JaxprEqn, *values: Any) -> list[Array]:
    """Applies the operation of an equation to other values."""
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def bind_over_time(eqn: JaxprEqn, values: Sequence[Any], have_time: Sequence[bool]) -> list[Array]:
    """The same at every time-step at once; values with time have it in front."""
    axes = [0 if has_time else None for has_time in have_time]
    return jax.vmap(partial(bind, eqn), in_axes=axes)(*values)


_LIBRARIES = ("jax", "jaxlib", "flax", "equinox", "haiku", "einops", "jaxtyping", "beartype", "numpy")
_PYTHON = ("contextlib", "functools", "dataclasses", "threading", "runpy")
_METHOD = tuple(str(Path(__file__).parent / name) for name in ("conversion.py", "activations.py", "program.py"))


def _place(eqn: JaxprEqn) -> str | None:
    """File and line of the user's code that an equation comes from, if JAX knows any."""
    traceback, libraries = eqn.source_info.traceback, _library_roots()
    for frame in traceback.frames if traceback else []:
        if not frame.file_name.startswith(libraries):
            return f"{frame.file_name}:{frame.line_num}"
    return None


def _library_roots() -> tuple[str, ...]:
    """Where files lie that are not the user's: of the libraries in use, of Python, of the method itself."""
    modules = [sys.modules[name] for name in _LIBRARIES if name in sys.modules]
    roots = [str(Path(module.__file__).parent) + os.sep for module in modules if getattr(module, "__file__", None)]
    python = Path(contextlib.__file__).parent
    return (*roots, *(str(python / f"{name}.py") for name in _PYTHON), "<frozen ", *_METHOD)


def _refusal_text(refusals: list[str]) -> str:
    unique = list(dict.fromkeys(refusals))
    count = "an operation that is" if len(unique) == 1 else f"{len(unique)} operations that are"
    return f"spikes reach {count} not linear in them:\n" + "\n".join(f"  {line}" for line in unique)
