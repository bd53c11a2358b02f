"""Members by site under a budget of spikes."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, seeds
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.conversion.allocation import _cheapest, _measured
from gnsnn_jax.conversion.quantised import quantised
from gnsnn_jax.engine.tracing import parted


@given(seeds, st.integers(1, 4), st.integers(1, 4), st.floats(0, 1))
def test_the_choice_is_the_best_of_all(seed, sites, choices, share):
    random = np.random.default_rng(seed)
    errors, spikes = random.random((sites, choices)), random.random((sites, choices))
    budget = spikes.min(1).sum() + share * (spikes.max(1).sum() - spikes.min(1).sum())
    chosen = _cheapest(errors, spikes, budget)
    cost = lambda each, table: sum(table[site, at] for site, at in enumerate(each))
    assert cost(chosen, spikes) <= budget + 1e-9
    allowed = [each for each in product(range(choices), repeat=sites) if cost(each, spikes) <= budget + 1e-12]
    assert cost(chosen, errors) <= min(cost(each, errors) for each in allowed) + 1e-12


def network(weights, x):
    for each in weights[:-1]:
        x = jax.nn.relu(x @ each)
    return x @ weights[-1]


@cache
def setting():
    weights = [dyadic(at, shape, -1, 1) for at, shape in enumerate(((6, 32), (32, 16), (16, 4)))]
    x = dyadic(7, (40, 6))
    return weights, x, gs.find_thresholds(network, [x], 16, variables=weights)


def spikes_of(neurons, weights, x, thresholds):
    snn = gs.to_spiking(network, neurons, steps=1, thresholds=thresholds)
    count = lambda spikes, site: snn.neuron_of(site).count(spikes, thresholds[site.name]).reshape(1, len(x), -1).sum(-1)
    _, found = snn.observed(count)(weights, x)
    return sum(float(each.mean()) for each in found)


def test_what_is_measured_is_that_of_quantised_networks():
    weights, x, thresholds = setting()
    spiking = gs.to_spiking(network, gs.group_neuron(8), steps=1, thresholds=thresholds)
    arrays, others = parted((weights, x), {})
    divergences, spikes = _measured(spiking, others, (8,), arrays)
    np.testing.assert_allclose(divergences, np.zeros((2, 1)), atol=1e-6)
    neurons = {name: gs.group_neuron(8) for name in thresholds}
    assert float(spikes.sum()) == pytest.approx(spikes_of(neurons, weights, x, thresholds), rel=1e-5)
    divergences, _ = _measured(spiking, others, (2, 8), arrays)
    coarse = gs.to_spiking(
        network, {list(thresholds)[1]: gs.group_neuron(2), "*": gs.group_neuron(8)}, steps=1, thresholds=thresholds
    )(weights, x)[0]
    before, after = (jax.nn.log_softmax(each) for each in (quantised(spiking, 8)(weights, x), coarse))
    np.testing.assert_allclose(divergences[1, 0], (jnp.exp(before) * (before - after)).sum(-1).mean(), rtol=1e-3)


@pytest.mark.parametrize("share", [0.15, 0.4, 1.0])
def test_a_budget_is_kept_and_used(share):
    weights, x, thresholds = setting()
    all_of = lambda members: {name: gs.group_neuron(members) for name in thresholds}
    most = spikes_of(all_of(16), weights, x, thresholds)
    found = gs.allocate_members(network, [x[:20], x[20:]], thresholds, share * most + 1e-3, variables=weights)
    assert list(found) == list(thresholds)
    # Layers behind coarse ones get other currents than those that were measured.
    assert spikes_of(found, weights, x, thresholds) <= 1.1 * share * most + 1e-2
    if share == 1.0:
        assert found == all_of(16)
    outputs = gs.to_spiking(network, found, steps=4, thresholds=thresholds)(weights, x)
    assert (outputs.sum(0).argmax(-1) == network(weights, x).argmax(-1)).mean() > 0.7


def test_what_does_not_fit_is_said():
    weights, x, thresholds = setting()
    with pytest.raises(gs.InputError, match=r"a budget of 0\.001 spikes is less than the fewest"):
        gs.allocate_members(network, [x], thresholds, 0.001, variables=weights)
    with pytest.raises(gs.InputError, match="a number of members must be at least 1"):
        gs.allocate_members(network, [x], thresholds, 10.0, variables=weights, choices=(0, 1))
    with pytest.raises(gs.InputError, match="choices must hold at least one"):
        gs.allocate_members(network, [x], thresholds, 10.0, variables=weights, choices=())
    one = lambda weights, x: network(weights, x)[:, :1]
    names = [each.name for each in gs.sites(one, weights, x)]
    with pytest.raises(gs.InputError, match="2 classes or more"):
        gs.allocate_members(one, [x], dict.fromkeys(names, jnp.float32(1)), 1e6, variables=weights)
