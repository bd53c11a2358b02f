"""Programs of `torch.export`, read into what needs no PyTorch any more: operations, their places and arrays."""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.engine.arrays import as_array, first_line, is_array
from gnsnn_jax.errors import InputError, extra, listed, shown
from gnsnn_jax.interop.torch_files import loaded

Arrays = dict[str, Any]  # of NumPy as they are read, of JAX as they are used


class Reference(NamedTuple):
    """Stands among the arguments of a call for a value of the program."""

    name: str


class Place(NamedTuple):
    """Where a call stands in the user's PyTorch code.

    modules   the path of its module, ("layer1", "0", "relu")
    kind      the class of that module
    file      and `line`, of the innermost code outside of PyTorch; "" where it is not known
    """

    modules: tuple[str, ...] = ()
    kind: str = ""
    file: str = ""
    line: int = 1

    def __str__(self) -> str:
        lines = f" ({self.file}:{self.line})" if self.file else ""
        return f"{'.'.join(self.modules) or self.kind or 'the network'}{lines}"


class Call(NamedTuple):
    """One operation: its name in PyTorch, "relu" or "max.dim", or a function of Python on sizes."""

    result: str
    operation: str | Callable
    args: Any
    kwargs: Mapping[str, Any]
    place: Place


class Input(NamedTuple):
    """An input by the name of its value, and its shape with None for an axis of any length; no shape for numbers."""

    name: str
    shape: tuple[int | None, ...] | None


class Program(NamedTuple):
    """A network as PyTorch exports it.

    calls        in the order of evaluation
    inputs       the leaves of the arguments
    arguments    (args, kwargs) of the example, with the numbers of their leaves in place of these
    outputs      what the module returns, with references and constants in place of its arrays
    variables    arrays of floating point that the calls read, by their names in `state_dict`
    names        of the variables, by the names of their values
    constants    all other arrays, by the names of their values
    """

    calls: tuple[Call, ...]
    inputs: tuple[Input, ...]
    arguments: Any
    outputs: Any
    variables: Arrays
    names: dict[str, str]
    constants: Arrays


def imported_torch() -> ModuleType:
    with extra("torch", "from_torch", "best after PyTorch's CPU build"):
        import torch.export
    return torch


def exported(module: Any, example: tuple) -> Any:
    """The `torch.export.ExportedProgram` of a module, of a file or of itself, in the operations of core ATen.

    Raises InputError for training mode, a missing example, what `torch.export` refuses, and anything else.
    """
    torch = imported_torch()
    if isinstance(module, str | Path):
        with _quiet():
            module = loaded(torch, Path(module))
    if isinstance(module, torch.nn.Module):
        module = _export(torch, module, example)
    if not isinstance(module, torch.export.ExportedProgram):
        raise InputError(
            f"from_torch takes a torch.nn.Module, an ExportedProgram or the path of a .pt2 file, got {shown(module)}"
        )
    with _quiet(), _explained("decomposing the exported program"):
        return module.run_decompositions(_decompositions(torch))


# Kept whole, as JAX has them, or as their parts would hide what they are.
_WHOLE = (
    "linear scaled_dot_product_attention silu hardswish hardsigmoid mish softplus roll adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d"  # whose parts would be strides in memory, which arrays of JAX do not have
).split()

_TAKEN_APART = ["grid_sampler_2d"]  # beyond what core ATen takes apart


def _decompositions(torch: ModuleType) -> Any:
    table = torch.export.default_decompositions()
    table.update(torch._decomp.get_decompositions([getattr(torch.ops.aten, name) for name in _TAKEN_APART]))
    for name in _WHOLE:
        table.pop(getattr(torch.ops.aten, name).default, None)
    return table


def check_inference(module: Any) -> None:
    """Raises InputError for a module in training mode."""
    if any(each.training for each in module.modules()):
        raise InputError(
            "the module is in training mode; call module.eval() first, so that norms and dropout are fixed"
        )


def _export(torch: ModuleType, module: Any, example: tuple) -> Any:
    """The exported module, with the first axis of all inputs free where `torch.export` allows."""
    check_inference(module)
    if not example:
        raise InputError("from_torch(module, *example) needs an example of each input, such as one batch of images")
    tensors = torch.utils._pytree.tree_map(lambda leaf: _tensor(torch, leaf), tuple(example))
    for inputs in (_more_than_one(torch, tensors), tensors):
        try:
            found = _exported_freely(torch, module, inputs)
        except Exception as error:  # whatever the user's module raises
            refused = error
        else:
            _warn_of_fixed_batch(found)
            return found
    raise InputError(f"torch.export could not export the module{_own_line(refused)}: {_reason(refused)}") from refused


