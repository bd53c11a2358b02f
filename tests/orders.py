"""Orders for streams; in a module of their own, as the processes that decode import it."""

import multiprocessing
import signal
from dataclasses import dataclass

import jax
import numpy as np

from gnsnn_jax.errors import InputError


@dataclass(frozen=True)
class Shuffled:
    """`size` samples of `count` at random by the step, of which a process takes every `processes`-th from `process`."""

    count: int
    size: int
    process: int = 0
    processes: int = 1

    def __call__(self, step: int) -> np.ndarray:
        whole = np.random.default_rng(step).permutation(self.count)[: self.size]
        return whole[self.process :: self.processes]


@dataclass(frozen=True)
class Watching:
    """Raises in a process that decodes unless it leaves accelerator and signals to its parent."""

    def __call__(self, step: int) -> np.ndarray:
        if multiprocessing.parent_process() is not None:
            ignored = [signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM)]
            kept_away = jax.config.jax_platforms == "cpu", *ignored
            if not all(kept_away):
                raise InputError(f"accelerator and signals kept away: {kept_away}")
        return np.arange(2)
