"""Data sets by name: built in, from files of arrays, and as TensorFlow Datasets prepares them."""

import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from prepared_sets import encoded, numbered, write_set

import gnsnn_jax as gs
from gnsnn_jax.data import arrays as arrays_module
from gnsnn_jax.data import sets as data_module
from gnsnn_jax.data.batches import PADDING, Split
from gnsnn_jax.data.order import FixedOrder
from gnsnn_jax.data.sets import check_finite, load_dataset, normalise, read_in_order, statistics
from gnsnn_jax.data.statistics import PUBLISHED
from gnsnn_jax.runtime.config import Data

# Arrays.


def test_splits_follow_from_the_seed_and_share_no_sample():
    one, same, other = (load_dataset(Data(), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.test.images, same.test.images)
    assert (one.test.images != other.test.images).any()
    assert sum(len(split.labels) for split in (one.train, one.validation, one.test)) == 1797
    assert (one.num_classes, one.image_shape) == (10, (8, 8, 1))
    shares = [np.bincount(split.labels) / len(split.labels) for split in (one.train, one.validation, one.test)]
    np.testing.assert_allclose(shares[1:], [shares[0]] * 2, atol=0.01)


def test_normalised_images_have_mean_0_and_deviation_1():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    found = normalise(jnp.asarray(images), statistics(images))
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), 1, atol=1e-5)
    constant = np.full((2, 2, 2, 1), 7, np.uint8)
    np.testing.assert_array_equal(normalise(jnp.asarray(constant), statistics(constant)), 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            Data(name="digit"),
            "unknown data set 'digit': built in are digits; did you mean 'digits'.*neither data.directory",
        ),
        (Data(test_fraction=0.001), r"data\.test_fraction = 0\.001 cannot split 1797 samples"),
    ],
)
def test_data_that_cannot_be_had_is_explained(data, message):
    with pytest.raises(gs.InputError, match=message):
        load_dataset(data, 0)


def arrays_of(count=40, classes=4, side=5):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return {"images": images, "labels": np.arange(count) % classes}


def test_data_sets_of_the_users_own_come_from_npz_files(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays_of())
    dataset = load_dataset(Data(name="mine", directory=str(tmp_path), image_size=8), 0)
    assert (dataset.num_classes, dataset.image_shape, len(dataset.test.labels)) == (4, (8, 8, 3), 10)
    own = arrays_of(12)
    np.savez(tmp_path / "mine.npz", **arrays_of(), test_images=own["images"], test_labels=own["labels"])
    dataset = load_dataset(Data(name="mine", directory=str(tmp_path)), 0)
    np.testing.assert_array_equal(dataset.test.images, own["images"])
    assert len(dataset.train.labels) + len(dataset.validation.labels) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "holds images, but images and labels are wanted"),
        ({"labels": np.arange(3)}, r"must be \[N, H, W, C\] in uint8 .* got uint8\[40, 5, 5, 3\] and int64\[3\]"),
        ({"labels": np.zeros(40)}, "integers from 0, got .* float64"),
        ({"images": np.full((40, 5, 5, 3), np.nan)}, "NaN or infinite"),
        ({"images": np.zeros((40, 5, 5), np.uint8)}, r"must be \[N, H, W, C\]"),
        ({"images": np.zeros((40, 5, 5, 0), np.uint8)}, r"none of them 0, .* got uint8\[40, 5, 5, 0\]"),
        ({"images": np.zeros((40, 0, 5, 3))}, r"none of them 0, .* got float64\[40, 0, 5, 3\]"),
        ({"images": np.zeros((40, 5, 0, 3))}, r"none of them 0, .* got float64\[40, 5, 0, 3\]"),
        ({"images": np.zeros((0, 5, 5, 3)), "labels": np.zeros(0, int)}, r"none of them 0, .* int64\[0\]"),
        ({"images": np.full((40, 5, 5, 3), 1e39)}, "hold 3000 values that are NaN or infinite"),
        ({"labels": np.full(40, 2**32 - 1, np.uint32)}, r"labels must be below 1000000, got 4294967295"),
        ({"labels": np.full(40, 2**32 + 1)}, r"labels must be below 1000000, got 4294967297"),
        ({"labels": np.full(40, 2**64 - 1, np.uint64)}, r"labels must be below 1000000, got 18446744073709551615"),
        ({"labels": np.full(40, -1, np.int8)}, "integers from 0"),
        ({"\x1b[31m": np.zeros(3), "labels": None}, r"holds images, \\x1b\[31m, but images and labels"),
        ({"labels": None} | {f"array{n}": np.zeros(1) for n in range(1000)}, r"array8 and 991 more, but"),
    ],
)
def test_npz_files_of_another_form_are_refused(change, message, tmp_path):
    arrays = {name: array for name, array in (arrays_of() | change).items() if array is not None}
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(gs.InputError, match=message):
        load_dataset(Data(name="mine", directory=str(tmp_path)), 0)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"images": np.zeros((8, 6, 5, 3), np.uint8)}, r"uint8\[6, 5, 3\], but the training images uint8\[5, 5, 3\]"),
        ({"images": np.zeros((8, 5, 5, 1), np.uint8)}, r"uint8\[5, 5, 1\], but the training images uint8\[5, 5, 3\]"),
        ({"images": np.zeros((8, 5, 5, 3))}, r"float32\[5, 5, 3\], but the training images uint8\[5, 5, 3\]"),
        ({"images": np.full((8, 5, 5, 3), 1e39)}, r"the test_images of .* hold 600 values that are NaN or infinite"),
        ({"labels": np.full(8, 2**32)}, r"test_labels must be below 1000000, got 4294967296"),
    ],
)
def test_test_images_have_the_form_of_the_training_images(own, message, tmp_path):
    held = arrays_of(8) | own
    np.savez(tmp_path / "mine.npz", **arrays_of(), test_images=held["images"], test_labels=held["labels"])
    with pytest.raises(gs.InputError, match=message):
        load_dataset(Data(name="mine", directory=str(tmp_path)), 0)


