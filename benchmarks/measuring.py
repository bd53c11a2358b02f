"""What the benchmarks share: the machine in words, and seconds of cases that take turns."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import jax

from gnsnn_jax.data.streaming import usable_cores

PROCESSORS = Path("/proc/cpuinfo")  # of Linux, which names the processor there


class Seconds(NamedTuple):
    """Of one case, in the order of the repeats: on the clock, and of processor time over all threads."""

    wall: list[float]
    processor: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    def ratio_to(self, other: Seconds) -> float:
        """The median over the repeats of the ratio within one repeat, so that a slow spell hits both."""
        return _median_ratio(self.wall, other.wall)

    def processor_ratio_to(self, other: Seconds) -> float:
        """The same in processor time, which other programs on the machine disturb less."""
        return _median_ratio(self.processor, other.processor)


def _median_ratio(these: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(these, others, strict=True))


def interleaved(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Seconds]:
    """Runs every case once to warm it up, then all of them in turn, `repeats` times; a case returns when it is done."""
    for run in cases.values():
        run()
    found = {name: Seconds([], []) for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            found[name].wall.append(time.perf_counter() - wall)
            found[name].processor.append(time.process_time() - processor)
    return found


def machine(packages: Sequence[str]) -> dict[str, str]:
    """Processor, device, threads and versions, for the head of a table."""
    return {
        "processor": f"{_processor()}, {usable_cores()} cores",
        "device": jax.devices()[0].device_kind,
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        "python": platform.python_version(),
        **{package: found for package in packages if (found := _version(package))},
    }


def _processor() -> str:
    known = PROCESSORS.read_text(encoding="utf-8").splitlines() if PROCESSORS.exists() else []
    names = [line.split(":", 1)[1].strip() for line in known if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def in_words(about: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())
