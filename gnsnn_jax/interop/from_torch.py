"""Networks of PyTorch as functions of JAX: `from_torch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax.engine.arrays import as_array, first_line
from gnsnn_jax.errors import InputError, listed
from gnsnn_jax.interop.aten import operation_named
from gnsnn_jax.interop.torch_program import Call, Input, Place, Program, Reference, exported, in_plain_containers, read


def from_torch(module: Any, *example: Any) -> tuple[Callable, dict[str, jax.Array]]:
    """A trained network of PyTorch as a pure function of JAX and its weights.

        apply, variables = gs.from_torch(module.eval(), images)
        outputs = apply(variables, images)    # those of module(images)

    It is read by `torch.export`, and its operations are those of JAX: ReLUs are `jax.nn.relu`, so that `sites`,
    `find_thresholds` and `to_spiking` find them, under the paths of their modules, "layer1/0/relu". Arrays keep
    PyTorch's order of axes, [B, C, H, W]; for thresholds by channel give `channel_axis=-3`. The result needs no
    tensor of the module any more: after further training, call `from_torch` again.

    Args:
        module: a `torch.nn.Module` in eval mode, a `torch.export.ExportedProgram`, or the path of a .pt2 file that
            `torch.export.save` wrote. A file that may run code when PyTorch reads it, because it holds pickled
            objects, compiled libraries, or calls of anything but operations, is refused. The parameters may have any
            floating-point type; float64 becomes float32 unless JAX's 64 bits are enabled.
        example: an input for each argument of the module, tensors or arrays; only shapes and types count. An exported
            program needs none. The length of the first axis of each is free afterwards where the module's code
            allows; a warning says where it does not. All other lengths stay those of the example.

    Returns:
        apply: `apply(variables, *inputs)` takes arrays where the module takes tensors.
        variables: a dictionary of the parameters and buffers of floating point that the network reads, by their
            names in `state_dict`.

    Raises:
        InputError: for a module in training mode, what `torch.export` cannot export, such as decisions by the values
            of tensors, a file that is damaged or may run code, and operations without a
            counterpart in `gnsnn_jax.interop.aten.OPERATIONS`: all in one list, each with module, file and line.
        MissingPackage: where PyTorch is not installed.
    """
    program, variables = program_of(module, *example)

    def apply(variables, *inputs, **kwargs):
        return evaluated(program, variables, inputs, kwargs)

    return apply, variables


def program_of(module: Any, *example: Any) -> tuple[Program, dict[str, jax.Array]]:
    """What `from_torch` evaluates: a program without variables, and these."""
    program = read(exported(module, example))
    _refuse_unknown(program)
    return program._replace(variables={}, constants=_of_jax(program.constants)), _of_jax(program.variables)


def _of_jax(arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def _refuse_unknown(program: Program) -> None:
    unknown = dict.fromkeys(f"{each.operation} in {each.place}" for each in program.calls if _function(each) is None)
    if unknown:
        raise InputError(
            f"from_torch does not know {len(unknown)} of the network's operations: {listed(unknown, most=50)}; put "
            "them outside of the module, or add a function of JAX for each to gnsnn_jax.interop.aten.OPERATIONS"
        )


def _function(call: Call) -> Callable | None:
    return operation_named(call.operation) if isinstance(call.operation, str) else call.operation


def evaluated(program: Program, variables: Mapping[str, Any], inputs: tuple, kwargs: Mapping[str, Any]) -> Any:
    """The outputs of a program for these variables and inputs."""
    leaves = _leaves(program, inputs, kwargs)
    missing = sorted({*program.names.values()} - {*variables})
    if missing:
        raise InputError(f"variables lack {listed(missing)}; pass those that from_torch returned")
    values: dict[str, Any] = {name: _jax_array(variables[path]) for name, path in program.names.items()}
    values |= program.constants | {each.name: leaf for each, leaf in zip(program.inputs, leaves, strict=True)}
    for call in program.calls:
        values[call.result] = _result(call, values)
    return _filled(program.outputs, values)


def _result(call: Call, values: Mapping[str, Any]) -> Any:
    function, args, kwargs = _function(call), _filled(call.args, values), _filled(call.kwargs, values)
    with jax.named_scope("/".join(call.place.modules)):
        try:
            return _running_at(call.place)(lambda: function(*args, **kwargs))
        except (TypeError, ValueError, IndexError, NotImplementedError) as error:
            name = str(getattr(call.operation, "__name__", call.operation))
            raise InputError(
                f"{name} in {call.place} failed in JAX: {first_line(error)}{_HINTS.get(name, '')}"
            ) from error


_HINTS = {"getitem": "; of max-pooling there are no indices, and of a norm no statistics"}


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:
    """An argument of a call with values in place of references."""
    if isinstance(argument, Reference):
        return values[argument.name]
    if isinstance(argument, tuple) and hasattr(argument, "_fields"):
        return type(argument)(*(_filled(each, values) for each in argument))
    if isinstance(argument, list | tuple):
        return type(argument)(_filled(each, values) for each in argument)
    if isinstance(argument, Mapping):
        return {name: _filled(each, values) for name, each in argument.items()}
    return argument


@lru_cache(maxsize=10_000)
def _running_at(place: Place) -> Callable[[Callable], Any]:
    """Calls a function from this line of the user's file, so that what JAX traces there tells its place."""
    code = compile("\n" * (place.line - 1) + "lambda function: function()", place.file or __file__, "eval")
    caller = eval(code)
    name = place.kind or "<lambda>"
    caller.__code__ = caller.__code__.replace(co_name=name, co_qualname=name)
    return caller


def _leaves(program: Program, inputs: tuple, kwargs: Mapping[str, Any]) -> list[Any]:
    """The arrays of the arguments, which must have the structure and the fixed lengths of the example."""
    numbers, wanted = _flat(program.arguments)
    leaves, structure = _flat(in_plain_containers((inputs, kwargs)))
    if structure != wanted:
        raise InputError(
            f"the network takes {_count(*program.arguments)} after its variables, as in the example, got "
            f"{_count(inputs, kwargs)}; lists, tuples and dicts must be the same too: of a loader with labels give "
            "(x for x, _ in loader)"
        )
    in_order = dict(zip(numbers, leaves, strict=True))
    return [_checked(each, in_order[number]) for number, each in enumerate(program.inputs)]


def _flat(arguments: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(arguments, is_leaf=lambda leaf: leaf is None)


def _count(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    positional = f"{len(args)} positional argument{'s' * (len(args) != 1)}"
    return positional + (f" and {listed(kwargs)}" if kwargs else "")


def _checked(wanted: Input, leaf: Any) -> Any:
    if wanted.shape is None:
        return leaf
    leaf = _jax_array(leaf)
    fits = len(leaf.shape) == len(wanted.shape) and all(
        length in (None, given) for length, given in zip(wanted.shape, leaf.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"input {wanted.name} must have the shape {_lengths(wanted.shape)} of the example, got "
            f"{_lengths(leaf.shape)}; call from_torch with an example of this shape for other lengths"
        )
    return leaf


def _jax_array(leaf: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(as_array(leaf))


def _lengths(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"