def test_test_images_of_another_size_are_taken_where_all_are_resized(tmp_path):
    own = arrays_of(8, side=7)
    np.savez(tmp_path / "mine.npz", **arrays_of(), test_images=own["images"], test_labels=own["labels"])
    dataset = load_dataset(Data(name="mine", directory=str(tmp_path), image_size=6), 0)
    assert dataset.test.image_shape == dataset.train.image_shape == (6, 6, 3)


def test_images_that_memory_cannot_hold_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(arrays_module, "_memory", lambda: 2.0**30)
    with pytest.raises(
        gs.InputError, match=r"1797 images of 8192x8192 pixels take 2695\.5 GiB in all .*data\.image_size"
    ):
        load_dataset(Data(image_size=8192), 0)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 2000, "\0", "\x1b[31m", "a\nb", "/", "../..", "~nobody/x"])
def test_names_that_no_set_can_have_are_refused_in_one_short_sentence(name, tmp_path):
    for directory in (tmp_path, "", "~nobody", "\0", "x" * 300):
        with pytest.raises(gs.InputError) as caught:
            load_dataset(Data(name=name, directory=str(directory)), 0)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 2000


def test_a_batch_is_no_larger_than_the_split():
    split = Split(np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1), np.arange(6, dtype=np.int32))
    (batch,) = read_in_order(split, 10**6)
    assert batch.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_npz_files_that_are_missing_or_damaged_are_refused(tmp_path):
    with pytest.raises(gs.InputError, match=r"there is neither .*mine\.npz nor a folder .*mine"):
        load_dataset(Data(name="mine", directory=str(tmp_path)), 0)
    (tmp_path / "mine.npz").write_bytes(b"PK nonsense")
    with pytest.raises(gs.InputError, match=r"mine\.npz cannot be read"):
        load_dataset(Data(name="mine", directory=str(tmp_path)), 0)


def test_images_with_nan_are_refused():
    with pytest.raises(gs.InputError, match="the images hold 2 values that are NaN or infinite"):
        check_finite(np.asarray([1.0, np.nan, np.inf]), "the images")


