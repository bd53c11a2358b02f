"""One experiment from its configuration to its summary, with what a person sees on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax.command_line import progress_bar
from gnsnn_jax.training.config import Config
from gnsnn_jax.training.data import Dataset
from gnsnn_jax.training.loop import Epoch, evaluate, steps_per_epoch, train
from gnsnn_jax.training.network import network_of
from gnsnn_jax.training.runs import SUMMARY, append_metrics, save_best, summary, write_json


def run_experiment(workdir: Path, config: Config, dataset: Dataset, started: float) -> dict[str, Any]:
    """Trains, keeps the best epoch by validation accuracy (by loss among equals), tests it once."""
    best: Epoch | None = None
    network = network_of(config.model, dataset.num_classes)
    steps = config.training.epochs * steps_per_epoch(config, dataset)
    with progress_bar() as bar:
        task = bar.add_task("training", total=steps, note="")
        for epoch in train(config, dataset, on_step=lambda: bar.advance(task)):
            bar.update(task, note=_note(epoch))
            append_metrics(workdir, _metrics(epoch, started))
            if best is None or _rank(epoch) > _rank(best):
                best = epoch._replace(variables=jax.tree.map(np.asarray, epoch.variables))
                save_best(workdir, epoch.number, best.variables, {"validation_accuracy": epoch.validation_accuracy})
    _, test_accuracy = evaluate(network, best.variables, dataset.test, dataset.statistics)
    found = summary(
        config,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(best.variables["params"])),
        best_epoch=best.number,
        validation_accuracy=best.validation_accuracy,
        test_accuracy=test_accuracy,
        test_samples=len(dataset.test.labels),
        seconds=time.perf_counter() - started,
    )
    write_json(workdir / SUMMARY, found)
    return found


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.validation_accuracy, -epoch.validation_loss


def _note(epoch: Epoch) -> str:
    return f"loss {epoch.train_loss:.4f}  val {100 * epoch.validation_accuracy:.1f} %"


def _metrics(epoch: Epoch, started: float) -> dict[str, Any]:
    numbers = {name: value for name, value in epoch._asdict().items() if name not in ("number", "variables")}
    return {"epoch": epoch.number, **numbers, "seconds": time.perf_counter() - started}
