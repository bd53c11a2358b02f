"""Networks in files of ONNX on the images of data sets, [B, H, W, C], and as JSON that is read without the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.interop.from_onnx import check_operators, evaluated, program_of
from gnsnn_jax.interop.image_axes import as_declared
from gnsnn_jax.interop.onnx_program import Graph, Program
from gnsnn_jax.interop.stored_programs import values_from_json, values_to_json


class OnnxImageNetwork:
    """`apply(variables, images)` of a network of ONNX, for images whose channels are last.

    Where the file states an input [B, C, H, W], images are transposed once, before the network: that is where its
    last axis is not as long as the channels of the images, or its second one is.

    Args:
        program: its operations, see `program_of`.
    """

    def __init__(self, program: Program):
        self._program = program

    def __call__(self, variables: Mapping[str, Any], images: Array | np.ndarray) -> Any:
        inputs = self._program.graph.inputs
        declared = inputs[0].shape if inputs else None
        return evaluated(self._program, variables, (as_declared(images, declared),))

    def to_json(self, image_shape: tuple[int, ...]) -> dict[str, Any]:
        """What computes on images, without weights and without the path of the file.

        Raises InputError where JSON does not hold an attribute of a node.
        """
        graph, variables, opset = self._program
        return {"graph": values_to_json(graph), "variables": list(variables), "opset": opset}

    @classmethod
    def from_json(cls, described: Mapping[str, Any], what: str) -> OnnxImageNetwork:
        """What `to_json` described. It calls nothing but functions of `OPERATORS`.

        Raises InputError where it was not `to_json` that described it, and for operators without a function.
        """
        try:
            graph, opset = values_from_json(described["graph"]), int(described["opset"])
            names = dict.fromkeys(map(str, described["variables"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{what} says {shown(str(error))} of its operations; convert it again") from error
        if not isinstance(graph, Graph):
            raise InputError(f"{what} says {shown(graph)} of its operations; convert it again")
        program = Program(graph, names, opset)
        check_operators(program)
        return cls(program)


def read_onnx(path: Path) -> tuple[Callable, dict[str, jax.Array]]:
    """The network in a file for data whose channels are last, [B, H, W, C], as data sets have them.

    Args:
        path: a file of ONNX.

    Returns:
        An `OnnxImageNetwork` and its variables, see `from_onnx`.

    Raises:
        As `from_onnx` does.
    """
    program, variables = program_of(path)
    return OnnxImageNetwork(program), variables