def test_statistics_of_levels_are_those_of_numbers():
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, 2)).astype(np.uint8)
    for found, expected in zip(statistics(images), statistics(images.astype(np.float64)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_batches_hold_the_samples_asked_for_and_nothing_where_none_is():
    split = Split(np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1), np.arange(6, dtype=np.int32))
    batches = list(split.read(lambda step: np.asarray([step, PADDING, 5]), range(2, 4)))
    for step, (images, labels) in zip((2, 3), batches, strict=True):
        np.testing.assert_array_equal(images, [split.images[step], np.zeros((2, 2, 1)), split.images[5]])
        np.testing.assert_array_equal(labels, [step, PADDING, 5])
    assert split.labels.min() == 0


# Prepared sets in memory.


@pytest.fixture
def offline(monkeypatch):
    """No socket opens."""

    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def numbers(split):
    """The numbers that the pixels of `numbered` samples hold."""
    assert (split.images == split.images[:, :1, :1, :1]).all()
    return sorted(split.images[:, 0, 0, 0].tolist())


def of(directory, name="tiny", **settings):
    return Data(name=name, directory=str(directory), **{"validation_fraction": 0.25} | settings)


def test_prepared_sets_live_in_memory_with_every_sample_once(tmp_path, offline):
    write_set(tmp_path, {"train": numbered(40), "test": numbered(10)})
    dataset, same, other = (load_dataset(of(tmp_path), seed) for seed in (0, 0, 1))
    assert (dataset.name, dataset.num_classes, dataset.image_shape, dataset.streams) == ("tiny", 4, (6, 5, 3), False)
    assert [split.images.dtype for split in dataset[2:5]] == [np.uint8] * 3
    assert sorted(numbers(dataset.train) + numbers(dataset.validation)) == list(range(40))
    assert numbers(dataset.test) == list(range(10))
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0] % 4, dataset.train.labels)
    assert set(np.bincount(dataset.validation.labels)) == {2, 3}
    np.testing.assert_array_equal(dataset.train.images, same.train.images)
    assert numbers(dataset.validation) != numbers(other.validation)
    assert dataset.statistics == statistics(dataset.train.images)


def test_classes_come_from_the_metadata(tmp_path):
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(num_classes=9)}
    write_set(tmp_path, {"train": numbered(40), "test": numbered(10)}, features)
    assert load_dataset(of(tmp_path), 0).num_classes == 9


def test_gray_images_under_other_names_are_found_by_their_type(tmp_path):
    features = {
        "id": tfds.features.Text(), "picture": tfds.features.Image(shape=(4, 4, 1)),
        "kind": tfds.features.ClassLabel(num_classes=2),
    }  # fmt: skip
    samples = [{"id": "x", "picture": encoded(np.full((4, 4, 1), n, np.uint8)), "kind": n % 2} for n in range(20)]
    write_set(tmp_path, {"train": samples}, features, keys=None)
    dataset = load_dataset(of(tmp_path, test_fraction=0.25), 0)
    assert dataset.image_shape == (4, 4, 1)
    assert sorted(number for split in dataset[2:5] for number in numbers(split)) == list(range(20))


@pytest.mark.parametrize(
    ("others", "test"),
    [
        ({"test": numbered(8)}, 8),
        ({"validation": numbered(6)}, 6),
        ({"test": numbered(8), "validation": numbered(6)}, 8),
        ({"test": ({**sample, "label": -1} for sample in numbered(8)), "validation": numbered(6)}, 6),
        ({}, 10),
        ({"test": ({**sample, "label": -1} for sample in numbered(8))}, 10),
    ],
    ids=["test", "validation", "both", "unlabelled test", "none", "unlabelled alone"],
)
def test_the_test_split_is_one_with_labels_or_held_out(others, test, tmp_path):
    write_set(tmp_path, {"train": numbered(40), **others})
    for limit in (2.0, 0.0):
        dataset = load_dataset(of(tmp_path, test_fraction=0.25, memory_limit=limit), 0)
        assert dataset.streams == (limit == 0)
        assert dataset.test.count == test
        rest = 40 if others and test < 10 else 30
        assert (dataset.train.count, dataset.validation.count) == (rest - round(rest / 4), round(rest / 4))


def test_images_that_differ_in_size_are_cut_to_squares_in_the_middle(tmp_path):
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 7:17] = 200  # the square of 8 and a pixel on each side, where the filter reaches
    samples = [{"image": encoded(wide if n % 2 else wide.swapaxes(0, 1)), "label": n % 2} for n in range(8)]
    write_set(tmp_path, {"train": samples, "test": samples}, features)
    with pytest.raises(gs.InputError, match=r"the images of tiny differ in size; set data\.image_size"):
        load_dataset(of(tmp_path), 0)
    dataset = load_dataset(of(tmp_path, image_size=4), 0)
    np.testing.assert_array_equal(dataset.test.images, np.full((8, 4, 4, 3), 200))
    assert dataset.train.images.dtype == np.uint8


