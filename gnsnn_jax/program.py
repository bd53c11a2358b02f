"""A traced network as a flat list of operations, split into what spikes reach and what they do not.

Conversion asks that everything which a spike reaches be linear in the spikes; what is not is refused
here, all of it at once, each with the place in the user's code and what to do.
"""

from __future__ import annotations

import itertools
import sysconfig
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


def flatten(network: ClosedJaxpr, inputs_have_time: Sequence[bool]) -> Program:
    """Enters every call of a traced network and sorts its operations.

    Raises InputError where the network has no activation, or where spikes reach an operation that
    is not linear in them; the error names each such operation, its file and line, and the remedy.
    """
    return _Flattening().flatten(network, inputs_have_time)


class _Flattening:
    def __init__(self):
        self.program = Program()
        self.refusals: list[str] = []
        self.new_slot = itertools.count().__next__

    def flatten(self, network: ClosedJaxpr, inputs_have_time: Sequence[bool]) -> Program:
        program = self.program
        program.inputs = tuple(self.new_slot() for _ in network.jaxpr.invars)
        program.has_time = {slot for slot, has_time in zip(program.inputs, inputs_have_time, strict=True) if has_time}
        program.outputs = tuple(self.enter(network.jaxpr, network.consts, program.inputs))
        if self.refusals:
            raise InputError(_refusal_text(self.refusals))
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

    def enter(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Slot]) -> list[Slot]:
        """Adds the operations of a jaxpr to the program; returns the slots of its outputs."""
        slots = dict(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        slots.update(zip(jaxpr.invars, inputs, strict=True))

        def slot_of(atom):
            return self.constant(atom.val) if isinstance(atom, Literal) else slots[atom]

        for eqn in jaxpr.eqns:
            outputs = self.add(eqn, tuple(map(slot_of, eqn.invars)))
            slots.update(zip(eqn.outvars, outputs, strict=True))
        return [slot_of(atom) for atom in jaxpr.outvars]

    def add(self, eqn: JaxprEqn, inputs: tuple[Slot, ...]) -> Sequence[Slot]:
        have_time = [slot in self.program.has_time for slot in inputs]
        called = _called(eqn)
        if called and (any(have_time) or _has_activation(called.jaxpr)):
            return self.enter(called.jaxpr, called.consts, inputs)
        outputs = tuple(self.new_slot() for _ in eqn.outvars)
        operation = Operation(eqn, inputs, outputs)
        spread = _spread(eqn, have_time, self.refusals)
        self.program.has_time.update(slot for slot, timed in zip(outputs, spread, strict=True) if timed)
        timed = any(have_time) or operation.is_activation
        (self.program.timed if timed else self.program.fixed).append(operation)
        return outputs


# How time spreads.

ANY = None  # every operand may carry spikes
# Operations that are linear in the operands at these positions together.
LINEAR = {
    **dict.fromkeys(
        "add add_any sub neg reduce_sum reduce_window_sum cumsum fft copy copy_p name device_put "
        "reshape broadcast_in_dim squeeze expand_dims transpose rev slice split concatenate pad "
        "reduce_precision optimization_barrier sharding_constraint stop_gradient reshard mesh_cast "
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
        ["exp", "log", "reduce_precision_log", "argmax", "argmin", "sort", "top_k"],
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


def _spread(eqn: JaxprEqn, have_time: Sequence[bool], refusals: list[str]) -> list[bool]:
    """Which outputs of an operation vary in time when these inputs do; adds what cannot be to `refusals`."""
    name = eqn.primitive.name
    refuse = lambda remedy: refusals.append(f"{_place(eqn)}: {name}: {remedy}")
    if eqn.primitive is qcfs_p:
        if have_time[1]:
            refuse("the threshold depends on spikes; make it a parameter")
        return [True]
    if name in ("scan", "while", "cond"):
        return _spread_control_flow(eqn, have_time, refuse, refusals)
    if called := _called(eqn):
        return _spread_through(called.jaxpr, have_time, refusals)
    if any(have_time) and not _is_linear(eqn, have_time):
        refuse(REMEDIES.get(name, _DEFAULT_REMEDY))
    return [any(have_time)] * len(eqn.outvars)


def _spread_through(jaxpr: Jaxpr, have_time: Sequence[bool], refusals: list[str]) -> list[bool]:
    timed = {var for var, has_time in zip(jaxpr.invars, have_time, strict=True) if has_time}
    is_timed = lambda atom: not isinstance(atom, Literal) and atom in timed
    for eqn in jaxpr.eqns:
        spread = _spread(eqn, [is_timed(atom) for atom in eqn.invars], refusals)
        timed.update(var for var, has_time in zip(eqn.outvars, spread, strict=True) if has_time)
    return [is_timed(atom) for atom in jaxpr.outvars]


def _spread_control_flow(eqn, have_time, refuse, refusals) -> list[bool]:
    """Loops and branches are applied as they are: they may carry spikes, not hold neurons or be steered by spikes."""
    bodies = list(_inner_jaxprs(eqn))
    if any(map(_has_activation, bodies)):
        refuse("an activation inside would need a neuron for each pass; write the layers out one by one")
        return [True] * len(eqn.outvars)
    if not any(have_time):
        return [False] * len(eqn.outvars)
    if eqn.primitive.name == "cond":
        if have_time[0]:
            refuse("the branch taken must not depend on spikes")
        branches = [_spread_through(body, have_time[1:], refusals) for body in bodies]
        return [any(timed) for timed in zip(*branches, strict=True)]
    return _spread_loop(eqn, have_time, refuse, refusals)


def _spread_loop(eqn, have_time, refuse, refusals) -> list[bool]:
    params = eqn.params
    if eqn.primitive.name == "scan":
        body, head, carried = params["jaxpr"].jaxpr, params["num_consts"], params["num_carry"]
        fixed, carry, scanned = have_time[:head], have_time[head : head + carried], have_time[head + carried :]
    else:
        test_consts, head = params["cond_nconsts"], params["body_nconsts"]
        body, fixed = params["body_jaxpr"].jaxpr, have_time[test_consts : test_consts + head]
        carry, scanned = have_time[test_consts + head :], []
    while True:
        found: list[str] = []
        spread = _spread_through(body, [*fixed, *carry, *scanned], found)
        grown = [old or new for old, new in zip(carry, spread, strict=False)]
        if grown == list(carry):
            break
        carry = grown
    refusals.extend(found)
    if eqn.primitive.name == "while":
        test = params["cond_jaxpr"].jaxpr
        if any(_spread_through(test, [*have_time[:test_consts], *carry], [])):
            refuse("the number of passes must not depend on spikes")
        return list(carry)
    return [*carry, *spread[carried:]]


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


_LIBRARIES = tuple(f"/{name}/" for name in ("jax", "jaxlib", "flax", "equinox"))
_INSTALLED = {sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib")}
_METHOD = str(Path(__file__).parent / "conversion.py"), str(Path(__file__).parent / "activations.py")


def _place(eqn: JaxprEqn) -> str:
    """File and line of the user's code that an equation comes from."""
    traceback = eqn.source_info.traceback
    frames = traceback.frames if traceback else []
    outside = [frame for frame in frames if not _is_library(frame.file_name)]
    for frame in outside or frames[:1]:
        return f"{frame.file_name}:{frame.line_num}"
    return "unknown place"


def _is_library(file_name: str) -> bool:
    if file_name in _METHOD or file_name.startswith("<"):
        return True
    return any(file_name.startswith(root) for root in _INSTALLED) and (
        "site-packages" not in file_name or any(library in file_name for library in _LIBRARIES)
    )


def _refusal_text(refusals: list[str]) -> str:
    unique = list(dict.fromkeys(refusals))
    count = "an operation that is" if len(unique) == 1 else f"{len(unique)} operations that are"
    return f"spikes reach {count} not linear in them:\n" + "\n".join(f"  {line}" for line in unique)
