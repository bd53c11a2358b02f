"""Ctrl-C and the end of a job's time: noticed between two steps, so that the state can be saved."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within the context, the first signal is kept in `received`; a second one acts as it always does."""

    received: int | None = None

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *error) -> None:
        self._restore()