def test_statistics_are_given_or_published_or_of_the_training_split(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "SAMPLED", 200)
    samples = lambda count: numbered(count, (6, 5, 3))
    write_set(tmp_path, {"train": samples(256), "test": samples(8)})
    write_set(tmp_path, {"train": samples(40), "test": samples(8)}, name="cifar10", version="3.0.2")
    assert load_dataset(of(tmp_path, "cifar10"), 0).statistics == PUBLISHED["cifar10"]
    mixed = load_dataset(of(tmp_path, "cifar10:3.0.2", mean=(1.0, 2.0, 3.0)), 0).statistics
    assert mixed == ((1.0, 2.0, 3.0), PUBLISHED["cifar10"].deviation)
    of_all, of_some = (load_dataset(of(tmp_path, memory_limit=limit), 0).statistics for limit in (2.0, 0.0))
    np.testing.assert_allclose(of_some.mean, of_all.mean, rtol=0.1)
    np.testing.assert_allclose(of_some.deviation, of_all.deviation, rtol=0.1)
    assert of_some == load_dataset(of(tmp_path, memory_limit=0.0), 0).statistics


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_statistics_are_in_levels(name):
    channels = 1 if "mnist" in name else 3
    for values in PUBLISHED[name]:
        assert len(values) == channels
        assert all(30 < value < 140 for value in values)


def test_reading_that_takes_long_shows_its_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_module, "_PATIENCE", 0.0)
    write_set(tmp_path, {"train": numbered(40), "test": numbered(8)})
    load_dataset(of(tmp_path), 0)
    assert "reading tiny" in capsys.readouterr().out


# Where prepared sets are.


def test_the_highest_version_is_taken_unless_one_is_named(tmp_path):
    for count, version in ((24, "1.9.0"), (40, "1.10.0")):
        folder = write_set(tmp_path, {"train": numbered(count), "test": numbered(8)}, version=version)
    whole = lambda name, directory=tmp_path: sum(split.count for split in load_dataset(of(directory, name), 0)[2:4])
    assert (whole("tiny"), whole("tiny:1.9.0"), whole("tiny/1.9.0"), whole("tiny:1.10.0")) == (40, 24, 24, 40)
    assert (whole(str(folder)), whole(str(folder.parent)), whole(f"{folder.parent}:1.9.0", "")) == (40, 40, 24)
    with pytest.raises(gs.InputError, match=r"no version 2\.0\.0 of 'tiny' in .*; there is 1\.9\.0, 1\.10\.0"):
        whole("tiny:2.0.0")


def test_one_of_several_configurations_must_be_named(tmp_path):
    for count, config in ((24, "small"), (40, "large")):
        write_set(tmp_path, {"train": numbered(count), "test": numbered(8)}, config=config)
        if config == "small":
            assert load_dataset(of(tmp_path), 0).train.count == 18
    assert load_dataset(of(tmp_path, "tiny/large"), 0).train.count == 30
    assert load_dataset(of(tmp_path, "tiny/large:1.0.0"), 0).train.count == 30
    with pytest.raises(
        gs.InputError, match="several configurations of 'tiny'; name one of them: tiny/large, tiny/small"
    ):
        load_dataset(of(tmp_path), 0)


def test_without_a_directory_sets_are_where_tensorflow_datasets_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_set(tmp_path, {"train": numbered(40), "test": numbered(8)})
    assert load_dataset(of(""), 0).train.count == 30
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(gs.InputError, match=r"tensorflow_datasets/tiny"):
        load_dataset(of(""), 0)


def test_a_set_that_is_not_there_is_told_at_once_how_to_prepare(tmp_path, offline):
    command = f"python -m gnsnn_jax.data.prepare cifar10 --data-dir {tmp_path}"
    with pytest.raises(
        gs.InputError, match=rf"unknown data set 'cifar10': .*nor a folder {tmp_path}/cifar10.*{command}"
    ):
        load_dataset(of(tmp_path, "cifar10"), 0)


# Prepared sets that cannot be read.


RECORDS = "tiny-train.array_record-00000-of-00001"


def as_tfrecord(content):
    return content.replace(b"array_record", b"tfrecord")


UNREADABLE = r"record \d+ of split 'train' in .* cannot be read .*; the file is damaged: prepare the set again"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset_info.json", lambda content: content[:40], "cannot be read as a set of TensorFlow Datasets"),
        ("dataset_info.json", as_tfrecord, "is stored as tfrecord.*prepare tiny --data-dir DIR"),
        ("features.json", lambda content: b"{}", "cannot be read as a set of TensorFlow Datasets"),
        ("features.json", None, "cannot be read as a set of TensorFlow Datasets"),
        (RECORDS, None, "lacks tiny-train.array_record-00000-of-00001, a file of split 'train'"),
        (RECORDS, lambda content: content[:5000], UNREADABLE),
        (RECORDS, lambda content: content[: len(content) // 2], UNREADABLE),
        (RECORDS, lambda content: content[:300] + bytes(500) + content[800:], UNREADABLE),
    ],
)
def test_damage_is_named(file, change, message, tmp_path):
    path = write_set(tmp_path, {"train": numbered(40), "test": numbered(8)}) / file
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(content))
    for limit in (2.0, 0.0):
        with pytest.raises(gs.InputError, match=message):
            read_all(load_dataset(of(tmp_path, memory_limit=limit, workers=0), 0))


