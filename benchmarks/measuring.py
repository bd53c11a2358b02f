"""What the benchmarks share: seconds of cases that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


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
