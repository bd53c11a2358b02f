"""Time and memory of the simulation beside T forward passes of the network, and beside PyTorch and SpikingJelly.

    python benchmarks/simulation.py [--networks resnet20] [--batches 16] [--steps 8] [--chunks 4 8] [--repeats 5] ...

For each network, batch B, number of steps T and precision, all cases take turns: the network T times at
batch B, which is what all is measured by; once at batch T B; IF, GN (m = L) and COS (rho = 4) by chunk,
with the seconds that they took to compile and their temporary memory; training steps, of which the one
of IF goes through all T steps; the same in PyTorch and SpikingJelly where these are installed, in
float32. Ratios are medians over the repeats, each within one repeat; those of processor time bear
other programs on the machine, and mean nothing for a GPU. Early stop: GN, each sample let go at the
confidence that half of them have after T/2 steps; its time is to be held against that of GN.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from measuring import Seconds, interleaved
from rich.table import Table

import gnsnn_jax as gs
from gnsnn_jax.conversion.stopping import confidence_of
from gnsnn_jax.method.methods import parse_method
from gnsnn_jax.models import networks
from gnsnn_jax.report.machine import in_words, machine
from gnsnn_jax.runtime.command_line import Parser, console, count, run_script

CLASSES = 100
LEVELS = 8
THRESHOLD = 8.0
PROBE_STEPS = 4
SIDE = 32
REFERENCE = "ANN, T times"
PACKAGES = ("jax", "jaxlib", "flax", "torch", "spikingjelly")
# Type of the network's arithmetic, and the precision of its products: TF32 exists on GPUs alone.
PRECISIONS = {
    "float32": (jnp.float32, "float32"),
    "tf32": (jnp.float32, "tensorfloat32"),
    "bfloat16": (jnp.bfloat16, "default"),
}


@dataclass(frozen=True)
class Setting:
    """What all cases of one comparison have in common."""

    network: str
    batch: int
    steps: int
    precision: str

    def __str__(self):
        return f"{self.network}, batch {self.batch}, T = {self.steps}, {self.precision}"


class Case(NamedTuple):
    run: Callable[[], Any]
    compile_seconds: float | None = None
    temporary_bytes: int | None = None


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="simulation.py", description=__doc__)
    parser.add_argument(
        "--networks", nargs="+", default=["resnet20", "resnet18", "vgg16"], choices=sorted(networks() | OWN_NETWORKS),
        metavar="NETWORK", help="networks (resnet20 resnet18 vgg16; vit_s and max_pooled run on means and sums too)",
    )  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=count, default=[16, 128], help="batch sizes (16 128)")
    parser.add_argument("--steps", nargs="+", type=count, default=[1, 4, 8, 32], help="time-steps T (1 4 8 32)")
    parser.add_argument("--chunks", nargs="+", type=count, default=[None], help="chunks (that of to_spiking)")
    parser.add_argument("--methods", nargs="+", default=["if", "gn", "cos"], help="methods (if gn cos)")
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=PRECISIONS, help="types (float32)")
    parser.add_argument("--repeats", type=count, default=5, help="of which the median counts (5)")
    parser.add_argument("--training", action="store_true", help="training steps too")
    parser.add_argument("--without-torch", action="store_true", help="leave PyTorch and SpikingJelly out")
    parser.add_argument("--output", type=Path, default=Path("simulation.json"), help="JSON to write")
    return parser.parse_args(arguments)


def settings(command) -> Iterator[Setting]:
    for network in command.networks:
        for batch in command.batches:
            for steps in command.steps:
                for precision in command.precisions:
                    yield Setting(network, batch, steps, precision)


def compiled(function: Callable, *args: Any) -> Case:
    started = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - started
    memory = program.memory_analysis()
    return Case(lambda: jax.block_until_ready(program(*args)), seconds, memory.temp_size_in_bytes if memory else None)


def our_cases(setting: Setting, methods: list[str], chunks: list[int | None], training: bool) -> dict[str, Case]:
    dtype, products = PRECISIONS[setting.precision]
    single = network_of(setting.network)
    model = single.clone(dtype=dtype)
    # Potentials and what leads to them are float32 always; the type is that of the products with spikes.
    time_and_type = {"steps": setting.steps, "product_dtype": None if dtype == jnp.float32 else dtype}
    images = jax.random.normal(jax.random.key(0), (setting.batch, SIDE, SIDE, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    folded = gs.fold_batch_norm(variables) if "batch_stats" in variables else variables
    time_and_type["thresholds"] = thresholds_of(single.apply, folded, images)
    with jax.default_matmul_precision(products):
        once = compiled(model.apply, folded, images)
        cases = {REFERENCE: once._replace(run=lambda: [once.run() for _ in range(setting.steps)])}
        cases["ANN, batch T B"] = compiled(model.apply, folded, jnp.tile(images, (setting.steps, 1, 1, 1)))
        for name in methods:
            method = parse_method(name, members=LEVELS, probe_steps=PROBE_STEPS)
            for chunk in chunks:
                snn = gs.to_spiking(
                    single.apply, method.neuron, calibration=method.calibration, chunk=chunk, **time_and_type
                )
                cases[method.name + (f", chunk {chunk}" if chunk else "")] = compiled(snn, folded, images)
        if setting.steps > 1:
            cases |= early_stop(gs.to_spiking(single.apply, gs.group_neuron(LEVELS), **time_and_type), folded, images)
        if training:
            snn = gs.to_spiking(single.apply, gs.integrate_and_fire(), **time_and_type)
            cases["ANN, training step"] = training_step(partial(ann_in_training, model), variables, images)
            cases["IF, training step"] = training_step(lambda *args: (snn(*args).mean(0), {}), folded, images)
    return cases


class MaxPooled(nn.Module):
    """A VGG-like network with ReLU and overlapping max-pooling."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        for channels in (64, 128, 256):
            for _ in range(2):
                x = nn.relu(nn.Conv(channels, (3, 3), padding=((1, 1), (1, 1)), dtype=self.dtype)(x))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return nn.Dense(CLASSES)(x.mean((1, 2)).astype(jnp.float32))


