"""What counting costs: the time of a simulation that counts, over that of the same one that does not.

    python benchmarks/counting.py [--model NAME] [--image-size PIXELS] [--batch-size N] [--steps T]

Ratios of processor time on CPUs, so that what else runs there does not matter much; on the clock on other devices.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from measuring import Seconds, interleaved
from rich.table import Table

import gnsnn_jax as gs
from gnsnn_jax.analysis.connections import connections_of
from gnsnn_jax.analysis.observation import Observation
from gnsnn_jax.runtime.command_line import Parser, console, count, run_script

LEVELS = 8
REPEATS = 5  # of which the median counts
METHODS = {
    "IF": (gs.integrate_and_fire(), None),
    "COS": (gs.integrate_and_fire(), gs.offset_spikes(LEVELS)),
    "GN": (gs.group_neuron(LEVELS), None),
}


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="counting.py", description=__doc__)
    parser.add_argument("--model", default="resnet20", help="network (resnet20)")
    parser.add_argument("--image-size", type=count, default=32, help="pixels a side (32)")
    parser.add_argument("--batch-size", type=count, default=16, help="samples (16)")
    parser.add_argument("--steps", type=count, default=8, help="time-steps (8)")
    return parser.parse_args(arguments)


def finished(function: Callable, *args: Any) -> Callable[[], object]:
    """A case for `interleaved`."""
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*args))


def ratio(case: Seconds, plain: Seconds) -> float:
    return case.processor_ratio_to(plain) if jax.default_backend() == "cpu" else case.ratio_to(plain)


def main() -> None:
    command = parse()
    model = gs.build(command.model, num_classes=10, levels=LEVELS, threshold=2.0)
    size = command.image_size
    images = jax.random.normal(jax.random.key(1), (command.batch_size, size, size, 3))
    variables = gs.fold_batch_norm(model.init(jax.random.key(0), images[:1]))
    present = jnp.ones(command.batch_size, bool)
    table = Table("method", "seconds", "counting", "and comparing rates at the end")
    for name, (neuron, calibration) in METHODS.items():
        snn = gs.to_spiking(model.apply, neuron, steps=command.steps, calibration=calibration)
        connections = connections_of(snn, images, variables=variables)
        counted, compared = (Observation(snn, connections, (command.steps,), compare) for compare in (False, True))
        cases = {
            "plain": finished(snn, variables, images),
            "counting": finished(counted.of_batch, (variables, images), present),
            "comparing": finished(compared.of_batch, (variables, images), present),
        }
        plain, *watched = interleaved(cases, REPEATS).values()
        table.add_row(name, f"{plain.median:.3f}", *(f"{ratio(each, plain):.2f}" for each in watched))
    console.print(table)


if __name__ == "__main__":
    sys.exit(run_script("counting.py", main))
