"""One experiment from its configuration to its summary, saved on the way so that it can go on from there."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax.data.sets import Dataset
from gnsnn_jax.errors import InputError, printable
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.checkpoints import Checkpoints
from gnsnn_jax.runs.converted import check_variables
from gnsnn_jax.runs.directories import CHECKPOINTS, STATE, SUMMARY, load_best, write_json
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runs.stored import Epoch, Summary, check_json, read_json
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.command_line import Interrupted, console, progress_bar, resume_command, say
from gnsnn_jax.runtime.config import Config
from gnsnn_jax.runtime.signals import Interrupts
from gnsnn_jax.training.loop import Plan, State, initial_state, loss_and_accuracy, make_plan, train
from gnsnn_jax.training.records import Records, read_metrics

KEPT_STATES = 2  # one to fall back on where the newest is damaged
REFRESH_SECONDS = 0.5  # between two looks at the loss, each of which waits for the device
STEPS_BETWEEN_TALKS = 20  # of several processes about saving and stopping


def run_experiment(workdir: Path, config: Config, dataset: Dataset, started: float) -> Summary:
    """Trains a network, keeps the best epoch by validation accuracy (by loss among equals) and tests it once.

    Continues from the newest state in the run directory, if there is one, as if training had never stopped.

    Args:
        workdir: the run directory, which holds config.toml.
        config: the settings of the run.
        dataset: the data that the settings name.
        started: when the process started, by `time.perf_counter`.

    Returns:
        What summary.json holds; it is read from there where the run has been finished before.

    Raises:
        Interrupted: after a signal, with the state saved.
        InputError: where the loss is NaN or infinite, where nothing can be written, and where what a run left
            in the directory is damaged.
    """
    if not (workdir / SUMMARY).exists():
        with ExitStack() as stack:
            experiment = _Experiment(workdir, make_plan(config, dataset), dataset, started, stack)
            for state in train(experiment.plan, dataset, experiment.state):
                experiment.after_step(state)
        found = experiment.tested()
        devices.in_first(lambda: write_json(workdir / SUMMARY, asdict(found)))
    return read_json(workdir / SUMMARY, Summary, "remove it and resume the run, which then tests its best epoch again")


class _Experiment:
    """What is written and shown between the steps of training."""

    def __init__(self, workdir: Path, plan: Plan, dataset: Dataset, started: float, stack: ExitStack):
        self.workdir, self.plan, self.dataset = workdir, plan, dataset
        self.network = build_network(plan.config.model, dataset.num_classes)
        self._open_checkpoints(stack)
        self._open_records(started, stack)
        self.progress = stack.enter_context(_Progress(plan, self.step))
        self.interrupts = stack.enter_context(Interrupts())
        if not self.states.numbers():
            self._save(self.state)  # which also finds out now whether anything can be written

    def _open_checkpoints(self, stack: ExitStack) -> None:
        """The saved states and the best weights, and what the run goes on from."""
        self.states = stack.enter_context(Checkpoints(self.workdir / STATE, KEPT_STATES))
        self.best = stack.enter_context(Checkpoints(self.workdir / CHECKPOINTS))
        self.state = _restored(self.states, self.plan)
        self.step = int(self.state.step)
        self.best_rank = _rank_of_best(self.best)
        self.saved_at = time.perf_counter()

    def _open_records(self, started: float, stack: ExitStack) -> None:
        """The metrics of the epochs before the step that the run goes on from, and when it would have started."""
        epochs = self.step // self.plan.order.steps_per_epoch
        before = [line for line in read_metrics(self.workdir) if line["epoch"] <= epochs]
        self.started = started - (before[-1]["seconds"] if before else 0)
        self.records = Records(self.workdir, epochs, self.step) if devices.is_first() else None
        if self.records:
            stack.callback(self.records.close)

    def seconds(self) -> float:
        """Of training, those before it was interrupted included."""
        return time.perf_counter() - self.started

    def after_step(self, state: State) -> None:
        self.step += 1
        self.progress.advance()
        is_end = self.step % self.plan.order.steps_per_epoch == 0
        if is_end:
            self._end_epoch(state)
        if self.progress.is_due():
            self._check(state)
            self.progress.show(state, self.step)
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
        epoch = self._measured(state)
        if self.records:
            self.records.add(asdict(epoch), self.step, state.params)
        self.progress.validation_accuracy = epoch.validation_accuracy
        if self.best_rank is None or epoch.rank > self.best_rank:
            self.best_rank = epoch.rank
            self.best.save(epoch.epoch, state.kept, asdict(epoch))

    def _measured(self, state: State) -> Epoch:
        """The metrics of the epoch that has just ended."""
        train_loss, train_accuracy = state.metrics.mean()
        loss, accuracy = loss_and_accuracy(self.network, state.kept, self.dataset.validation, self.dataset.statistics)
        return Epoch(
            epoch=self.step // self.plan.order.steps_per_epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=loss,
            validation_accuracy=accuracy,
            learning_rate=float(self.plan.schedule(self.step)),
            seconds=self.seconds(),
        )

    def _check(self, state: State) -> None:
        """Raises InputError once the loss is NaN or infinite, with the state before that saved."""
        if state.is_finite:
            return
        good = int(state.step)
        self._write(good, state._replace(is_finite=np.asarray(True)))  # type: ignore[arg-type]
        self.states.wait()
        epoch = good // self.plan.order.steps_per_epoch + 1
        raise InputError(
            f"the loss or its gradient is NaN or infinite in step {good + 1} (epoch {epoch}); the last good state is "
            f"{self.states.path(good)}, and a lower optimizer.learning_rate or model.threshold in a new run may help"
        )

    def _save(self, state: State) -> None:
        self._check(state)
        self._write(self.step, state)

    def _write(self, step: int, state: State) -> None:
        """Saves a state in the background, once all that it goes on from has been written."""
        self.best.wait()
        self.states.save(step, _by_name(state), {"step": step})
        self.saved_at = time.perf_counter()

    def tested(self) -> Summary:
        """The best epoch on the test split. Raises InputError where its weights are gone or of another network."""
        model, data = self.plan.config.model, self.dataset
        variables, about = load_best(self.workdir, model.name)
        check_variables(variables, self.network, data.image_shape, model.name)
        epoch = _epoch_of(about, self.workdir / CHECKPOINTS)
        _, accuracy = loss_and_accuracy(self.network, variables, data.test, data.statistics)
        return Summary(
            dataset=self.plan.config.data.name,
            model=model.name,
            levels=model.levels,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
            best_epoch=epoch.epoch,
            validation_accuracy=epoch.validation_accuracy,
            test_accuracy=accuracy,
            test_samples=data.test.count,
            seconds=self.seconds(),
        )


class _Progress:
    """The progress bar, with loss, accuracy and speed since they were shown last."""

    def __init__(self, plan: Plan, step: int):
        self.bar, self.batch_size = progress_bar(), plan.config.training.batch_size
        self.task = self.bar.add_task("training", total=plan.steps, completed=step, note="")
        self.validation_accuracy: float | None = None
        self.shown_at, self.shown_step = time.perf_counter(), step

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def advance(self) -> None:
        self.bar.advance(self.task)

    def is_due(self) -> bool:
        return time.perf_counter() > self.shown_at + REFRESH_SECONDS

    def show(self, state: State, step: int) -> None:
        """Waits for the device, as it reads the metrics of the state."""
        loss, accuracy = state.metrics.mean()
        now = time.perf_counter()
        speed = (step - self.shown_step) * self.batch_size / (now - self.shown_at)
        self.shown_at, self.shown_step = now, step
        validation = "" if self.validation_accuracy is None else f"val {100 * self.validation_accuracy:.1f}% "
        self.bar.update(self.task, note=f"loss {loss:.4f} acc {100 * accuracy:.1f}% {validation}{speed:,.0f} img/s")


def _restored(states: Checkpoints, plan: Plan) -> State:
    """The newest state that is whole, or the initial one where none has been saved; removes damaged ones.

    Raises InputError where all that were saved are damaged, unless it is the initial one alone.
    """
    initial, damaged = initial_state(plan), []
    for number in states.numbers():
        try:
            state = _read_state(states.path(number), initial)
        except InputError as error:
            damaged.append(number)
            say(str(error))
            continue
        _remove(states, damaged)
        console.print(f"going on after step {number} of {plan.steps}")
        return state
    if any(damaged):
        raise InputError(f"no state under {states.directory} is whole; start a new run with another --workdir")
    _remove(states, damaged)
    return initial


def _read_state(path: Path, like: State) -> State:
    """Raises InputError where it is damaged, and where its arrays are not those of the given state."""
    arrays, _ = checkpoints.load(path)
    wanted = _by_name(like)
    if _forms(arrays) != _forms(wanted):
        raise InputError(f"the state {printable(path)} is of another network or other settings")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])


def _by_name(state: State) -> dict[str, Any]:
    """The arrays of a state by their paths in it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _forms(arrays: Any) -> Any:
    return jax.tree.map(lambda leaf: (np.shape(leaf), str(leaf.dtype)), arrays)


def _remove(states: Checkpoints, numbers: Sequence[int]) -> None:
    for number in numbers:
        states.remove(number)


def _rank_of_best(best: Checkpoints) -> tuple[float, float] | None:
    """The rank of the best epoch so far; one that is damaged is removed, so that the next one takes its place."""
    for number in best.numbers():
        try:
            return _epoch_of(checkpoints.load(best.path(number))[1], best.path(number)).rank
        except InputError as error:
            say(str(error))
            best.remove(number)
    return None


def _epoch_of(about: Any, path: Path) -> Epoch:
    """What is said about the best weights. Raises InputError where it is not the metrics of an epoch."""
    return check_json(about, Epoch, f"what {printable(path)} says about its epoch", "start a new run")
