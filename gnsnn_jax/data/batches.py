"""Batches, and splits in memory that give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gnsnn_jax._types import Int, Shaped

# Which samples of a split a step takes, by their numbers in the split; PADDING where it takes none. It decides alone
# what a step sees, so it is pure; streams also want it picklable and hashable, as frozen dataclasses are.
Order = Callable[[int], np.ndarray]

PADDING = -1  # the number of no sample, and the label of none


class Batch(NamedTuple):
    """Samples of one step. Where a label is PADDING there is none: its image is zeros, and it counts nowhere."""

    images: Shaped[np.ndarray, "B H W C"]
    labels: Int[np.ndarray, " B"]


class Split(NamedTuple):
    """Samples in memory."""

    images: Shaped[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    @property
    def image_dtype(self) -> np.dtype:
        return self.images.dtype

    def read(self, order: Order, steps: range) -> Iterator[Batch]:
        """The batches of the steps."""
        for step in steps:
            yield self.take(order(step))

    def take(self, indices: Int[np.ndarray, " B"]) -> Batch:
        """The samples of these numbers, zeros for PADDING."""
        batch = Batch(self.images[indices], self.labels[indices].astype(np.int32))
        batch.images[indices == PADDING] = 0
        batch.labels[indices == PADDING] = PADDING
        return batch
