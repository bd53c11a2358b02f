"""Splits on disk: what is cut out of an image, and that nothing but order, seed and step decides a batch."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from orders import Shuffled, Watching
from PIL import Image as Pillow
from prepared_sets import encoded, write_set

import gnsnn_jax as gs
from gnsnn_jax.data import streaming
from gnsnn_jax.data.batches import PADDING
from gnsnn_jax.data.images import Centre, _reduce, decode, random_part, whole_image
from gnsnn_jax.data.order import FixedOrder
from gnsnn_jax.data.sets import load_dataset
from gnsnn_jax.runtime.config import Data

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
RANDOM = np.random.default_rng(0)


def ramp(height, width):
    """Pixels that say where they are: red by column, green by row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8)


# Images.


@pytest.mark.parametrize(("channels", "kind"), [(1, "PNG"), (3, "PNG"), (4, "PNG")])
def test_images_of_the_size_wanted_are_as_stored(channels, kind):
    pixels = RANDOM.integers(0, 256, (7, 5, channels)).astype(np.uint8)
    np.testing.assert_array_equal(decode(encoded(pixels, kind), pixels.shape, whole_image, RANDOM), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA"])
def test_images_of_other_modes_become_those_of_the_set(mode):
    file = io.BytesIO()
    Pillow.new(mode, (5, 7)).save(file, "TIFF" if mode == "CMYK" else "PNG")
    assert decode(file.getvalue(), (7, 5, 3), whole_image, RANDOM).shape == (7, 5, 3)


@pytest.mark.parametrize("size", [(60, 40), (40, 60)])
def test_evaluation_resizes_the_shorter_side_and_takes_the_centre(size):
    """As resizing to 32 pixels and cutting 28 from the middle would, in one step."""
    pixels = ramp(*size[::-1])
    found = decode(encoded(pixels), (28, 28, 3), Centre(0.875), RANDOM).astype(int)
    scale = min(size) / 32
    shown = scale * (np.arange(28) + 0.5) - 0.5  # of the square of 28, in pixels of the stored image
    for channel, length in enumerate(size):
        profile = found[..., channel].mean(channel)
        np.testing.assert_allclose(profile, shown + (length - 28 * scale) / 2, atol=0.5)


def test_random_parts_are_within_the_image_and_of_the_areas_and_ratios_said():
    boxes = np.asarray([random_part((500, 375), np.random.default_rng(seed)) for seed in range(2000)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [500, 375]).all()
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    share, ratio = width * height / (500 * 375), width / height
    whole = share < 0.5  # more may be cut to what fits
    assert share.min() < 0.1
    assert share.max() > 0.95
    np.testing.assert_allclose([share[whole].min(), share[whole].mean()], [0.08, 0.29], atol=0.01)
    np.testing.assert_allclose([ratio[whole].min(), ratio[whole].max()], [3 / 4, 4 / 3], atol=0.01)
    np.testing.assert_allclose(np.log(ratio[whole]).mean(), 0, atol=0.01)
    places = boxes[:, 0] / np.maximum(500 - width, 1e-9)
    np.testing.assert_allclose([places.mean(), places.std()], [0.5, 12**-0.5], atol=0.02)


@pytest.mark.parametrize("part", [whole_image, Centre(0.875), lambda size, random: (301.0, 207.0, 1100.5, 900.25)])
@pytest.mark.parametrize("size", [(1600, 1200), (1603, 1205)])
def test_a_jpeg_decoded_to_fewer_pixels_looks_the_same(part, size, monkeypatch):
    rows, columns = np.mgrid[: size[1], : size[0]]
    waves = [np.sin(columns / (9 + 30 * channel)) * np.cos(rows / 17) for channel in range(3)]
    data = encoded((128 + 100 * np.stack(waves, -1)).astype(np.uint8), "JPEG")
    sizes = []
    load = Pillow.Image.resize
    monkeypatch.setattr(Pillow.Image, "resize", lambda self, *args: sizes.append(self.size) or load(self, *args))
    found = decode(data, (96, 96, 3), part, RANDOM).astype(int)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda self, mode, size: None)
    expected = decode(data, (96, 96, 3), part, RANDOM).astype(int)
    assert sizes[0][0] < sizes[1][0] == size[0]
    assert np.abs(found - expected).max() <= 8
    assert np.abs(found - expected).mean() < 1


def test_a_jpeg_is_not_decoded_to_fewer_pixels_than_twice_those_wanted():
    image = Pillow.open(io.BytesIO(encoded(np.zeros((400, 400, 3), np.uint8), "JPEG")))
    assert _reduce(image, (0.0, 0.0, 400.0, 390.0), (100, 100)) == (0.0, 0.0, 400.0, 390.0)


# Streams.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of different sizes, each with its number in blue."""
    directory = tmp_path_factory.mktemp("sets")
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=4)}
    samples = []
    for number in range(120):
        pixels = ramp(20 + number % 7, 25 + number % 5)
        pixels[..., 2] = number
        samples.append({"image": encoded(pixels), "label": number % 4})
    return write_set(directory, {"train": samples, "test": samples[:10]}, features, name="streamed")