def _own_line(error: Exception) -> str:
    """The innermost line of the traceback that is not PyTorch's."""
    file, line = _innermost([(each.filename, each.lineno or 1) for each in traceback.extract_tb(error.__traceback__)])
    return f" ({file}:{line})" if Path(file).resolve().parent != Path(__file__).resolve().parent else ""


def _reason(error: Exception) -> str:
    if any(kind.__name__ == "GuardOnDataDependentSymNode" for kind in type(error).__mro__):
        return "its code decides by the values of a tensor there; compute all cases and choose by torch.where"
    return first_line(error)


def _tensor(torch: ModuleType, leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) or not is_array(leaf):
        return leaf
    return torch.from_numpy(np.array(as_array(leaf)))


def _more_than_one(torch: ModuleType, tensors: tuple) -> tuple:
    """The example with a batch of one repeated: `torch.export` takes the length 1 for a fixed one."""
    repeated = lambda x: torch.cat([x, x]) if isinstance(x, torch.Tensor) and x.shape[:1] == (1,) else x
    return torch.utils._pytree.tree_map(repeated, tensors)


def _exported_freely(torch: ModuleType, module: Any, inputs: tuple) -> Any:
    is_batch = lambda x: isinstance(x, torch.Tensor) and x.ndim > 0
    free = torch.utils._pytree.tree_map(lambda x: {0: torch.export.Dim.AUTO} if is_batch(x) else None, inputs)
    with _quiet(), _masks_as_given(torch), torch.enable_grad():  # with gradients, encoders take no fused path
        return torch.export.export(module, inputs, dynamic_shapes=_of_forward(module, free), strict=False)


def _of_forward(module: Any, free: tuple) -> Any:
    """Shapes of the positional arguments, as a module whose `forward` has *args wants them."""
    code = getattr(module.forward, "__code__", None)
    takes_any = code is not None and code.co_flags & 0x04 and code.co_argcount <= 1
    return (free,) if takes_any else free


def _warn_of_fixed_batch(program: Any) -> None:
    first = next((each for each in _inputs(program) if each.shape), None)
    if first and first.shape[0] is not None:
        warnings.warn(
            f"torch.export fixed the first axis of {first.name} at {first.shape[0]}, so that the network takes batches "
            "of this length alone; sizes written into the module's code as numbers do that",
            stacklevel=4,
        )


@contextmanager
def _masks_as_given(torch: ModuleType) -> Iterator[None]:
    """Transformers of PyTorch test whether a mask is causal by its values, to choose a faster path by it; an exported
    program cannot, and without it they apply the mask that they are given."""
    transformer = torch.nn.modules.transformer
    with mock.patch.object(
        transformer, "_detect_is_causal_mask", lambda mask, is_causal=None, size=None: is_causal is True, create=True
    ):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Around PyTorch's own use of what it has deprecated, what it says of its recurrent layers, and the program that
    it prints before an error."""
    log = logging.getLogger("torch")
    level = log.level
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        log.setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")
        try:
            yield
        finally:
            log.setLevel(level)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of PyTorch, which has no common class of them
        raise InputError(f"{what} failed: {first_line(error)}") from error


def read(program: Any) -> Program:
    """The operations, inputs, outputs and arrays of an exported program in core ATen.

    Raises InputError for a program that changes its buffers, as one exported in training mode does.
    """
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        raise InputError(f"the exported program changes {listed(changed)}; export the module in eval mode")
    nodes = list(program.graph.nodes)
    arrays = {name: source for name, source in _arrays(program) if _is_used(nodes, name)}
    variables = {path: array for path, array in arrays.values() if path and jnp.issubdtype(array.dtype, jnp.floating)}
    (output,) = (_read(node.args[0]) for node in nodes if node.op == "output")
    inputs = tuple(_inputs(program))
    return Program(
        tuple(_call(node) for node in nodes if node.op == "call_function"),
        inputs,
        _containers(range(len(inputs)), program.call_spec.in_spec),
        _containers(output, program.call_spec.out_spec),
        variables,
        {name: path for name, (path, _) in arrays.items() if path in variables},
        {name: array for name, (path, array) in arrays.items() if path not in variables},
    )


def _containers(leaves: Sequence[Any], structure: Any) -> Any:
    leaves = list(leaves)
    whole = in_plain_containers(imported_torch().utils._pytree.tree_unflatten(leaves, structure))
    is_leaf = lambda each: each is None or isinstance(each, Reference)
    for each in jax.tree.leaves(whole, is_leaf=is_leaf):
        if not any(each is leaf for leaf in leaves):
            raise InputError(
                f"the module takes or returns an object of class {type(each).__name__}; use tuples, lists or "
                "dictionaries"
            )
    return whole


def in_plain_containers(value: Any) -> Any:
    """With a dictionary in place of each mapping, such as those of a user's class."""
    if isinstance(value, Reference):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(in_plain_containers, value))
    if isinstance(value, list | tuple):
        return type(value)(map(in_plain_containers, value))
    if isinstance(value, Mapping):
        return {name: in_plain_containers(each) for name, each in value.items()}
    return value


