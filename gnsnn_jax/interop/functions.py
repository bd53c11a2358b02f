"""Networks of the user's own: functions by name that return (apply, variables), and files that hold both."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.engine.arrays import known_to_jax
from gnsnn_jax.errors import InputError, nearest, printable, shown
from gnsnn_jax.interop.network_files import READERS, is_network_file, read_network_file
from gnsnn_jax.interop.torch_images import is_module, of_module

EXAMPLES = 2  # images that show what a network returns: more than one, so that it shows whether it keeps them apart
_LAYER_OF_KERAS = "Exception encountered when calling"
_NOT_THE_USERS = ("<", str(Path(__file__).parents[1]))


class OwnNetwork(NamedTuple):
    """`apply(variables, images)` returns outputs [batch, classes]; `variables` is any tree of arrays."""

    apply: Callable
    variables: Any


def is_own(name: str) -> bool:
    """Whether a model's name is that of a user's function or file."""
    return ":" in name or is_network_file(name)


@cache
def own_network(name: str) -> OwnNetwork:
    """Calls the function `package.module:function` of the installed packages or the working directory, or reads a
    file, once.

    Raises InputError where there is none, where it fails, and where it does not return a function and a tree
    of arrays.
    """
    return _checked(name, read_network_file(Path(name))) if is_network_file(name) else _returned(name)


def _returned(name: str) -> OwnNetwork:
    """What a user's function returns."""
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise InputError(
            f"a network of your own is named package.module:function, got {shown(name)}; or it is a file whose name "
            f"ends in {', '.join(READERS)}"
        )
    with _working_directory_first():
        return made_by(_function(_imported(module), function), name)


def made_by(make: Callable, name: str) -> OwnNetwork:
    """What a user's function returns, or a module of PyTorch that it returns on images.

    Raises InputError where it fails, and where it does not return a function and a tree of arrays.
    """
    with _explained(f"{name}()"):
        found = make()
    if is_module(found):
        found = of_module(found)
    if not isinstance(found, tuple) or len(found) != len(OwnNetwork._fields) or not callable(found[0]):
        raise InputError(
            f"{name} must return (apply, variables), a function and its weights, got {_shown(found)}; a "
            "torch.nn.Module is taken too"
        )
    return _checked(name, found)


def _checked(name: str, found: tuple[Callable, Any]) -> OwnNetwork:
    """Raises InputError unless the variables are a tree of arrays."""
    network = OwnNetwork(*found)
    _check_arrays(name, network.variables)
    return network


def check_outputs(name: str, network: OwnNetwork, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Raises InputError unless it makes an output for each class of images of this shape, in float32.

    One output tells two classes by its sign.
    """
    images = jax.ShapeDtypeStruct((EXAMPLES, *image_shape), jnp.float32)
    with _explained(f"apply of {name} on images {list(images.shape)}"):
        found = jax.eval_shape(network.apply, network.variables, images)
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != EXAMPLES:
        raise InputError(
            f"apply of {name} must return one array [batch, classes], got {_shown(found)} for images of shape "
            f"{list(images.shape)}"
        )
    if (2 if shape[1] == 1 else shape[1]) < num_classes:
        raise InputError(f"{name} has {shape[1]} outputs, too few for the {num_classes} classes of the data")


def by_path(variables: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their paths in it."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def with_arrays(name: str, arrays: Mapping[str, np.ndarray], network: OwnNetwork | None = None) -> Any:
    """The variables of a user's network with the arrays that `by_path` made of them; `own_network` of the name by
    default.

    Raises InputError where the function returns others by now.
    """
    variables = (network or own_network(name)).variables
    shapes = lambda arrays: {path: np.shape(array) for path, array in arrays.items()}
    if shapes(by_path(variables)) != shapes(arrays):
        raise InputError(f"{name} returns other variables than when this was stored; convert its network again")
    return jax.tree.unflatten(jax.tree.structure(variables), [arrays[path] for path in by_path(variables)])


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """As `python -m` finds modules: those of the user before those beside the script."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _imported(module: str) -> Any:
    try:
        with _explained(f"importing {module}"):
            return import_module(module)
    except InputError as error:
        missing = getattr(error.__cause__, "name", None)
        if isinstance(error.__cause__, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}."):
            raise InputError(
                f"there is no module {shown(missing)} for {shown(module)}; give package.module:function as Python "
                f"would import it from {printable(Path.cwd())}"
            ) from None
        raise


def _function(module: Any, name: str) -> Callable:
    found = getattr(module, name, None)
    if not callable(found):
        known = [each for each, value in vars(module).items() if callable(value)]
        raise InputError(f"{printable(module.__name__)} has no function {shown(name)}{nearest(name, known)}")
    return found


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises into one sentence with its place."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(_NOT_THE_USERS)]
        place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
        raise InputError(
            f"{printable(what)} raised {type(error).__name__}: {printable(_reason(error), 500)}{place}"
        ) from error


def _reason(error: BaseException) -> str:
    """The first paragraph of what an error says; of Keras, which names only the layer there, the second too."""
    paragraphs = str(error).split("\n\n")
    paragraphs = paragraphs[: 2 if paragraphs[0].startswith(_LAYER_OF_KERAS) else 1]
    return " ".join(re.sub(r"\x1b\[\d+m", "", " ".join(paragraphs)).split())


def _check_arrays(name: str, variables: Any) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    if not leaves:
        raise InputError(f"the variables of {name} hold no arrays; return the weights there, and let apply take them")
    for path, leaf in leaves:
        if not known_to_jax(leaf) or not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
            raise InputError(
                f"the variables of {name} hold {_shown(leaf)} at {printable(jax.tree_util.keystr(path))}, but only "
                "arrays of numbers can be stored; leave the rest to apply"
            )


def _shown(found: Any) -> str:
    """A value in few words."""
    if hasattr(found, "shape") and hasattr(found, "dtype"):
        return f"an array {found.dtype}{list(found.shape)}"
    if isinstance(found, tuple):
        return f"a tuple ({', '.join(type(each).__name__ for each in found)})"
    return "None" if found is None else f"an object of type {type(found).__name__}"