OWN_NETWORKS = {"max_pooled": MaxPooled}


def network_of(name: str) -> nn.Module:
    if name in OWN_NETWORKS:
        return OWN_NETWORKS[name]()
    return gs.build(name, num_classes=CLASSES, levels=LEVELS, threshold=THRESHOLD)


def thresholds_of(ann: Callable, variables: Any, images: jax.Array) -> dict[str, Any] | None:
    """The largest activations, for networks with activations that have no threshold of their own."""
    if all(site.kind == "qcfs" for site in gs.sites(ann, variables, images)):
        return None
    return gs.find_thresholds(ann, [images], LEVELS, method="max", variables=variables)


def early_stop(snn: Callable, variables: Any, images: jax.Array) -> dict[str, Case]:
    confidences = confidence_of(jnp.cumsum(jax.jit(snn)(variables, images), 0))
    stopping = gs.stop_when(float(jnp.median(confidences[len(confidences) // 2 - 1])))(snn)
    latency = stopping(variables, images).latency.mean()
    return {f"GN, early stop, {latency:.1f} steps on average": Case(lambda: stopping(variables, images))}


def ann_in_training(model, variables: Any, images: jax.Array) -> tuple[jax.Array, Any]:
    """Outputs and the statistics of the batch norms after them."""
    return model.apply(variables, images, train=True, mutable=["batch_stats"])


def training_step(network: Callable, variables: Any, images: jax.Array) -> Case:
    """One step of SGD with momentum on a network that returns outputs and the state that it changed."""
    labels = jnp.zeros(len(images), jnp.int32)
    optimizer = optax.sgd(0.01, momentum=0.9)

    def loss(params, state):
        outputs, changed = network({"params": params, **state}, images)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean(), changed

    def step(params, state, moments):
        gradient, changed = jax.grad(loss, has_aux=True)(params, state)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), state | changed, moments

    params = variables["params"]
    state = {name: tree for name, tree in variables.items() if name != "params"}
    return compiled(step, params, state, optimizer.init(params))


def rival_cases(setting: Setting, training: bool) -> dict[str, Case]:
    import torch_rivals

    found = torch_rivals.cases(setting.network, setting.batch, setting.steps, CLASSES, LEVELS, THRESHOLD, training)
    return {name: Case(run) for name, run in found.items()}


def rivals_can_run(setting: Setting) -> bool:
    installed = all(importlib.util.find_spec(package) for package in ("torch", "spikingjelly"))
    return installed and setting.precision == "float32"


def measure(setting: Setting, command) -> list[dict[str, Any]]:
    """One row for each case of a setting."""
    cases = our_cases(setting, command.methods, command.chunks, command.training)
    if rivals_can_run(setting) and not command.without_torch:
        cases |= rival_cases(setting, command.training)
    seconds = interleaved({name: case.run for name, case in cases.items()}, command.repeats)
    return [row(setting, name, case, seconds[name], seconds[REFERENCE]) for name, case in cases.items()]


def row(setting: Setting, name: str, case: Case, seconds: Seconds, reference: Seconds) -> dict[str, Any]:
    return asdict(setting) | {
        "case": name,
        "seconds": seconds.median,
        "ratio": seconds.ratio_to(reference),
        "processor_ratio": seconds.processor_ratio_to(reference),
        "compile_seconds": case.compile_seconds,
        "temporary_bytes": case.temporary_bytes,
    }


def table_of(setting: Setting, rows: list[dict[str, Any]]) -> Table:
    table = Table("case", title=str(setting))
    for column in ("seconds", "ratio", "of processor time", "compile s", "temporary MB"):
        table.add_column(column, justify="right")
    for found in rows:
        table.add_row(
            found["case"],
            f"{found['seconds']:.3f}",
            f"{found['ratio']:.2f}",
            f"{found['processor_ratio']:.2f}",
            "" if found["compile_seconds"] is None else f"{found['compile_seconds']:.1f}",
            "" if found["temporary_bytes"] is None else f"{found['temporary_bytes'] / 1e6:.0f}",
        )
    return table


def main() -> None:
    command = parse()
    about = machine(PACKAGES)
    console.print(in_words(about), soft_wrap=True)
    rows = []
    for setting in settings(command):
        found = measure(setting, command)
        console.print(table_of(setting, found))
        rows += found
        write(command.output, about, command.repeats, rows)


def write(path: Path, about: Mapping[str, str], repeats: int, rows: list[dict[str, Any]]) -> None:
    """After each setting, so that a run which is stopped leaves what it found."""
    found = {"date": date.today().isoformat(), "machine": about, "repeats": repeats, "rows": rows}
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_script("simulation.py", main))
