"""Images a second that the input pipeline gives by itself, beside those that a training step takes.

    python benchmarks/input_pipeline.py [--workers 0 1 2] [--photos N] [--batch N] [--output FILE]

Streamed: photos of 500x375 pixels as JPEG, cut at random to 224x224, by number of worker processes; the step is that of
the ImageNet recipe of ResNet-34. From memory: 50,000 images of 32x32 pixels on the device, a batch gathered and
augmented by CIFAR-10's recipe in one jitted function; the step is that of this recipe, which holds the augmentation.
"""

import io
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from gnsnn_jax.data.augmentation import augment
from gnsnn_jax.data.sets import Dataset, Split, Stream, load_dataset
from gnsnn_jax.data.statistics import PUBLISHED
from gnsnn_jax.data.streaming import usable_cores
from gnsnn_jax.report.machine import in_words, machine
from gnsnn_jax.runtime.command_line import Parser, console, count, run_script
from gnsnn_jax.runtime.config import Data, load_config
from gnsnn_jax.training.loop import initial_state, make_plan, train_step

STEPS = 8  # of a pipeline that are timed together
REPEATS = 5  # of which the median counts
CONFIGS = Path(__file__).parent.parent / "configs"
CIFAR10, IMAGENET = CONFIGS / "cifar10_vgg16.toml", CONFIGS / "imagenet_resnet34.toml"
PACKAGES = ("jax", "numpy", "grain", "array_record", "pillow", "tensorflow-datasets")


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="input_pipeline.py", description=__doc__)
    cores = usable_cores()
    parser.add_argument("--workers", nargs="+", type=int, default=sorted({0, 1, cores // 2, cores}), help="processes")
    parser.add_argument("--photos", type=count, default=512, help="photos on disk (512)")
    parser.add_argument("--batch", type=count, default=128, help="images that a pipeline gives at once (128)")
    parser.add_argument("--train-batch", type=count, default=16, help="small images of a training step (16)")
    parser.add_argument("--train-photos", type=count, default=2, help="photos of a training step (2), 1 GiB each")
    parser.add_argument("--output", type=Path, default=Path("input_pipeline.json"), help="JSON to write")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Shuffled:
    """An order that takes samples at random."""

    samples: int
    batch: int

    def __call__(self, step: int) -> np.ndarray:
        return np.random.default_rng(step).integers(0, self.samples, self.batch)


def photos(directory: Path, samples: int) -> Dataset:
    """A data set of photos on disk, each of waves and noise in about the 110 kB of ImageNet's."""
    import tensorflow_datasets as tfds
    from PIL import Image

    class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "photos"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=2),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, downloads):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            random = np.random.default_rng(0)
            y, x = np.mgrid[:375, :500][:, :, :, None]
            for number in range(samples):
                waves = np.sin(x / random.uniform(5, 50, 3)) + np.cos(y / random.uniform(5, 50, 3))
                pixels = 128 + 50 * waves + random.normal(0, 24, (375, 500, 3))
                file = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
                yield number, {"image": file.getvalue(), "label": number % 2}

    tfds.disable_progress_bar()
    Photos(data_dir=directory, file_format="array_record").download_and_prepare()
    settings = Data(name="photos", directory=str(directory), image_size=224, resized_crop=True, memory_limit=0)
    return load_dataset(replace(settings, mean=(128.0,) * 3, deviation=(64.0,) * 3), seed=0)


def small_images() -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    split = Split(images, random.integers(0, 10, len(images), dtype=np.int32))
    return Dataset("small", 10, split, split, split, PUBLISHED["cifar10"])


def calls_a_second(call, calls: int) -> float:
    """The median of REPEATS times some calls, after one that may start or compile something."""
    call()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        seconds.append(time.perf_counter() - started)
    return calls / statistics.median(seconds)


def streamed(stream: Stream, workers: int, batch: int) -> float:
    batches = replace(stream, workers=workers).read(Shuffled(stream.count, batch), range(1 + STEPS * REPEATS))
    try:
        return batch * calls_a_second(lambda: next(batches), STEPS)
    finally:
        batches.close()


def from_memory(dataset: Dataset, settings: Data, batch_size: int) -> float:
    images, known = jnp.asarray(dataset.train.images), dataset.statistics
    order, key = Shuffled(len(images), batch_size), jax.random.key(0)
    steps = iter(range(1 + STEPS * REPEATS))

    @jax.jit
    def batch(images, indices, step):
        return augment(images[indices], known, jax.random.fold_in(key, step), settings)

    def run():
        step = next(steps)
        batch(images, order(step), step).block_until_ready()

    return batch_size * calls_a_second(run, STEPS)


def trained(dataset: Dataset, recipe: Path, batch_size: int) -> float:
    """Images a second of training steps on a batch that is on the device already."""
    config = load_config(recipe)
    config = replace(config, training=replace(config.training, batch_size=batch_size))
    plan = make_plan(config, dataset)
    images, labels = jax.device_put(dataset.train.take(np.arange(batch_size)))
    step = jax.jit(partial(train_step, plan), donate_argnums=0)
    state = initial_state(plan)

    def run():
        nonlocal state
        state = jax.block_until_ready(step(state, images[None], labels[None]))

    return batch_size * calls_a_second(run, 1)


def measure(command) -> list[dict]:
    """A row for each pipeline: its images a second, those of the training step, and how many times as many it gives."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        dataset = photos(Path(directory), command.photos)
        step = trained(dataset, IMAGENET, command.train_photos)
        for workers in command.workers:
            name = f"streamed, {workers} workers" if workers else "streamed, threads"
            rows.append((name, streamed(dataset.train, workers, command.batch), step))
    dataset = small_images()
    step = trained(dataset, CIFAR10, command.train_batch)
    rows.append(("from memory", from_memory(dataset, load_config(CIFAR10).data, command.batch), step))
    names = ("input", "images_per_second", "training_images_per_second")
    return [dict(zip(names, row, strict=True)) | {"ratio": row[1] / row[2]} for row in rows]


def main() -> None:
    command = parse()
    batches = {"batch": command.batch, "train_batch": command.train_batch, "train_photos": command.train_photos}
    found = {"machine": machine(PACKAGES), **batches, "inputs": measure(command)}
    command.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    table = Table("input", title=in_words(found["machine"]))
    for column in ("images/s", "training step", "ratio"):
        table.add_column(column, justify="right")
    for name, *values, ratio in (row.values() for row in found["inputs"]):
        table.add_row(name, *(f"{value:,.1f}" for value in values), f"{ratio:.1f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(run_script("input_pipeline.py", main))
