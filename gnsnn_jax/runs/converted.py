"""Converted networks as something callable that can be stored: model, folded weights, method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Shaped
from gnsnn_jax.conversion.corrections_by_site import checked_corrections
from gnsnn_jax.conversion.find_corrections import find_corrections
from gnsnn_jax.conversion.find_thresholds import find_thresholds
from gnsnn_jax.conversion.folding import fold_batch_norm
from gnsnn_jax.conversion.sites import sites
from gnsnn_jax.conversion.to_spiking import SpikingFunction, check_thresholds, to_spiking
from gnsnn_jax.data.sets import Dataset, Statistics, check_finite, normalise, training_images
from gnsnn_jax.errors import InputError, at_least_one, extra, listed, printable, shown
from gnsnn_jax.interop.functions import OwnNetwork, by_path, check_outputs, is_own, made_by, own_network, with_arrays
from gnsnn_jax.interop.network_files import OF_KERAS, is_network_file, program_from_json, program_to_json
from gnsnn_jax.method.corrections import Correction
from gnsnn_jax.method.methods import Method
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.directories import check_arrays_of
from gnsnn_jax.runs.network import apply_of, build_network
from gnsnn_jax.runs.stored import StoredNetwork, check_json
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.config import Model

with extra("train"):
    import flax.linen as nn

THRESHOLD_IMAGES = 2048  # at most so many of the training split tell the thresholds of ReLUs
# Images that tell the corrections, so many at a time: all steps of a layer are in memory together.
CORRECTION_IMAGES, CORRECTION_BATCH = 600, 200


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
    thresholds: Mapping[str, Any] | None = None
    corrections: Mapping[str, Correction] | None = None
    own_apply: Callable | None = None  # of a user's own network that was loaded

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

    def apply(self) -> Callable:
        """The network itself, a function of variables and normalised images."""
        return self.own_apply or apply_of(self.model, self.num_classes)

    def spiking(self, steps: int) -> SpikingFunction:
        """The function of variables and normalised images that runs over time."""
        method = self.method
        return to_spiking(
            self.apply(),
            method.neuron,
            steps=steps,
            calibration=method.calibration,
            thresholds=self.thresholds,
            corrections=self.corrections,
        )

    def save(self, path: str | Path) -> None:
        """Writes an Orbax checkpoint that `load_converted` reads."""
        about = {
            "model": asdict(self.model),
            "num_classes": self.num_classes,
            "image_shape": list(self.image_shape),
            "statistics": self.statistics._asdict(),
            "method": self.method.to_json(),
            "steps": self.steps,
            "thresholds": self.thresholds and {name: value.tolist() for name, value in self.thresholds.items()},
            "corrections": self.corrections and _listed(self.corrections),
        }
        is_users = is_own(self.model.name)
        if is_users and (program := program_to_json(self.apply(), self.image_shape)):
            model = replace(self.model, name=Path(self.model.name).name)
            about |= {"program": program, "model": asdict(model)}
        checkpoints.save(Path(path), by_path(self.variables) if is_users else self.variables, about)


@partial(jax.jit, static_argnames=("spiking", "statistics"))
def _outputs(spiking: SpikingFunction, statistics: Statistics, variables: Any, images: Array) -> Array:
    return spiking(variables, normalise(images, statistics))


def convert(model: Model, variables: Any, dataset: Dataset, method: Method, steps: int) -> ConvertedNetwork:
    """Pairs a trained network with a method; batch norms of the library's networks are folded.

    Args:
        model: the settings that name the network.
        variables: its trained variables.
        dataset: the data it was trained on.
        method: neuron, calibration and rule for thresholds.
        steps: the number of time-steps it runs by default.

    Returns:
        The spiking network; one of ReLUs has no thresholds yet, see `with_thresholds`.

    Raises:
        InputError: where the variables are not those of the model, and where the outputs of a user's own
            network do not fit the data.
    """
    converted = ConvertedNetwork(
        model, dataset.num_classes, dataset.image_shape, dataset.statistics, method, steps, variables
    )
    if is_own(model.name):
        network = OwnNetwork(converted.apply(), variables)
        check_outputs(model.name, network, dataset.image_shape, dataset.num_classes)
        return converted
    check_variables(variables, build_network(model, dataset.num_classes), dataset.image_shape, model.name)
    return replace(converted, variables=fold_batch_norm(variables))


def needs_thresholds(network: ConvertedNetwork) -> bool:
    """Whether it has activations whose thresholds are found from data."""
    example = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    return any(site.kind != "qcfs" for site in sites(network.apply(), network.variables, example))


def with_thresholds(
    networks: Sequence[ConvertedNetwork], dataset: Dataset, seed: int, batch_size: int
) -> list[ConvertedNetwork]:
    """One network converted by several methods, each with the thresholds that its rule finds.

    They are found from THRESHOLD_IMAGES training images without augmentation; those beyond the last full
    batch, if there is one, are left out.

    Args:
        networks: equal but for their methods.
        dataset: has the training images.
        seed: chooses the images.
        batch_size: images at a time.

    Returns:
        The networks in their order, with thresholds.
    """
    images = training_images(dataset, THRESHOLD_IMAGES, seed)
    search_of = lambda network: (network.method.rule, network.method.levels(network.steps), network.method.channel_axis)
    found = {}
    for search in dict.fromkeys(map(search_of, networks)):
        batches = _normalised_batches(images, dataset.statistics, batch_size)
        thresholds = _find(networks[0], batches, *search)
        found[search] = jax.tree.map(np.asarray, devices.agreed_arrays(thresholds))
    return [replace(network, thresholds=found[search_of(network)]) for network in networks]


def samples_for_thresholds(dataset: Dataset, batch_size: int) -> int:
    """How many training images `with_thresholds` finds thresholds from."""
    count = min(dataset.train.count, THRESHOLD_IMAGES)
    return count if count < batch_size else count - count % batch_size


def with_corrections(
    networks: Sequence[ConvertedNetwork], dataset: Dataset, seed: int, batch_size: int
) -> list[ConvertedNetwork]:
    """The networks, those whose method has a correction with what it finds for their `steps`.

    It is found from CORRECTION_IMAGES training images without augmentation.

    Args:
        networks: with thresholds, where they need some.
        dataset: has the training images.
        seed: chooses the images.
        batch_size: images at a time, at most CORRECTION_BATCH.

    Returns:
        The networks in their order.
    """
    images, batch_size = training_images(dataset, CORRECTION_IMAGES, seed), min(batch_size, CORRECTION_BATCH)
    batches = lambda: _normalised_batches(images, dataset.statistics, batch_size)
    return [_with_correction(each, batches()) if each.method.correction else each for each in networks]


def _with_correction(network: ConvertedNetwork, batches: Iterator[Array]) -> ConvertedNetwork:
    method = network.method
    spiking = replace(network.spiking(network.steps), calibration=None)
    axis = -1 if method.channel_axis is None else method.channel_axis
    found = find_corrections(spiking, batches, method=method.correction, variables=network.variables, channel_axis=axis)
    return replace(network, corrections=checked_corrections(devices.agreed_arrays(found)))


def _find(
    network: ConvertedNetwork, batches: Iterator[Array], rule: str, levels: int, channel_axis: int | None
) -> dict[str, Array]:
    find = partial(find_thresholds, network.apply(), batches, levels, method=rule, variables=network.variables)
    return find() if channel_axis is None else find(per_channel=True, channel_axis=channel_axis)


def _normalised_batches(images: np.ndarray, statistics: Statistics, batch_size: int) -> Iterator[Array]:
    for start in range(0, max(len(images) - batch_size, 0) + 1, batch_size):
        yield normalise(images[start : start + batch_size], statistics)


def check_variables(variables: Any, network: nn.Module, image_shape: tuple[int, ...], name: str) -> None:
    """Raises InputError that lists what the variables lack, have too much or in another shape."""
    wanted, given = _shapes_of(network, image_shape), _shapes(variables)
    differences = [
        f"{path} {given.get(path, 'missing')} instead of {wanted.get(path, 'nothing')}"
        for path in sorted(wanted.keys() | given.keys())
        if wanted.get(path) != given.get(path)
    ]
    if differences:
        raise InputError(
            f"the weights do not belong to {name} with images of shape {image_shape}: "
            f"{listed(differences, 3, separator='; ')}"
        )


@cache
def _shapes_of(network: nn.Module, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Those of the variables that a network has for images of this shape."""
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return _shapes(jax.eval_shape(network.init, jax.random.key(0), example))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def load_converted(path: str | Path, network: Callable | None = None, *, trust: bool = False) -> ConvertedNetwork:
    """Reads a converted network: `load_converted(path)(images)` gives outputs [T, B, K].

    A network of a user's own is the function that it was made of, with the weights that it had. The files name that
    function and do not hold it: it runs only if it is passed in, or if the files are trusted to name it. Networks
    of PyTorch and ONNX are held as lists of operations, and need neither code nor file nor these packages; one of
    Keras needs its file, at the place where convert.py found it, and the extra keras.

    Args:
        path: a directory that `ConvertedNetwork.save` or convert.py wrote.
        network: of a network of a user's own, the function that was given to convert.py as --network.
        trust: whether the function that the files name is imported, from the working directory or the installed
            packages, and called. Networks of this library and those in files, which hold no code, need none of it.

    Returns:
        The spiking network.

    Raises:
        InputError: where there is none, where it is damaged or does not fit its model, where it is made by a
            function of a user's own that is neither given nor trusted, and where that has changed.
    """
    arrays, about = checkpoints.load(Path(path))
    if "method" not in about:
        raise InputError(
            f"{printable(path)} is a checkpoint, but of no converted network; give one that convert.py wrote"
        )
    what = f"the network {printable(path)}"
    stored = check_json(about, StoredNetwork, f"what {what} says about itself", "convert it again")
    if stored.program and not network:
        own: OwnNetwork | None = OwnNetwork(program_from_json(stored.program, what), arrays)
    else:
        own = _own_network(stored.model.name, network, trust, what)
    return ConvertedNetwork(
        stored.model,
        stored.num_classes,
        stored.image_shape,
        _check_statistics(stored.statistics, stored.image_shape[-1], what),
        Method.from_json(stored.method),
        stored.steps,
        _checked_variables(stored, arrays, own, what),
        stored.thresholds and check_thresholds(stored.thresholds),
        _check_corrections(stored.corrections, what) if stored.corrections else None,
        own and own.apply,
    )