def _is_used(nodes: Sequence[Any], name: str) -> bool:
    return any(node.users for node in nodes if node.op == "placeholder" and node.name == name)


def _arrays(program: Any) -> Iterator[tuple[str, tuple[str | None, np.ndarray]]]:
    """Of each array that is no input the name of its value, its name in `state_dict`, if it has one, and itself."""
    for spec in program.graph_signature.input_specs:
        if spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            held = program.state_dict if spec.target in program.state_dict else program.constants
            path = None if spec.kind.name == "CONSTANT_TENSOR" else spec.target
            yield spec.arg.name, (path, array_of(held[spec.target]))


def array_of(tensor: Any) -> np.ndarray:
    """The values of a tensor in the type that JAX has for it."""
    tensor = tensor.detach().cpu()
    dtype = dtype_of(tensor.dtype)
    values = tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy()  # NumPy lacks bfloat16
    return np.array(values, dtype)


def dtype_of(dtype: Any) -> np.dtype:
    """The type that JAX computes in where PyTorch has this one: float32 for float64 unless 64 bits are enabled."""
    return jax.dtypes.canonicalize_dtype(jnp.dtype(str(dtype).removeprefix("torch.")))


def _inputs(program: Any) -> Iterator[Input]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            shape = getattr(values.get(spec.arg.name), "shape", None)
            yield Input(spec.arg.name, None if shape is None else tuple(map(_length, shape)))


def _length(size: Any) -> int | None:
    """None for a length that is a symbol; one that was fixed on the way still has a symbol's type."""
    return int(size) if str(size).isdecimal() else None


def _call(node: Any) -> Call:
    return Call(node.name, _operation(node.target), _read(node.args), _read(node.kwargs), _place(node))


def _operation(target: Any) -> str | Callable:
    """ "max.dim" of aten, "library::name" of others, "sym_float" of PyTorch's own functions on sizes; all other
    functions on sizes are those of Python."""
    if getattr(target, "__module__", "") in ("_operator", "math", "builtins"):
        return target
    name = target.name() if hasattr(target, "_schema") else getattr(target, "__name__", str(target))
    return name.removeprefix("aten::")


def _read(argument: Any) -> Any:
    """An argument without objects of PyTorch: nodes as references, types as those of JAX, devices and such as None."""
    if isinstance(argument, list | tuple):
        return type(argument)(map(_read, argument)) if type(argument) in (list, tuple) else [*map(_read, argument)]
    if isinstance(argument, Mapping):
        return {name: _read(value) for name, value in argument.items()}
    if isinstance(argument, slice):
        return slice(_read(argument.start), _read(argument.stop), _read(argument.step))
    if type(argument).__module__.startswith("torch.fx"):
        return Reference(argument.name) if hasattr(argument, "op") else [*map(_read, argument)]
    if type(argument).__module__.startswith("torch"):
        return dtype_of(argument) if type(argument).__name__ == "dtype" else None
    return argument


def _place(node: Any) -> Place:
    path, kind = [("", ""), *_modules(node)][-1]
    modules = tuple(part.partition("@")[0] for part in path.split(".") if part)
    return Place(modules, kind.rpartition(".")[2], *_line(node.meta.get("stack_trace") or ""))


def _modules(node: Any) -> list[tuple[str, str]]:
    """Path and class of the modules around a node, outermost first."""
    stack = (node.meta.get("nn_module_stack") or {}).values()
    return [(path, kind if isinstance(kind, str) else kind.__name__) for path, kind in stack if "hook" not in path]


def _line(trace: str) -> tuple[str, int]:
    """File and line of the innermost code in a stack trace."""
    return _innermost([(file, int(line)) for file, line in re.findall(r'File "(.+?)", line (\d+)', trace)])


def _innermost(frames: Sequence[tuple[str, int]]) -> tuple[str, int]:
    """The last of the frames that is not PyTorch's, else the last one at all."""
    own = [frame for frame in frames if "/torch/" not in Path(frame[0]).as_posix()]
    return next(reversed(own or frames), ("", 1))
