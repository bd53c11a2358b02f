"""What training and converting a recipe will take, estimated before anything is trained: images, hours, disk."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.analysis.products import multiply_accumulates
from gnsnn_jax.data.sets import Dataset, Split, Statistics
from gnsnn_jax.report.published_figures import METHODS, STEPS, PublishedSet
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime.config import Config, Data
from gnsnn_jax.training.experiment import KEPT_STATES
from gnsnn_jax.training.loop import initial_state, make_plan

PASSES_OF_TRAINING = 3  # forward passes that take as long as forward and backward pass of an image
FLOP_OF_PRODUCT = 2  # a multiplication and an addition
TERAFLOPS = 10  # useful FLOP/s of a device, in units of 10^12: an assumption
HOW = (
    f"estimates, not measurements: an image takes {PASSES_OF_TRAINING} forward passes to train on and 1 to validate, a "
    f"test image {STEPS[-1]} for each method and those of the probe; a forward pass takes {FLOP_OF_PRODUCT} FLOP for "
    "each multiply-accumulate of the network; reading images is left out, and a small network reaches less of the "
    "speed of a device"
)


@dataclass(frozen=True)
class Cost:
    """What a recipe takes from its start to its table.

    Attributes:
        epochs: Of training.
        images: Read for training, all epochs together.
        multiply_accumulates: Of the network for one image, those with padding included.
        passes: Forward passes of one image, or what takes as long, those of validation and conversion included.
        disk: Bytes under the directory of the run, at most.
    """

    epochs: int
    images: int
    multiply_accumulates: int
    passes: int
    disk: int

    def hours(self, teraflops: int) -> float:
        """At so many useful 10^12 FLOP/s."""
        return FLOP_OF_PRODUCT * self.multiply_accumulates * self.passes / (teraflops * 1e12) / 3600


def cost_of(config: Config, dataset: Dataset, probe_steps: int) -> Cost:
    """Estimates what a recipe takes; nothing is computed on images.

        passes = 3 epochs train + epochs validation + test (1 + methods T + rho)

    Args:
        config: The settings.
        dataset: The data, or `unread` ones, of which the sizes alone matter.
        probe_steps: rho of the calibration.

    Raises:
        InputError: for settings that do not fit each other or the data.
    """
    plan, epochs = make_plan(config, dataset), config.training.epochs
    state = jax.eval_shape(lambda: initial_state(plan))
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
    network = build_network(config.model, dataset.num_classes)
    of_test = 1 + len(METHODS) * STEPS[-1] + probe_steps
    of_training = PASSES_OF_TRAINING * dataset.train.count + dataset.validation.count
    # One more of each while it is written; converted networks have the weights alone.
    states, best = (KEPT_STATES + 1) * _bytes(state), 2 * _bytes(state.kept)
    return Cost(
        epochs=epochs,
        images=epochs * dataset.train.count,
        multiply_accumulates=multiply_accumulates(network.apply, state.variables, image),
        passes=epochs * of_training + of_test * dataset.test.count,
        disk=states + best + len(METHODS) * _bytes(state.params),
    )


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def unread(known: PublishedSet, settings: Data) -> Dataset:
    """A published data set before it is there: sizes and shapes, with images of zeros that take no memory."""
    side = settings.image_size or known.side
    held = round(settings.validation_fraction * known.train)

    def split(count: int) -> Split:
        images = np.broadcast_to(np.uint8(0), (count, side, side, 3))
        return Split(images, np.broadcast_to(np.int32(0), count))

    return Dataset(
        settings.name, known.classes, split(known.train - held), split(held), split(known.test),
        Statistics((0.0,) * 3, (1.0,) * 3),
    )  # fmt: skip


def in_hours(hours: float) -> str:
    """Hours, or minutes where it is less than one."""
    if hours < 1 / 60:
        return "less than a minute"
    return f"{60 * hours:.2g} minutes" if hours < 1 else f"{hours:,.{int(hours < 10)}f} hours"


def in_bytes(count: int) -> str:
    """A number of bytes in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