def _listed(corrections: Mapping[str, Correction]) -> dict[str, Any]:
    """Corrections as JSON holds them."""
    numbers = lambda each: {name: value.tolist() for name, value in each._asdict().items() if value is not None}
    return {name: numbers(each) for name, each in corrections.items()}


def _check_corrections(stored: Mapping[str, Any], what: str) -> dict[str, Correction]:
    try:
        return checked_corrections({name: Correction(**each) for name, each in stored.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} has damaged corrections ({printable(error)}); convert it again") from None


def _own_network(name: str, network: Callable | None, trust: bool, what: str) -> OwnNetwork | None:
    """The network of a user's own of this name, None for one of this library. Files of networks are read: their
    readers refuse code.

    Raises InputError for one that is neither given nor trusted.
    """
    if not is_own(name):
        if network:
            raise InputError(f"{what} is {printable(name)} of this library; leave out network")
        return None
    if network:
        return made_by(network, name)
    if is_network_file(name):
        return _own_file(name, what)
    if trust:
        return own_network(name)
    function = printable(name.rpartition(":")[2])
    raise InputError(
        f"{what} is made by {printable(name)}, code that is not stored in it; pass the function, "
        f"load_converted(..., network={function}), or trust=True, which imports and calls what the files name"
    )


def _own_file(name: str, what: str) -> OwnNetwork:
    if Path(name).exists():
        return own_network(name)
    needs = ", with the extra keras" if Path(name).suffix.lower() in OF_KERAS else ""
    raise InputError(
        f"{what} reads its layers from {printable(name)}{needs}, and there is no such file; put it back there, or "
        "convert it again from where it is"
    )


def _checked_variables(stored: StoredNetwork, arrays: Any, own: OwnNetwork | None, what: str) -> Any:
    """The variables of a stored network. Raises InputError where they are not those of its model."""
    check_arrays_of(stored.model.name, arrays, what)
    if own:
        return with_arrays(stored.model.name, arrays, own)
    network = build_network(stored.model, stored.num_classes)
    check_variables(arrays, network, stored.image_shape, stored.model.name)
    return arrays


def _check_statistics(statistics: Statistics, channels: int, what: str) -> Statistics:
    """Raises InputError unless there are a mean and a positive deviation for each channel."""
    if {len(values) for values in statistics} != {channels} or min(statistics.deviation) <= 0:
        raise InputError(
            f"{what} needs a mean and a positive deviation for each of {channels} channels, got "
            f"{shown(list(statistics.mean))} and {shown(list(statistics.deviation))}; convert it again"
        )
    return statistics
