"""What a run writes down as it goes: metrics.jsonl and event files for TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax.errors import InputError, extra, printable
from gnsnn_jax.runs.directories import EVENTS, METRICS
from gnsnn_jax.runs.stored import Epoch, parse_json


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The epochs in metrics.jsonl, without a last line that a killed run left unfinished.

    Args:
        workdir: a run directory.

    Returns:
        The fields of `Epoch` for each line; an empty list where there is no such file.

    Raises:
        InputError: for a line that is not the metrics of an epoch.
    """
    path = workdir / METRICS
    *lines, unfinished = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found = [_parsed(line, f"line {number} of {printable(path)}") for number, line in enumerate(lines, start=1)]
    with suppress(InputError):  # a line that is whole but for its end is an epoch too
        found.append(_parsed(unfinished, ""))
    return found


def _parsed(line: bytes, source: str) -> dict[str, Any]:
    return asdict(parse_json(line, Epoch, source, f"move {METRICS} away to go on without the epochs in it"))


class Records:
    """Adds epochs to what is there up to the epoch that the run goes on from; what is later will come again."""

    def __init__(self, workdir: Path, epoch: int, step: int):
        self.workdir, self.path = workdir, workdir / METRICS
        kept = [line for line in read_metrics(workdir) if line["epoch"] <= epoch]
        unfinished = self.path.with_suffix(".unfinished")
        # Slow, as tensorboardX imports PyTorch where there is one. Its SummaryWriter would write in a thread, which
        # prints what goes wrong and raises nothing.
        with extra("train"):
            from tensorboardX.event_file_writer import EventsWriter

        with self._writing():
            unfinished.write_text("".join(map(_line, kept)), encoding="utf-8")
            unfinished.replace(self.path)
            (workdir / EVENTS).mkdir(exist_ok=True)
            self.events = EventsWriter(str(workdir / EVENTS / "events"))
            self._purge(step + 1)

    def add(self, metrics: Mapping[str, Any], step: int, params: Any) -> None:
        """Writes an epoch. Raises InputError where there is no room."""
        with self._writing():
            with self.path.open("a", encoding="utf-8") as lines:
                lines.write(_line(metrics))
            for name, value in metrics.items():
                self._add_scalar(name, value, step)
            for name, threshold in thresholds(params).items():
                self._add_scalar(f"threshold/{name}", threshold, step)
            self.events.flush()

    def close(self) -> None:
        """Raises InputError where there is no room for what is left to write."""
        with self._writing():
            self.events.close()

    def _purge(self, step: int) -> None:
        """TensorBoard hides what earlier files have from this step on."""
        with extra("train"):
            from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self.events.write_event(Event(wall_time=time.time(), step=step, file_version="brain.Event:2"))
        self.events.write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def _add_scalar(self, name: str, value: float | int, step: int) -> None:
        with extra("train"):
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import scalar

        self.events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write to {self.workdir}: {error.strerror}; make room") from None


def thresholds(params: Any) -> dict[str, float]:
    """The threshold of each activation by its path, the mean where it has one for each channel."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *layer, last = (str(getattr(key, "key", key)) for key in path)
        if last == "threshold":
            found["/".join(layer)] = float(np.mean(leaf))
    return found


def _line(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics) + "\n"
