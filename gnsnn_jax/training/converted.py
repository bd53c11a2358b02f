"""Converted networks as something callable that can be stored: model, folded weights, method."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Shaped
from gnsnn_jax.conversion import SpikingFunction, to_spiking
from gnsnn_jax.errors import InputError, at_least_one
from gnsnn_jax.folding import fold_batch_norm
from gnsnn_jax.methods import Method
from gnsnn_jax.training import checkpoints
from gnsnn_jax.training.config import Model
from gnsnn_jax.training.data import Dataset, Statistics, check_finite, normalise
from gnsnn_jax.training.network import network_of


@dataclass(frozen=True, eq=False)
class ConvertedNetwork:
    """A spiking network: call it with images, get the outputs of each time-step."""

    model: Model
    num_classes: int
    image_shape: tuple[int, ...]
    statistics: Statistics
    method: Method
    steps: int
    variables: Any

    def __call__(
        self, images: Shaped[Array | np.ndarray, "B H W C"], steps: int | None = None
    ) -> Float[Array, "T B K"]:
        """Outputs of the time-steps 1..steps, to be summed; images in the data set's own pixel values.

        Raises InputError for images of another shape, for NaN, and for steps below 1.
        """
        steps = self.steps if steps is None else at_least_one("steps", steps)
        if np.shape(images)[1:] != self.image_shape or np.ndim(images) != 4:
            wanted = ", ".join(map(str, self.image_shape))
            raise InputError(f"this network takes images of shape [batch, {wanted}], got {np.shape(images)}")
        if not isinstance(images, jax.core.Tracer):
            check_finite(np.asarray(images), "the images")
        return _outputs(self.spiking(steps), self.statistics, self.variables, images)

    def network(self) -> nn.Module:
        return network_of(self.model, self.num_classes)

    def spiking(self, steps: int) -> SpikingFunction:
        """The function of variables and normalised images that runs over time."""
        neuron, calibration = self.method.make_neuron(), self.method.make_calibration()
        return to_spiking(self.network().apply, neuron, steps=steps, calibration=calibration)

    def save(self, path: str | Path) -> None:
        """Writes an Orbax checkpoint that `load_converted` reads."""
        about = {
            "model": asdict(self.model),
            "num_classes": self.num_classes,
            "image_shape": list(self.image_shape),
            "statistics": self.statistics._asdict(),
            "method": asdict(self.method),
            "steps": self.steps,
        }
        checkpoints.save(Path(path), self.variables, about)


@partial(jax.jit, static_argnames=("spiking", "statistics"))
def _outputs(spiking: SpikingFunction, statistics: Statistics, variables: Any, images: Array) -> Array:
    return spiking(variables, normalise(images, statistics))


def convert(model: Model, variables: Any, dataset: Dataset, method: Method, steps: int) -> ConvertedNetwork:
    """Folds the batch norms of a trained network and pairs it with a method.

    Raises InputError where the variables are not those of the model.
    """
    converted = ConvertedNetwork(
        model, dataset.num_classes, dataset.image_shape, dataset.statistics, method, steps, variables
    )
    check_variables(variables, converted.network(), dataset.image_shape, model.name)
    return replace(converted, variables=fold_batch_norm(variables))


def check_variables(variables: Any, network: nn.Module, image_shape: tuple[int, ...], name: str) -> None:
    """Raises InputError that lists what the variables lack, have too much or in another shape."""
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    wanted = _shapes(jax.eval_shape(network.init, jax.random.key(0), example))
    given = _shapes(variables)
    differences = [
        f"{path} {given.get(path, 'missing')} instead of {wanted.get(path, 'nothing')}"
        for path in sorted(wanted.keys() | given.keys())
        if wanted.get(path) != given.get(path)
    ]
    if differences:
        shown = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
        raise InputError(f"the weights do not belong to {name} with images of shape {image_shape}: {shown}")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def load_converted(path: str | Path) -> ConvertedNetwork:
    """Reads a converted network: `load_converted(path)(images)` gives outputs [T, B, K].

    Raises InputError where there is none, or where it is damaged.
    """
    variables, about = checkpoints.load(Path(path))
    if "method" not in about:
        raise InputError(f"{path} is a checkpoint, but of no converted network; give one that convert.py wrote")
    return ConvertedNetwork(
        Model(**about["model"]),
        about["num_classes"],
        tuple(about["image_shape"]),
        Statistics(*(tuple(about["statistics"][name]) for name in Statistics._fields)),
        Method(**about["method"]),
        about["steps"],
        variables,
    )
