"""Networks in files of Keras: .keras, and .h5 or .hdf5 of older versions."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from gnsnn_jax.errors import InputError, extra, listed, printable, shown

_RUNS_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")  # classes that load code or other files
_SEED = "seed_generator_state"  # of dropout: unused in inference, and under another name each time a file is read
_OWN_FUNCTION = "build the network in a function of your own, package.module:function, which returns (apply, variables)"


def read_keras(path: Path) -> tuple[Callable, dict[str, Any]]:
    """Reads a Keras model that was saved whole, and runs no code that the file names.

    Args:
        path: a file that `model.save` wrote.

    Returns:
        `apply(variables, inputs)`, the model in inference mode, and its variables by their paths in Keras, such as
        "dense/kernel".

    Raises:
        MissingPackage: where Keras is not installed.
        InputError: where Keras runs on another backend than JAX, where the file is damaged or holds weights alone,
            and where it names layers that are not Keras's own, or code.
    """
    keras = _keras(path)
    _refuse_code(path)
    try:
        return as_function(keras.saving.load_model(path, compile=False, safe_mode=True))
    except Exception as error:  # whatever Keras meets in a file that is not its own, or of another version
        raise _unreadable(path, error) from error


def as_function(model: Any) -> tuple[Callable, dict[str, Any]]:
    """A Keras model in inference mode as a function of its variables and its inputs, and these variables by path.

    Args:
        model: a `keras.Model` whose variables exist.

    Returns:
        `apply(variables, inputs)` and the variables.
    """
    trainable, others = model.trainable_variables, model.non_trainable_variables
    seeds = {index: each.value for index, each in enumerate(others) if each.path.endswith(_SEED)}
    parts = trainable, [each for each in others if not each.path.endswith(_SEED)]
    paths = _numbered(each.path for part in parts for each in part)

    def apply(variables: dict[str, Any], inputs: Any) -> Any:
        values = [variables[path] for path in paths]
        state = values[len(trainable) :]
        for index, seed in seeds.items():
            state.insert(index, seed)
        return model.stateless_call(values[: len(trainable)], state, inputs, training=False)[0]

    return apply, dict(zip(paths, (each.value for part in parts for each in part), strict=True))


def _numbered(paths: Iterable[str]) -> list[str]:
    """The paths with a number at each that occurs again, as layers of two inner models may have one name."""
    taken: Counter[str] = Counter()

    def name(path: str) -> str:
        taken[path] += 1
        return path if taken[path] == 1 else f"{path}#{taken[path]}"

    return list(map(name, paths))


def _keras(path: Path) -> ModuleType:
    """Keras on the JAX backend, which is chosen when it is first imported."""
    given = os.environ.get("KERAS_BACKEND")
    if "keras" not in sys.modules and given is None:
        os.environ["KERAS_BACKEND"] = "jax"
    try:
        with extra("keras", f"reading {printable(path)}, a network of Keras,"):
            import keras
    finally:
        if given is None:
            os.environ.pop("KERAS_BACKEND", None)
    if keras.backend.backend() != "jax":
        raise InputError(
            f"Keras runs on {keras.backend.backend()} here, not on JAX; set KERAS_BACKEND=jax before it is imported"
        )
    return keras


def _refuse_code(path: Path) -> None:
    """Raises InputError where the configuration names code, or anything that is not Keras's own."""
    try:
        config = _config(path)
    except InputError:
        raise
    except Exception as error:  # whatever is wrong with a file that is not one of Keras
        raise _unreadable(path, error) from error
    if code := list(dict.fromkeys(_code(config))):
        raise InputError(f"{printable(path)} names code ({listed(code, 3)}), which is not run; {_OWN_FUNCTION}")


def _config(path: Path) -> Any:
    if path.suffix.lower() == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    with extra("keras", f"reading {printable(path)}, a network of Keras,"):
        import h5py
    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise InputError(
                f"{printable(path)} holds weights alone, without the layers; save the model whole, by model.save"
            )
        return json.loads(file.attrs["model_config"])


def _code(config: Any) -> Iterator[str]:
    """Names of what is not Keras's own, and of what loads code, in the order of the configuration."""
    if isinstance(config, list):
        for each in config:
            yield from _code(each)
    if isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module")
        of_keras = module in (None, "builtins", "keras") or str(module).startswith("keras.")
        if name in _RUNS_CODE or not of_keras:
            yield f"{name} of {shown(module)}" if module else f"{name}"
        for each in config.values():
            yield from _code(each)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return InputError(
        f"{printable(path)} cannot be read as a model of Keras ({printable(reason)}); save it again, by model.save"
    )
