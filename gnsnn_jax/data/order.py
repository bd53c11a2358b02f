"""Which samples a process reads in each step: functions of the step alone, so that a run can go on anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax
import numpy as np

from gnsnn_jax._types import Int
from gnsnn_jax.data.batches import PADDING


@dataclass(frozen=True)
class Share:
    """The part of each batch that belongs to this process."""

    process: int = 0
    processes: int = 1

    def of(self, batch: Int[np.ndarray, "... B"]) -> Int[np.ndarray, "... b"]:
        size = batch.shape[-1] // self.processes
        return batch[..., self.process * size : (self.process + 1) * size]


def share_of_process() -> Share:
    return Share(jax.process_index(), jax.process_count())


@dataclass(frozen=True)
class ShuffledOrder:
    """Full batches in an order that depends on seed and epoch alone.

    A batch is cut into micro-batches before the processes share it, so that the computation is the
    same for any number of them.
    """

    count: int
    batch_size: int
    seed: int
    micro_batches: int = 1
    share: Share = Share()

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.batch_size

    def __call__(self, step: int) -> Int[np.ndarray, " b"]:
        """The samples of this process in a step of training, counted from 0; micro-batch after micro-batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        batch = _permutation(self.count, self.seed, epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        return self.share.of(batch.reshape(self.micro_batches, -1)).reshape(-1)


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng((seed, epoch + 1)).permutation(count)


@dataclass(frozen=True)
class FixedOrder:
    """Every sample once, one after another; the last batch is padded."""

    count: int
    batch_size: int
    share: Share = Share()

    @property
    def steps(self) -> int:
        return -(-self.count // self.batch_size)

    def __call__(self, step: int) -> Int[np.ndarray, " b"]:
        samples = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return self.share.of(np.where(samples < self.count, samples, PADDING))
