"""Nothing is lost: real training processes are killed, stopped and damaged, and go on to the same end."""

import asyncio
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from killed import stop
from pictures import is_drawn
from tensorboardX.proto.event_pb2 import Event

import gnsnn_jax as gs
from gnsnn_jax.data.sets import load_dataset
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.directories import CURVES
from gnsnn_jax.runtime.config import Config, Data, Model, Training, load_config
from gnsnn_jax.training.experiment import run_experiment
from gnsnn_jax.training.records import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STEPS_PER_EPOCH = 4
STEPS = 10 * STEPS_PER_EPOCH
SETTINGS = ["--training.epochs", "10", "--training.batch_size", "256", "--training.save_seconds", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


def start(place, workdir, *arguments, settings=SETTINGS):
    """Training that saves its state after every step."""
    command = [sys.executable, str(ROOT / "train.py"), *settings, "--workdir", str(workdir), "--resume", *arguments]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def undisturbed(place):
    assert "nothing to resume: undisturbed is a new run" in finished(start(place, "undisturbed"))
    return place / "undisturbed"


def without_time(workdir):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(workdir)]


def assert_same_run(one, other):
    """Bit for bit: state, best weights, metrics and the result."""
    names = lambda run, kind: sorted(path.name for path in (run / kind).iterdir())
    assert names(one, "checkpoints") == names(other, "checkpoints")
    for path in (f"state/{STEPS}", f"checkpoints/{names(one, 'checkpoints')[0]}"):
        found, wanted = (checkpoints.load(run / path)[0] for run in (one, other))
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert without_time(one) == without_time(other)
    assert len(without_time(one)) == 10
    results = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    assert results[0] | {"seconds": 0} == results[1] | {"seconds": 0}


def test_a_run_that_is_killed_and_stopped_ends_as_an_undisturbed_one(place, undisturbed):
    """With a save under way nearly always, kill -9 falls into one; Ctrl-C saves and says how to go on."""
    moments = random.Random(0)
    workdir = place / "disturbed"
    for step in (moments.randrange(0, 10), moments.randrange(12, 24)):
        process = start(place, "disturbed")
        stop(process, workdir, signal.SIGKILL, step, moments.uniform(0, 0.05))
        assert process.returncode == -signal.SIGKILL
    process = start(place, "disturbed")
    _, errors = stop(process, workdir, signal.SIGINT, moments.randrange(26, 34), 0)
    assert process.returncode == 128 + signal.SIGINT
    assert "with the state saved; to go on: python" in errors
    assert "--workdir disturbed --resume" in errors
    assert "Traceback" not in errors
    moved = shutil.move(workdir, place / "moved")
    finished(start(place, "moved"))
    assert_same_run(Path(moved), undisturbed)
    assert is_drawn(undisturbed / CURVES)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 900 KiB, which a few states fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_in_one_sentence_and_the_run_goes_on_when_there_is_room(place, undisturbed, small_disk):
    process = start(place, small_disk / "run")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert re.fullmatch(r"train\.py: error: cannot write .*No space left on device.*make room.*\n", errors)
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    finished(start(place, small_disk / "run"))
    assert_same_run(small_disk / "run", undisturbed)


def test_the_files_that_fail_after_the_first_are_not_reported_by_asyncio(tmp_path, caplog):
    """TensorStore's futures are collected late, with an exception that nobody asked for."""
    with checkpoints.Checkpoints(tmp_path / "checkpoints"):
        pass
    for said in ("\"disk/d/0b\": Failed to write: No space left on device [os_error_code='28']", "another"):
        loop = asyncio.new_event_loop()
        loop.create_future().set_exception(ValueError(said))
        gc.collect()
        loop.close()
    assert [str(record.exc_info[1]) for record in caplog.records if record.name == "asyncio"] == ["another"]


# In this process, with a smaller network.


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(Data(), 0)