@pytest.fixture(scope="module")
def dataset(folder):
    return stream_of(folder)


def stream_of(folder, seed=0, **settings):
    limits = {"memory_limit": 0.0, "image_size": 16, "resized_crop": True, "validation_fraction": 0.25, "workers": 0}
    return load_dataset(Data(name=str(folder), **(limits | settings)), seed)


def taken(stream):
    """Images and labels of all samples of a stream, and the numbers that the images hold."""
    order = FixedOrder(stream.count, 7)
    images, labels = map(np.concatenate, zip(*stream.read(order, range(order.steps)), strict=True))
    there = labels != PADDING
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert not images[~there].any()
    return images[there], labels[there], images[there, ..., 2].max((1, 2))


def equal(one, other):
    pairs = zip(one, other, strict=True)
    return all((a == b).all() for first, second in pairs for a, b in zip(first, second, strict=True))


def test_streamed_splits_share_no_sample_and_follow_from_the_seed(folder, dataset):
    found = [taken(split) for split in dataset[2:5]]
    train, validation, test = (set(numbers.tolist()) for _, _, numbers in found)
    assert (train | validation, train & validation, test) == (set(range(120)), set(), set(range(10)))
    assert all((labels == numbers % 4).all() for _, labels, numbers in found)
    assert [split.count for split in dataset[2:5]] == [90, 30, 10]
    np.testing.assert_array_equal(dataset.train.indices, stream_of(folder).train.indices)
    assert (dataset.train.indices != stream_of(folder, seed=1).train.indices).any()
    assert (dataset.streams, dataset.image_shape, dataset.num_classes) == (True, (16, 16, 3), 4)


def test_only_training_images_are_cut_at_random_and_only_if_asked(folder, dataset):
    assert [split.part for split in dataset[2:5]] == [random_part, Centre(0.875), Centre(0.875)]
    assert stream_of(folder, resized_crop=False).train.part == Centre(0.875)


def test_the_part_depends_on_seed_step_and_sample(dataset):
    order = Shuffled(dataset.train.count, 8)
    one, same = (next(dataset.train.read(order, range(3, 4))).images for _ in range(2))
    np.testing.assert_array_equal(one, same)
    other_seed = next(replace(dataset.train, seed=1).read(order, range(3, 4))).images
    again = FixedOrder(dataset.train.count, dataset.train.count)
    assert (one != other_seed).any((1, 2, 3)).sum() > 4
    first, later = dataset.train.take(again(0), 0).images, dataset.train.take(again(0), 1).images
    assert (first != later).any((1, 2, 3)).mean() > 0.9
    left = first[..., 0].min((1, 2))
    assert left.std() > 1  # samples differ among themselves


