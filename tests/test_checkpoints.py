"""Checkpoints: whole or not at all, and damage never silent."""

import resource

import jax
import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.checkpoints import Checkpoints
from gnsnn_jax.runs.directories import check_numbers, set_aside

ARRAYS = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.asarray(2.5), "d": {}}


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def loaded(path):
    """What a checkpoint holds, or its refusal."""
    try:
        return checkpoints.load(path)
    except gs.InputError as error:
        return error


def test_checkpoints_read_back(tmp_path):
    checkpoints.save(tmp_path / "one", ARRAYS, {"epoch": 3})
    found, about = checkpoints.load(tmp_path / "one")
    assert_equal(found, ARRAYS)
    assert about == {"epoch": 3}


def test_numbered_checkpoints_keep_the_newest_in_the_background(tmp_path):
    with Checkpoints(tmp_path / "state", keep=2) as kept:
        for number in (3, 7, 11):
            kept.save(number, ARRAYS | {"c": np.asarray(number)}, {"step": number})
        kept.save(11, ARRAYS, {"step": "ignored"})
        kept.wait()
        assert kept.numbers() == [11, 7]
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["11", "7"]
    found, about = checkpoints.load(tmp_path / "state" / "11")
    assert (found["c"], about) == (11, {"step": 11})
    with Checkpoints(tmp_path / "state", keep=2) as kept:
        kept.remove(11)
        kept.save(11, ARRAYS, {"step": "new"})
    assert checkpoints.load(tmp_path / "state" / "11")[1] == {"step": "new"}


@pytest.mark.parametrize("numbered", [False, True])
def test_damage_to_any_file_of_a_checkpoint_is_noticed_or_harmless(numbered, tmp_path):
    arrays = {"kernel": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}
    path = tmp_path / "7"
    if numbered:
        with Checkpoints(tmp_path) as kept:
            kept.save(7, arrays, {"epoch": 3})
    else:
        checkpoints.save(path, arrays, {"epoch": 3})
    refused = []
    for file in [file for file in path.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        flipped = bytearray(content)
        if content:
            flipped[len(content) // 2] ^= 0xFF
        for damaged in (content[: len(content) // 2], bytes(flipped), None):
            if damaged == content:
                continue  # an empty file stays one
            file.write_bytes(damaged) if damaged is not None else file.unlink()
            found = loaded(path)
            if isinstance(found, gs.InputError):
                refused.append(file.relative_to(path).parts[0])
                assert "is damaged in" in str(found) or "cannot be read" in str(found)
            else:
                assert_equal(found, (arrays, {"epoch": 3}))
            file.write_bytes(content)
    assert {"arrays", "about", checkpoints.FINGERPRINTS} <= set(refused)


def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files takes the place of the disk's."""
    large = {"kernel": np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path / "state") as kept:
        kept.save(1, ARRAYS, {})
        kept.wait()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
            kept.save(2, large, {})
            with pytest.raises(gs.InputError, match=r"cannot write a checkpoint to .*; make room there"):
                kept.wait()
            with pytest.raises(gs.InputError, match="cannot write a checkpoint to"):
                checkpoints.save(tmp_path / "one", large, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "one").exists()
    assert_equal(checkpoints.load(tmp_path / "state" / "1")[0], ARRAYS)
    with Checkpoints(tmp_path / "state") as kept:
        assert kept.numbers() == [1]
        kept.save(2, large, {})
    assert_equal(checkpoints.load(tmp_path / "state" / "2")[0], large)


@pytest.mark.parametrize("length", [0, 150, 5000])
def test_the_reason_of_a_failed_write_is_named_wherever_it_stands_in_the_message(length, tmp_path):
    """TensorStore puts the path before it and its own settings behind it."""
    told = f"Error writing {'x' * length}: Failed to write: No space [os_error_code='28' {'x' * length}]\nmore"
    with pytest.raises(gs.InputError) as caught, checkpoints._writing(tmp_path):
        raise ValueError(told)
    assert str(caught.value).endswith(": No space left on device; make room there or give another directory")


def test_numbers_that_are_nan_are_named():
    with pytest.raises(gs.InputError, match="the checkpoint holds NaN or infinity in params/kernel"):
        check_numbers({"params": {"kernel": np.asarray([np.nan]), "bias": np.zeros(1)}}, "the checkpoint")


def test_files_are_set_aside_under_new_numbers(tmp_path):
    for content in ("1", "2"):
        (tmp_path / "report.json").write_text(content)
        set_aside(tmp_path, ("report.json", "accuracy.png"))
    assert [(tmp_path / f"previous-{n}" / "report.json").read_text() for n in (1, 2)] == ["1", "2"]
    assert set_aside(tmp_path, ("report.json",)) is None
