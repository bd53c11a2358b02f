"""Splits that stay on disk: records read, decoded and cut to size by Grain while the device works."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax._types import Int
from gnsnn_jax.data.batches import PADDING, Batch, Order
from gnsnn_jax.data.images import Part, decode
from gnsnn_jax.data.prepared_folders import Records, allow_many_files
from gnsnn_jax.errors import InputError, extra

ROWS = 32  # samples that are decoded and handed over together: a step has several workers, and memory stays small
AHEAD = 2  # such pieces that each worker holds ready, and threads in which it decodes
SHARED_MEMORY = Path("/dev/shm")
# Signals that may go to all processes of a job, and that those which decode leave to their parent: it comes to the end
# of its step, saves and ends them.
FOR_PARENT = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples on disk: those of `records` at `indices`, of each a part at height, width and channels `image_shape`.

    The part of a sample is random by `seed`, the step and the number of the sample, and by nothing else.
    """

    records: Records
    indices: Int[np.ndarray, " N"]
    image_shape: tuple[int, int, int]
    part: Part
    seed: int
    workers: int  # processes; 0: threads of this one

    @property
    def count(self) -> int:
        return len(self.indices)

    @property
    def image_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def read(self, order: Order, steps: range) -> Iterator[Batch]:
        """The batches of the steps, decoded ahead of time; the workers end with the iterator.

        Raises InputError, with its number, for a record that is damaged, and where a worker process dies.
        """
        if not steps:
            return
        pieces = _Pieces(self, order, steps, size=len(order(steps[0])))
        decoded = iter(self._pipeline(pieces))
        try:
            for _ in steps:
                batch = self._empty(pieces.size)
                for start in range(0, pieces.size, ROWS):
                    batch.images[start : start + ROWS], batch.labels[start : start + ROWS] = _next(decoded)
                yield batch
        finally:
            decoded.close()
            del decoded
            if self.workers:
                gc.collect()  # frees shared memory that Grain's iterators hold in cycles, before the program may end

    def take(self, indices: Int[np.ndarray, " B"], step: int = 0) -> Batch:
        """The samples of these numbers as a step sees them, zeros for PADDING."""
        batch = self._empty(len(indices))
        for row in np.flatnonzero(indices != PADDING):
            batch.images[row], batch.labels[row] = self._sample(int(indices[row]), step)
        return batch

    def _empty(self, size: int) -> Batch:
        return Batch(np.zeros((size, *self.image_shape), np.uint8), np.full(size, PADDING, np.int32))

    def _sample(self, number: int, step: int) -> tuple[np.ndarray, int]:
        index = int(self.indices[number])
        data, label = self.records[index]
        try:
            return decode(data, self.image_shape, self.part, np.random.default_rng((self.seed, step, number))), label
        except Exception as error:  # whatever Pillow meets in a damaged image
            raise self.records.damaged(index, error) from None

    def _pipeline(self, pieces: _Pieces) -> Any:
        with extra("data"):
            import grain
            from absl import flags

        # Grain 0.2.18 reads a flag of its own, which a program that parses no flags has not parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        workers = min(self.workers, len(pieces))
        self._check_shared_memory(workers)
        threads = AHEAD if workers else usable_cores()
        return (
            grain.MapDataset.range(len(pieces))
            .map(pieces)
            .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
            .mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD),
                worker_init_fn=_start_worker,
            )
        )

    def _check_shared_memory(self, workers: int) -> None:
        """Raises InputError where it is too small for what workers hand over; they would die of it, without a word."""
        needed = workers * (AHEAD + 2) * ROWS * math.prod(self.image_shape)  # ready, in the making and being taken
        if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < needed:
            raise InputError(
                f"{workers} workers take {_mebibytes(needed)} MiB of shared memory, but {SHARED_MEMORY} has "
                f"{_mebibytes(free)} left; lower data.workers, or give the container more (docker run --shm-size)"
            )


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The batches of some steps in pieces of at most ROWS samples, as a function of their number."""

    stream: Stream
    order: Order
    steps: range
    size: int

    @property
    def per_step(self) -> int:
        return -(-self.size // ROWS)

    def __len__(self) -> int:
        return len(self.steps) * self.per_step

    def __call__(self, piece: int) -> Batch:
        number, part = divmod(piece, self.per_step)
        step = self.steps[number]
        return self.stream.take(_indices(self.order, step)[part * ROWS : (part + 1) * ROWS], step)


def _next(decoded: Iterator[Batch]) -> Batch:
    """Raises InputError where a worker did, or died; without the frames of the first error, which hold memory."""
    try:
        with _held_back(FOR_PARENT):
            return next(decoded)
    except InputError as error:
        reason = str(error)
    except RuntimeError as error:
        told = str(error).split(". ")[0]
        reason = f"a process that reads the data has died ({told}); if memory ran out, lower data.workers"
    raise InputError(reason)


@contextmanager
def _held_back(signals: Iterable[int]) -> Iterator[None]:
    """No process that is started within the context is reached by the signals, until it says itself what they do."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@lru_cache(maxsize=2 * AHEAD)
def _indices(order: Order, step: int) -> np.ndarray:
    """What an order says; kept, as the pieces of a step ask one after the other."""
    return order(step)


def _start_worker(worker: int, workers: int) -> None:
    """Makes a process that decodes leave accelerator and signals to its parent, and end when that ends."""
    jax.config.update("jax_platforms", "cpu")
    for number in FOR_PARENT:
        signal.signal(number, signal.SIG_IGN)
    allow_many_files()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its workers to stop, and they would wait for it for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _mebibytes(count: int) -> int:
    return math.ceil(count / 2**20)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