def read_all(dataset):
    for split in dataset[2:5]:
        order = FixedOrder(split.count, 8)
        list(split.read(order, range(order.steps)))


IMAGE, LABEL = tfds.features.Image(shape=(6, 5, 3)), tfds.features.ClassLabel(num_classes=4)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": IMAGE}, "no set for classification: wanted are one Image and one ClassLabel, got image: Image"),
        ({"image": IMAGE, "mask": IMAGE, "label": LABEL}, "got image: Image, label: ClassLabel, mask: Image"),
        ({"image": tfds.features.Image(shape=(6, 5, 1), dtype=np.uint16), "label": LABEL}, r"\[6, 5, 1\] in uint16"),
        ({"image": tfds.features.Image(shape=(6, 5, 2)), "label": LABEL}, r"\[6, 5, 2\] in uint8"),
    ],
)
def test_sets_that_are_not_of_images_with_a_label_each_are_refused(features, message, tmp_path):
    samples = [{name: (example | {"mask": example["image"]})[name] for name in features} for example in numbered(40)]
    write_set(tmp_path, {"train": samples}, features, keys=None)
    with pytest.raises(gs.InputError, match=message):
        load_dataset(of(tmp_path), 0)


def test_supervised_keys_choose_among_several_images(tmp_path):
    features = {"image": IMAGE, "mask": IMAGE, "label": LABEL}
    samples = [example | {"mask": encoded(np.zeros((6, 5, 3), np.uint8))} for example in numbered(40)]
    write_set(tmp_path, {"train": samples, "test": samples[:8]}, features)
    assert numbers(load_dataset(of(tmp_path), 0).test) == list(range(8))


@pytest.mark.parametrize("limit", [2.0, 0.0])
@pytest.mark.parametrize(
    ("splits", "settings", "message"),
    [
        ({"test": 8}, {}, "has no split 'train', only test"),
        ({"train": 40, "test": 8}, {"validation_fraction": 0.001}, r"data\.validation_fraction = 0\.001"),
        ({"train": 40}, {"test_fraction": 0.999}, r"data\.test_fraction = 0\.999"),
        ({"train": 40, "test": 8}, {"mean": (1.0,)}, r"data\.mean = \[1\.0\] does not fit images of 3 channels"),
    ],
)
def test_splits_and_settings_that_do_not_fit_are_refused(splits, settings, message, limit, tmp_path):
    write_set(tmp_path, {name: numbered(count) for name, count in splits.items()})
    with pytest.raises(gs.InputError, match=message):
        load_dataset(of(tmp_path, memory_limit=limit, **settings), 0)


def test_labels_beyond_the_classes_are_refused(tmp_path):
    samples = [sample | {"label": -1 if n == 30 else sample["label"]} for n, sample in enumerate(numbered(40))]
    write_set(tmp_path, {"train": samples, "test": numbered(8)})
    with pytest.raises(gs.InputError, match=r"record \d+ of split 'train' in .* has the label -1, which is none of"):
        load_dataset(of(tmp_path), 0)


# Packages.


def run(code, *arguments, **options):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, **options)


def test_sets_that_are_arrays_need_no_extra_and_others_name_it(tmp_path):
    write_set(tmp_path, {"train": numbered(40), "test": numbered(8)})
    np.savez(tmp_path / "mine.npz", **arrays_of())
    code = (
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'tensorflow_datasets', 'grain', 'array_record', 'PIL', 'absl'}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "from gnsnn_jax.runtime.config import Data\n"
        "from gnsnn_jax.data.sets import load_dataset\n"
        "print(load_dataset(Data(), 0).train.count)\n"
        "print(load_dataset(Data(name='mine', directory=sys.argv[1]), 0).train.count)\n"
        "try:\n"
        "    load_dataset(Data(name='tiny', directory=sys.argv[1]), 0)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = run(code, tmp_path, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert "needs array_record, which is not installed" in done.stdout
    assert 'pip install "gnsnn_jax[data]"' in done.stdout
