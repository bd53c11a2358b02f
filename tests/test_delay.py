"""Outputs that are read from a later step on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, seeds
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs


@given(seeds, st.integers(0, 6))
def test_accuracy_with_a_delay_leaves_out_the_first_outputs(seed, delay):
    logits, labels = dyadic(seed, (5, 8, 3)), jnp.arange(8) % 3
    found = gs.accuracy_over_time(logits, labels, delay=delay)
    for t in range(1, 6):
        seen = np.float64(logits)[min(delay, t - 1) : t].sum(0)
        assert found[t - 1] == pytest.approx(np.mean(seen.argmax(-1) == np.asarray(labels)))
    if not delay:
        np.testing.assert_array_equal(found, gs.accuracy_over_time(logits, labels))


def test_a_delay_counts_the_steps_until_each_layer_fires():
    x = jnp.asarray([[0.5, -1.0], [0.25, -1.0]])
    behind = lambda x: jax.nn.relu(jax.nn.relu(x @ jnp.eye(2)) @ (jnp.eye(2) / 4))
    names = [each.name for each in gs.sites(behind, x)]
    snn = gs.to_spiking(behind, gs.integrate_and_fire(), steps=4, thresholds=dict.fromkeys(names, 1.0))
    # (1 - 1/2) / 0.375 + (1 - 1/2) / (0.375 / 4) = 1.33 + 5.33
    assert gs.find_delay(snn, [x]) == 7
    assert gs.find_delay(jax.jit(snn), [x, x]) == 7
    groups = gs.to_spiking(behind, gs.group_neuron(4), steps=4, thresholds=dict.fromkeys(names, 1.0))
    assert gs.find_delay(groups, [x]) == 2  # a quarter of it


def test_a_delay_is_a_number_of_steps():
    with pytest.raises(gs.InputError, match="delay must be 0 or a number of steps, got -1"):
        gs.accuracy_over_time(jnp.zeros((2, 3, 4)), jnp.zeros(3, jnp.int32), delay=-1)
