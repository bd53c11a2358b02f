"""One experiment from its configuration to its summary, saved on the way so that it can go on from there."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax.data.sets import Dataset
from gnsnn_jax.errors import InputError
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.checkpoints import Checkpoints
from gnsnn_jax.runs.directories import CHECKPOINTS, STATE, SUMMARY, best_checkpoint, summary, write_json
from gnsnn_jax.runs.network import network_of
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.command_line import Interrupted, console, progress_bar, resume_command
from gnsnn_jax.runtime.config import Config
from gnsnn_jax.runtime.signals import Interrupts
from gnsnn_jax.training.loop import Plan, State, evaluate, initial_state, make_plan, train
from gnsnn_jax.training.records import Records, read_metrics

KEPT_STATES = 2  # one to fall back on where the newest is damaged
REFRESH_SECONDS = 0.5  # between two looks at the loss, each of which waits for the device
STEPS_BETWEEN_TALKS = 20  # of several processes about saving and stopping


def run_experiment(workdir: Path, config: Config, dataset: Dataset, started: float) -> dict[str, Any]:
    """Trains, keeps the best epoch by validation accuracy (by loss among equals), tests it once.

    Goes on from the newest state in the run directory, if there is one, as if it had never stopped.
    Raises Interrupted after a signal, with the state saved, and InputError when the loss is no
    number or nothing can be written.
    """
    network = network_of(config.model, dataset.num_classes)
    if not (workdir / SUMMARY).exists():
        with ExitStack() as stack:
            experiment = _Experiment(workdir, make_plan(config, dataset), dataset, started, stack)
            for state in train(experiment.plan, dataset, experiment.state):
                experiment.after_step(state)
        variables, about = checkpoints.load(best_checkpoint(workdir))
        _, test_accuracy = evaluate(network, variables, dataset.test, dataset.statistics)
        found = summary(
            config,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
            best_epoch=about["epoch"],
            validation_accuracy=about["validation_accuracy"],
            test_accuracy=test_accuracy,
            test_samples=dataset.test.count,
            seconds=experiment.seconds(),
        )
        devices.in_first(lambda: write_json(workdir / SUMMARY, found))
    return json.loads((workdir / SUMMARY).read_text(encoding="utf-8"))


class _Experiment:
    """What is written and shown between the steps of training."""

    def __init__(self, workdir: Path, plan: Plan, dataset: Dataset, started: float, stack: ExitStack):
        self.workdir, self.plan, self.dataset = workdir, plan, dataset
        self.network = network_of(plan.config.model, dataset.num_classes)
        self.states = stack.enter_context(Checkpoints(workdir / STATE, KEPT_STATES))
        self.best = stack.enter_context(Checkpoints(workdir / CHECKPOINTS))
        self.state = _restored(self.states, plan)
        self.step = int(self.state.step)
        self.best_rank = _rank_of_best(self.best)
        epoch = self.step // plan.order.steps_per_epoch
        before = read_metrics(workdir)[:epoch]
        self.started = started - (before[-1]["seconds"] if before else 0)
        self.records = None
        if devices.is_first():
            self.records = Records(workdir, epoch, self.step)
            stack.callback(self.records.close)
        bar = stack.enter_context(progress_bar())
        self.bar, self.task = bar, bar.add_task("training", total=plan.steps, completed=self.step, note="")
        self.validation = ""  # accuracy, as it is shown
        self.shown_at, self.shown_step = time.perf_counter(), self.step
        self.saved_at = time.perf_counter()
        self.interrupts = stack.enter_context(Interrupts())
        if not self.states.numbers():
            self._save(self.state)  # which also finds out now whether anything can be written

    def seconds(self) -> float:
        """Of training, those before it was interrupted included."""
        return time.perf_counter() - self.started

    def after_step(self, state: State) -> None:
        self.step += 1
        self.bar.advance(self.task)
        is_end = self.step % self.plan.order.steps_per_epoch == 0
        if is_end:
            self._end_epoch(state)
        if time.perf_counter() > self.shown_at + REFRESH_SECONDS:
            self._show(state)
        if is_end or jax.process_count() == 1 or self.step % STEPS_BETWEEN_TALKS == 0:
            self._save_or_stop(state)

    def _save_or_stop(self, state: State) -> None:
        asked = devices.anywhere(self.interrupts.received is not None)
        is_due = time.perf_counter() >= self.saved_at + self.plan.config.training.save_seconds
        if asked or self.step == self.plan.steps or devices.agreed(is_due):
            self._save(state)
        if asked and self.step < self.plan.steps:
            self.states.wait()
            # Another process may have been the one that was asked.
            raise Interrupted(
                f"stopped after step {self.step} of {self.plan.steps} with the state saved; "
                f"to go on: {resume_command(self.workdir)}",
                self.interrupts.received or signal.SIGTERM,
            )

    def _end_epoch(self, state: State) -> None:
        self._check(state)
        epoch = self.step // self.plan.order.steps_per_epoch
        loss, accuracy = state.metrics.mean()
        validation_loss, validation_accuracy = evaluate(
            self.network, state.kept, self.dataset.validation, self.dataset.statistics
        )
        metrics = {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "learning_rate": float(self.plan.schedule(self.step)),
            "seconds": self.seconds(),
        }
        if self.records:
            self.records.add(metrics, self.step, state.params)
        self.validation = f"val {100 * validation_accuracy:.1f}% "
        if self.best_rank is None or _rank(metrics) > self.best_rank:
            self.best_rank = _rank(metrics)
            self.best.save(epoch, state.kept, metrics)

    def _show(self, state: State) -> None:
        self._check(state)
        loss, accuracy = state.metrics.mean()
        now = time.perf_counter()
        speed = (self.step - self.shown_step) * self.plan.config.training.batch_size / (now - self.shown_at)
        self.shown_at, self.shown_step = now, self.step
        note = f"loss {loss:.4f} acc {100 * accuracy:.1f}% {self.validation}{speed:,.0f} img/s"
        self.bar.update(self.task, note=note)

    def _check(self, state: State) -> None:
        """Raises InputError once the loss is no number, with the state before that saved."""
        if state.is_finite:
            return
        good = int(state.step)
        self._write(good, state._replace(is_finite=np.asarray(True)))
        self.states.wait()
        epoch = good // self.plan.order.steps_per_epoch + 1
        raise InputError(
            f"the loss or its gradient is no number in step {good + 1} (epoch {epoch}); the last good state is "
            f"{self.states.path(good)}, and a lower optimizer.learning_rate or model.threshold in a new run may help"
        )

    def _save(self, state: State) -> None:
        self._check(state)
        self._write(self.step, state)

    def _write(self, step: int, state: State) -> None:
        """Saves a state in the background, once all that it goes on from has been written."""
        self.best.wait()
        paths, _ = jax.tree_util.tree_flatten_with_path(state)
        self.states.save(step, {_name(path): leaf for path, leaf in paths}, {"step": step})
        self.saved_at = time.perf_counter()


def _restored(states: Checkpoints, plan: Plan) -> State:
    """The newest state that is whole, or the initial one where none has been saved; removes damaged ones.

    Raises InputError where all that were saved are damaged, unless it is the initial one alone.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(initial_state(plan))
    damaged = []
    for number in states.numbers():
        try:
            arrays, _ = checkpoints.load(states.path(number))
        except InputError as error:
            damaged.append(number)
            console.print(f"{error}", soft_wrap=True)
            continue
        _remove(states, damaged)
        console.print(f"going on after step {number} of {plan.steps}")
        return jax.tree.unflatten(structure, [arrays[_name(path)] for path, _ in paths])
    if any(damaged):
        raise InputError(f"no state under {states.directory} is whole; start a new run with another --workdir")
    _remove(states, damaged)
    return jax.tree.unflatten(structure, [leaf for _, leaf in paths])


def _remove(states: Checkpoints, numbers: Sequence[int]) -> None:
    for number in numbers:
        states.remove(number)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _rank_of_best(best: Checkpoints) -> tuple[float, float] | None:
    """The rank of the best epoch so far; one that is damaged is removed, so that the next one takes its place."""
    for number in best.numbers():
        try:
            return _rank(checkpoints.load(best.path(number))[1])
        except InputError as error:
            console.print(f"{error}", soft_wrap=True)
            best.remove(number)
    return None


def _rank(metrics: Mapping[str, Any]) -> tuple[float, float]:
    return metrics["validation_accuracy"], -metrics["validation_loss"]
