"""What a run writes down as it goes: metrics.jsonl and event files for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax.errors import InputError
from gnsnn_jax.runs.directories import EVENTS, METRICS


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The epochs in metrics.jsonl, without a last line that a killed run left unfinished."""
    path = workdir / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list(_parsed(lines))


def _parsed(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return


class Records:
    """Adds epochs to what is there up to the epoch that the run goes on from; what is later will come again."""

    def __init__(self, workdir: Path, epoch: int, step: int):
        self.path = workdir / METRICS
        kept = [line for line in read_metrics(workdir) if line["epoch"] <= epoch]
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text("".join(map(_line, kept)), encoding="utf-8")
        unfinished.replace(self.path)
        from tensorboardX import SummaryWriter  # slow, as it imports PyTorch where there is one

        self.events = SummaryWriter(str(workdir / EVENTS), purge_step=step + 1)

    def add(self, metrics: Mapping[str, Any], step: int, params: Any) -> None:
        """Writes an epoch. Raises InputError where there is no room."""
        try:
            with self.path.open("a", encoding="utf-8") as lines:
                lines.write(_line(metrics))
            for name, value in metrics.items():
                self.events.add_scalar(name, value, step)
            for name, threshold in thresholds(params).items():
                self.events.add_scalar(f"threshold/{name}", threshold, step)
            self.events.flush()
        except OSError as error:
            raise InputError(f"cannot write to {self.path.parent}: {error.strerror}; make room") from None

    def close(self) -> None:
        self.events.close()


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