def test_batches_are_those_of_one_process_whatever_reads_them(dataset):
    """Any number of workers, any first step, any share of the process."""
    order = Shuffled(dataset.train.count, 80)
    expected = list(dataset.train.read(order, range(2, 8)))
    assert len(expected) == 6
    assert equal(replace(dataset.train, workers=2).read(order, range(2, 8)), expected)
    assert equal(dataset.train.read(order, range(5, 8)), expected[3:])
    shares = [list(dataset.train.read(replace(order, process=rank, processes=2), range(2, 8))) for rank in (0, 1)]
    for rank, share in enumerate(shares):
        assert equal(share, [(images[rank::2], labels[rank::2]) for images, labels in expected])


def test_streams_travel_to_other_processes(dataset):
    order = Shuffled(dataset.train.count, 8)
    copy = pickle.loads(pickle.dumps(dataset.train))
    assert equal(copy.read(order, range(2)), dataset.train.read(order, range(2)))


def test_no_steps_are_no_batches(dataset):
    assert list(dataset.train.read(Shuffled(90, 8), range(3, 3))) == []


def test_processes_that_decode_leave_accelerator_and_signals_to_their_parent(dataset):
    assert [batch.labels.shape for batch in replace(dataset.train, workers=1).read(Watching(), range(2))] == [(2,)] * 2


def test_a_damaged_image_is_named_by_the_process_that_meets_it(tmp_path):
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    good = encoded(ramp(20, 20))
    samples = [{"image": good[:-40] if number == 5 else good, "label": 0} for number in range(40)]
    known = {"mean": (1.0,) * 3, "deviation": (1.0,) * 3}
    damaged = stream_of(write_set(tmp_path, {"train": samples, "test": samples[:3]}, features), **known).train
    order = FixedOrder(40, 8)
    messages = []
    for workers in (0, 2):
        with pytest.raises(gs.InputError, match=r"record \d+ of split 'train' in .* cannot be read") as caught:
            list(replace(damaged, indices=np.arange(40), workers=workers).read(order, range(order.steps)))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_shared_memory_that_does_not_suffice_is_told_before_it_kills(dataset, monkeypatch):
    monkeypatch.setattr(streaming.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**16, 0, 2**16))
    monkeypatch.setattr(streaming, "SHARED_MEMORY", TESTS)
    with pytest.raises(
        gs.InputError, match=r"2 workers take 1 MiB of shared memory, but .* has 1 left; lower data\.workers"
    ):
        next(replace(dataset.train, workers=2).read(Shuffled(90, 64), range(4)))


PROGRAM = """
import multiprocessing, sys

if __name__ == "__main__":  # the processes that decode import this file, and need none of it
    from dataclasses import replace
    from orders import Shuffled
    from gnsnn_jax.runtime.config import Data
    from gnsnn_jax.data.sets import load_dataset

    settings = Data(name=sys.argv[1], image_size=16)
    held, streamed = (load_dataset(replace(settings, memory_limit=limit), 0) for limit in (2.0, 0.0))
    stream = replace(streamed.train, workers=2)
    for step, batch in enumerate(stream.read(Shuffled(stream.count, 64), range(10**9))):
        if step == 5:
            processes = [child.pid for child in multiprocessing.active_children()]
            print(held.streams, streamed.streams, "tensorflow" in sys.modules, *processes, flush=True)
"""


@pytest.fixture(scope="module")
def killed(folder, tmp_path_factory):
    """What a program said that read sets in both ways until it was killed, beside a TensorFlow that cannot be imported;
    and the processes of its that are left some seconds later."""
    directory = tmp_path_factory.mktemp("program")
    (directory / "program.py").write_text(PROGRAM)
    (directory / "tensorflow").mkdir()
    (directory / "tensorflow" / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    paths = os.pathsep.join(map(str, (directory, TESTS, TESTS.parent)))
    program = subprocess.Popen(
        [sys.executable, directory / "program.py", folder], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    *said, first, second = program.stdout.readline().split()
    program.kill()
    program.communicate(timeout=60)
    deadline = time.monotonic() + 20
    left = {first, second}
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {process for process in left if Path("/proc", process).exists()}
    return said, left


def test_reading_never_imports_tensorflow(killed):
    said, _ = killed
    assert said == ["False", "True", "False"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to look for processes")
def test_processes_that_decode_end_with_a_parent_that_is_killed(killed):
    _, left = killed
    assert not left