def config_of(**training):
    settings = {"epochs": 2, "batch_size": 256, "save_seconds": 0.0} | training
    return Config(model=Model(levels=2), training=Training(**settings))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, dataset):
    workdir = tmp_path_factory.mktemp("finished")
    run_experiment(workdir, config_of(), dataset, time.perf_counter())
    return workdir


def interrupted(run, tmp_path):
    """A copy of a run as it was just before its last step."""
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    (workdir / "summary.json").unlink()
    newest = max((workdir / "state").iterdir(), key=lambda path: int(path.name))
    return workdir, newest


def damage(path):
    largest = max((file for file in path.rglob("d/*") if file.is_file()), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def test_a_damaged_state_gives_way_to_the_one_before_it(finished_run, tmp_path, dataset, capsys):
    workdir, newest = interrupted(finished_run, tmp_path)
    damage(newest)
    run_experiment(workdir, config_of(), dataset, time.perf_counter())
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{newest.name} is damaged" in shown.replace("/ ", "/")
    assert f"going on after step {int(newest.name) - 1}" in shown
    found, wanted = (checkpoints.load(run / "state" / newest.name)[0] for run in (workdir, finished_run))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_run_without_a_good_state_is_refused(finished_run, tmp_path, dataset):
    workdir, newest = interrupted(finished_run, tmp_path)
    for state in (workdir / "state").iterdir():
        damage(state)
    with pytest.raises(gs.InputError, match=r"no state under .* is whole; start a new run"):
        run_experiment(workdir, config_of(), dataset, time.perf_counter())
    assert newest.exists()


def test_a_loss_that_is_nan_or_infinite_stops_the_run_with_its_step_and_the_last_good_state(tmp_path, dataset):
    config = config_of()
    config = Config(config.data, config.model, config.optimizer.__class__(learning_rate=1e6), config.training)
    with pytest.raises(
        gs.InputError, match=r"is NaN or infinite in step \d+ \(epoch \d+\); the last good state is .*/state/"
    ):
        run_experiment(tmp_path, config, dataset, time.perf_counter())
    good = max((tmp_path / "state").iterdir(), key=lambda path: int(path.name))
    arrays, _ = checkpoints.load(good)
    assert not [name for name, array in arrays.items() if not np.isfinite(array).all()]
    assert arrays["step"] == int(good.name)


def events(workdir):
    """The events in TensorBoard's file: length, its checksum, an event, its checksum."""
    (path,) = (workdir / "tensorboard").iterdir()
    content = path.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12 : 12 + length])
        content = content[12 + length + 4 :]


def test_event_files_hold_the_metrics_and_the_thresholds(finished_run):
    scalars = [(value, event.step) for event in events(finished_run) for value in event.summary.value]
    found = {(value.tag, step): value.simple_value for value, step in scalars}
    for epoch, line in enumerate(read_metrics(finished_run), start=1):
        np.testing.assert_allclose(
            found["validation_accuracy", STEPS_PER_EPOCH * epoch], line["validation_accuracy"], rtol=1e-6
        )
    names = {tag for tag, _ in found if tag.startswith("threshold/")}
    assert len(names) == 9
    assert "threshold/stage1_block0/act1" in names


def test_a_run_resumes_with_its_own_settings_only(undisturbed, refused):
    message = refused("train.py", *SETTINGS, "--workdir", undisturbed, "--resume", "--training.seed", "1")
    assert "was started with other settings (training.seed = 0 instead of 1)" in message
    assert load_config(undisturbed / "config.toml").training.seed == 0


def test_a_run_that_is_named_alone_goes_on_with_its_settings_and_says_what_it_reached(undisturbed, place):
    output = finished(start(place, "undisturbed", settings=[]))
    accuracy = json.loads((undisturbed / "summary.json").read_text())["test_accuracy"]
    assert "best epoch" in output
    assert f"test {100 * accuracy:.2f} %" in output
    assert load_config(undisturbed / "config.toml").training.epochs == 10
