"""Images a second that the input pipeline gives by itself: streamed from disk, and from memory with augmentation.

    python benchmarks/input_pipeline.py [--workers 0 1 2] [--photos N] [--output FILE]

Streamed: photos of 500x375 pixels as JPEG, cut at random to 224x224, by number of worker processes. From memory: 50,000
images of 32x32 pixels on the device, a batch gathered and augmented by CIFAR-10's recipe in one jitted function.
"""

import io
import json
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from gnsnn_jax.command_line import Parser, console, count, run_script
from gnsnn_jax.training.augmentation import augment
from gnsnn_jax.training.config import Data, load_config
from gnsnn_jax.training.data import Statistics, Stream, load_dataset
from gnsnn_jax.training.statistics import PUBLISHED
from gnsnn_jax.training.streaming import usable_cores

BATCH = 128
STEPS = 8  # that are timed together
REPEATS = 5  # of which the median counts
CIFAR10 = Path(__file__).parent.parent / "configs" / "cifar10_vgg16.toml"
PACKAGES = ("jax", "numpy", "grain", "array_record", "pillow", "tensorflow-datasets")


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="input_pipeline.py", description=__doc__)
    cores = usable_cores()
    parser.add_argument("--workers", nargs="+", type=int, default=sorted({0, 1, cores // 2, cores}), help="processes")
    parser.add_argument("--photos", type=count, default=512, help="photos on disk (512)")
    parser.add_argument("--output", type=Path, default=Path("input_pipeline.json"), help="JSON to write")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Shuffled:
    """An order that takes samples at random."""

    samples: int

    def __call__(self, step: int) -> np.ndarray:
        return np.random.default_rng(step).integers(0, self.samples, BATCH)


def photos(directory: Path, samples: int) -> Stream:
    """A training split of photos on disk, each of waves and noise in about the 110 kB of ImageNet's."""
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
    return load_dataset(replace(settings, mean=(128.0,) * 3, deviation=(64.0,) * 3), seed=0).train


def rate(step) -> float:
    """Images a second, the median of REPEATS times STEPS calls, after one that may start or compile something."""
    step()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds.append(time.perf_counter() - started)
    return BATCH * STEPS / statistics.median(seconds)


def streamed(stream: Stream, workers: int) -> float:
    batches = replace(stream, workers=workers).read(Shuffled(stream.count), range(1 + STEPS * REPEATS))
    try:
        return rate(lambda: next(batches))
    finally:
        batches.close()


def from_memory(settings: Data, known: Statistics) -> float:
    random = np.random.default_rng(0)
    images = jnp.asarray(random.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8))
    order, key, steps = Shuffled(len(images)), jax.random.key(0), iter(range(1 + STEPS * REPEATS))

    @jax.jit
    def batch(images, indices, step):
        return augment(images[indices], known, jax.random.fold_in(key, step), settings)

    def run():
        step = next(steps)
        batch(images, order(step), step).block_until_ready()

    return rate(run)


def machine() -> dict[str, str]:
    return {
        "processor": f"{platform.machine()}, {usable_cores()} cores",
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def main() -> None:
    command = parse()
    found = {"machine": machine(), "batch": BATCH, "images_per_second": {}}
    with tempfile.TemporaryDirectory() as directory:
        stream = photos(Path(directory), command.photos)
        for workers in command.workers:
            name = f"streamed, {workers} workers" if workers else "streamed, threads"
            found["images_per_second"][name] = streamed(stream, workers)
    found["images_per_second"]["from memory"] = from_memory(load_config(CIFAR10).data, PUBLISHED["cifar10"])
    command.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    table = Table("input", "images/s", title=", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for name, value in found["images_per_second"].items():
        table.add_row(name, f"{value:,.0f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(run_script("input_pipeline.py", main))
