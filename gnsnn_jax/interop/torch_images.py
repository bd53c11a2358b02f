"""Networks of PyTorch on the images of data sets, [B, H, W, C], and as JSON that is read without PyTorch."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.interop.from_torch import evaluated, program_of
from gnsnn_jax.interop.image_axes import as_declared
from gnsnn_jax.interop.stored_programs import array_from_json, array_to_json, values_from_json, values_to_json
from gnsnn_jax.interop.torch_program import Call, Input, Place, Program, array_of, check_inference

Shape = tuple[int, ...]
EXAMPLES = 2  # torch.export takes a batch of one for a fixed one
LAST_LINE = 10**6  # of a file of the user's


class ImageNetwork:
    """`apply(variables, images)` of a network of PyTorch, for images whose channels are last.

    Where the network takes [B, C, H, W], they are transposed once, before it.

    Args:
        program_for: the program for images of a shape [H, W, C].
    """

    def __init__(self, program_for: Callable[[Shape], Program]):
        self._program_for = cache(program_for)

    def __call__(self, variables: Mapping[str, Any], images: Array | np.ndarray) -> Any:
        program = self._program_for(images.shape[1:])
        declared = program.inputs[0].shape if program.inputs else None
        return evaluated(program, variables, (as_declared(images, declared),), {})

    def to_json(self, image_shape: Shape) -> dict[str, Any]:
        """What computes on images [H, W, C], without weights, and of places in code the names of files alone.

        Raises InputError where JSON does not hold an argument of an operation.
        """
        program = self._program_for(tuple(image_shape))
        return {
            "calls": [_call_to_json(call) for call in program.calls],
            "inputs": [[each.name, each.shape and list(each.shape)] for each in program.inputs],
            "arguments": values_to_json(program.arguments),
            "outputs": values_to_json(program.outputs),
            "names": program.names,
            "constants": {name: array_to_json(array) for name, array in program.constants.items()},
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any], what: str) -> ImageNetwork:
        """What `to_json` described. No code that it names runs but operations of `OPERATIONS` and arithmetic.

        Raises InputError where it was not `to_json` that described it.
        """
        try:
            program = Program(
                tuple(map(_call_from_json, described["calls"])),
                tuple(Input(name, shape and tuple(shape)) for name, shape in described["inputs"]),
                values_from_json(described["arguments"]),
                values_from_json(described["outputs"]),
                {},
                dict(described["names"]),
                {name: jnp.asarray(array_from_json(each)) for name, each in described["constants"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{what} says {shown(str(error))} of its operations; convert it again") from error
        return cls(lambda shape: program)


def read_pt2(path: Path) -> tuple[Callable, dict[str, jax.Array]]:
    """The network in a .pt2 file on images [B, H, W, C].

    Args:
        path: a file that `torch.export.save` wrote.

    Returns:
        An `ImageNetwork` and its variables, see `from_torch`.

    Raises:
        As `from_torch` does.
    """
    program, variables = program_of(path)
    return ImageNetwork(lambda shape: program), variables


def is_module(found: Any) -> bool:
    """Whether it is a module of PyTorch; where PyTorch is not imported, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(found, torch.nn.Module)


def of_module(module: Any) -> tuple[Callable, dict[str, jax.Array]]:
    """A module of PyTorch that takes [B, C, H, W], on images [B, H, W, C]. It is exported when their shape is known.

    Args:
        module: a `torch.nn.Module` in eval mode.

    Returns:
        An `ImageNetwork`, and the parameters and buffers of floating point by their names.

    Raises:
        InputError: for a module in training mode.
    """
    check_inference(module)
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))

    def program_for(shape: Shape) -> Program:
        *pixels, channels = shape
        with jax.ensure_compile_time_eval():
            return program_of(module, np.zeros((EXAMPLES, channels, *pixels), np.float32))[0]

    arrays = {name: jnp.asarray(array_of(tensor)) for name, tensor in named.items() if tensor.is_floating_point()}
    return ImageNetwork(program_for), arrays


# Calls as JSON.

_FUNCTIONS: dict[str, Callable] = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in (
        (operator, "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ getitem"),
        (math, "ceil floor trunc sqrt"),
    )
    for name in names.split()
} | {f"builtins.{function.__name__}": function for function in (max, min, round, abs, int, float, bool, sum)}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}


def _call_to_json(call: Call) -> list[Any]:
    operation = call.operation if isinstance(call.operation, str) else [_known(_NAMES, call.operation)]
    place = [list(call.place.modules), call.place.kind, Path(call.place.file).name, call.place.line]
    return [call.result, operation, values_to_json(call.args), values_to_json(call.kwargs), place]


def _call_from_json(described: list[Any]) -> Call:
    result, operation, args, kwargs, (modules, kind, file, line) = described
    function = operation if isinstance(operation, str) else _known(_FUNCTIONS, *operation)
    place = Place(tuple(map(str, modules)), str(kind), Path(file).name, min(max(int(line), 1), LAST_LINE))
    return Call(str(result), function, values_from_json(args), values_from_json(kwargs), place)


def _known(table: Mapping[Any, Any], key: Any) -> Any:
    if key not in table:
        raise InputError(f"the operation {shown(str(key))} on sizes is not one of those that are stored")
    return table[key]
