"""Preparing a set: what is said before, and instead of, minutes of downloading."""

from pathlib import Path

import pytest
import requests
import tensorflow_datasets as tfds
from prepared_sets import numbered, write_set

import gnsnn_jax as gs
from gnsnn_jax.data import prepare as script
from gnsnn_jax.data.prepare import prepare
from gnsnn_jax.runtime.command_line import run_script

pytestmark = pytest.mark.slow


@pytest.fixture
def tensorflow(monkeypatch):
    """As if it were installed: nothing here comes so far as to need it."""
    found = script.find_spec
    monkeypatch.setattr(script, "find_spec", lambda name: name if name == "tensorflow" else found(name))


def test_without_tensorflow_the_extra_is_named(monkeypatch, capsys, tmp_path):
    found = script.find_spec
    monkeypatch.setattr(script, "find_spec", lambda name: None if name == "tensorflow" else found(name))
    monkeypatch.setattr("sys.argv", ["prepare", "cifar10", "--data-dir", str(tmp_path)])
    assert run_script("prepare", script.main) == 2
    said = capsys.readouterr().err
    assert 'needs tensorflow, which is not installed; pip install "gnsnn_jax[prepare]" brings it' in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifra10", "knows no set 'cifra10'; did you mean 'cifar10'"),
        ("mnist:1.0.0", "cannot make 'mnist:1.0.0' .*cannot be loaded at version 1.0.0, only: 3.0.1"),
        ("no name", "cannot make 'no name'"),
        (
            "ai2_arc",
            "ai2_arc is no set for classification: wanted are one Image and one ClassLabel, got .*question: Text",
        ),
        (
            "imagenet2012",
            "must be downloaded by hand, to a directory given with --manual-dir: .*ILSVRC2012_img_train.tar",
        ),
    ],
)
def test_sets_that_cannot_be_prepared_are_explained(name, message, tensorflow, tmp_path):
    with pytest.raises(gs.InputError, match=message):
        prepare(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_named_at_once(tensorflow, monkeypatch, tmp_path):
    def fail(address, timeout):
        raise requests.ConnectionError(f"{address} within {timeout}")

    monkeypatch.setattr(requests, "head", fail)
    with pytest.raises(gs.InputError, match=r"cannot reach www\.cs\.toronto\.edu, where cifar10 is downloaded from"):
        prepare("cifar10", tmp_path)


def test_what_fails_on_the_way_is_one_sentence(tensorflow, monkeypatch, tmp_path):
    def fail(self, **options):
        assert options["file_format"] == "array_record"
        assert Path(options["download_config"].manual_dir) == tmp_path
        raise RuntimeError("no space\nat all")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    (tmp_path / "ILSVRC2012_img_val.tar").write_text("")
    with pytest.raises(
        gs.InputError, match=r"imagenet2012 could not be prepared in .*/5\.1\.0 \(RuntimeError: no space\)$"
    ):
        prepare("imagenet2012", tmp_path, manual_dir=tmp_path)


def test_a_set_that_is_there_is_left_alone(tensorflow, monkeypatch, tmp_path, capsys):
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(num_classes=4)}
    write = lambda splits, name: write_set(
        tmp_path, splits, features, name=name, version=tfds.builder_cls(name).VERSION
    )
    whole = write({"train": numbered(20), "test": numbered(8)}, "mnist")
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    monkeypatch.setattr("sys.argv", ["prepare", "mnist", "--data-dir", str(tmp_path)])
    assert run_script("prepare", script.main) == 0
    assert before == {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    said = capsys.readouterr().out
    assert "4 classes; train 20, test 8" in said.replace("test 8, train 20", "train 20, test 8")
    assert f"--data.name mnist --data.directory {tmp_path}" in said
    write({"test": numbered(8)}, "fashion_mnist")
    with pytest.raises(gs.InputError, match="has no training split"):
        prepare("fashion_mnist", tmp_path)
