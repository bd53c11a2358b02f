"""What a simulation may cost: memory that time does not add to, and one compilation for equal settings."""

import os
import re
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NEURONS = {
    "if": (gs.integrate_and_fire(), None),
    "gn": (gs.group_neuron(4), None),
    "cos": (gs.integrate_and_fire(), gs.offset_spikes(4)),
}
COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILATIONS.append(event) if event.endswith("backend_compile_duration") else None
)


def network():
    return gs.build("resnet10", num_classes=3, levels=4, blocks=(1,), widths=(8,))


@cache
def numbers():
    """Weights and images."""
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    return jax.jit(network().init)(jax.random.key(1), images), images


@pytest.mark.parametrize("name", NEURONS)
def test_memory_does_not_grow_with_time(name):
    neuron, calibration = NEURONS[name]

    def temporary_bytes(steps):
        snn = gs.to_spiking(network().apply, neuron, steps=steps, calibration=calibration)
        return jax.jit(snn).lower(*numbers()).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(1024) <= 1.1 * temporary_bytes(8)


@partial(jax.jit, static_argnames="snn")
def simulated(snn, variables, images):
    return snn(variables, images)


def test_windows_of_units_are_not_evaluated_while_compiling():
    """Max-pooling reads units by channel; XLA takes seconds for what is constant there."""
    weights, thresholds = jax.random.normal(jax.random.key(0), (3, 5)), jnp.arange(1.0, 6.0)
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    ann = lambda x: pool(gs.qcfs(x @ weights, thresholds, 4))
    snn = jax.jit(gs.to_spiking(ann, gs.group_neuron(4), steps=2))
    text = snn.lower(jnp.zeros((4, 6, 6, 3))).compile().as_text()
    assert "f32[4,3,3,5]" in text
    assert not re.search(r"\[4,3,3,5\]\S* constant", text)


def test_equal_settings_and_other_numbers_compile_once():
    for times in range(3):
        snn = gs.to_spiking(network().apply, gs.group_neuron(4), steps=2, calibration=gs.offset_spikes(2))
        other_numbers = jax.tree.map(lambda x, times=times: x * (1 + times), numbers())
        before = len(COMPILATIONS)
        jax.block_until_ready(simulated(snn, *other_numbers))
        assert (len(COMPILATIONS) > before) == (times == 0)


def test_thresholds_that_are_arguments_share_one_compilation():
    ann = lambda weights, x: jax.nn.relu(x @ weights) @ weights

    @jax.jit
    def spiking(weights, thresholds, x):
        return gs.to_spiking(ann, gs.integrate_and_fire(), steps=2, thresholds=thresholds)(weights, x)

    weights, x = jnp.eye(3), jnp.ones((2, 3))
    (site,) = gs.sites(ann, weights, x)
    found = [spiking(weights, {site.name: jnp.float32(threshold)}, x) for threshold in (0.5, 1.0)]
    assert spiking._cache_size() == 1
    np.testing.assert_array_equal(found[0].sum(0), np.ones((2, 3)))
    np.testing.assert_array_equal(found[1].sum(0), 2 * np.ones((2, 3)))


def compile_with(cache_home):
    code = (
        "import jax, jax.numpy as jnp\n"
        "from gnsnn_jax.runtime.command_line import keep_compilations\n"
        "keep_compilations()\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))\n"
        "jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).block_until_ready()\n"
        "print(any(event.endswith('cache_hits') for event in hits))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment | {"XDG_CACHE_HOME": str(cache_home)}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip() == "True"


def test_programs_are_kept_for_the_next_run(tmp_path):
    assert not compile_with(tmp_path)
    assert compile_with(tmp_path)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert not compile_with(tmp_path / "file")
