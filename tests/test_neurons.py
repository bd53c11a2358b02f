"""One suite of theorems that every neuron and every calibration of the library passes."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
from cases import CALIBRATIONS, GRAIN, GROUPS, NEURONS, OFFSETS, dyadic, members, seeds, shapes, thresholds_for
from hypothesis import given, settings
from hypothesis import strategies as st

import gnsnn_jax as gs

# Of [T, ...]; a few, as each compiles once for each neuron. Up to 16 steps are unrolled, two at a time.
SHAPES = [(1,), (5, 2, 1, 3), (18, 4)]
MANY = (6, 40)
PROBES = [(1, 40), MANY]


@st.composite
def simulations(draw, neurons=tuple(NEURONS), of=SHAPES):
    """A neuron, currents and a threshold whose sums are exact."""
    neuron = draw(st.sampled_from(neurons))
    threshold = draw(thresholds_for(neuron.members))
    lowest = -2 * threshold if neuron.signed else -threshold
    currents = dyadic(draw(seeds), draw(st.sampled_from(of)), lowest, 2 * threshold)
    return neuron, currents, threshold


def off_ties(simulation):
    """Without a charge half-way between two counts, where a second pass rounds: its margin is no power of two."""
    neuron, currents, threshold = simulation
    return neuron, currents.at[0].add(GRAIN / 2), threshold


@partial(jax.jit, static_argnames=("calibration", "neuron"))
def calibrated(calibration, neuron, currents, threshold):
    return calibration.initial(neuron, currents, threshold)


def assert_equal_trees(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def neuron_by_neuron(x):
    return np.float64(x).reshape(len(x), -1).T


def quantised(x, unit, lowest, most):
    """QCFS in double precision, which goes on below 0 where `lowest` does."""
    return unit * np.clip(np.floor(np.float64(x) / unit + 0.5), lowest, most)


@given(simulations())
def test_charge_is_conserved(simulation):
    neuron, currents, threshold = simulation
    outputs, state = gs.run(neuron, currents, threshold)
    start = neuron.potential(neuron.init(jnp.float32(threshold), currents.shape[1:]))
    np.testing.assert_array_equal(currents.sum(0) + start, outputs.sum(0) + neuron.potential(state))


@given(simulations())
def test_outputs_lie_on_the_lattice(simulation):
    neuron, currents, threshold = simulation
    units = gs.run(neuron, currents, threshold)[0] / (threshold / neuron.members)
    np.testing.assert_array_equal(units, jnp.round(units))
    assert ((units >= neuron.lowest) & (units <= neuron.members)).all()


@given(simulations())
def test_doubling_currents_and_threshold_doubles_outputs(simulation):
    neuron, currents, threshold = simulation
    outputs, state = gs.run(neuron, currents, threshold)
    doubled, doubled_state = gs.run(neuron, 2 * currents, 2 * threshold)
    np.testing.assert_array_equal(doubled, 2 * outputs)
    np.testing.assert_array_equal(neuron.potential(doubled_state), 2 * neuron.potential(state))


@given(simulations(), seeds)
def test_outputs_depend_on_no_later_current(simulation, seed):
    neuron, currents, threshold = simulation
    known = len(currents) // 2
    changed = jnp.concatenate([currents[:known], dyadic(seed, currents[known:].shape)])
    np.testing.assert_array_equal(
        gs.run(neuron, currents, threshold)[0][:known], gs.run(neuron, changed, threshold)[0][:known]
    )


@pytest.mark.slow
@given(simulations())
def test_carrying_the_state_continues_the_simulation(simulation):
    neuron, currents, threshold = simulation
    cut = (len(currents) + 1) // 2
    head, state = gs.run(neuron, currents[:cut], threshold)
    tail, final = gs.run(neuron, currents[cut:], threshold, state)
    whole, expected = gs.run(neuron, currents, threshold)
    np.testing.assert_array_equal(jnp.concatenate([head, tail]), whole)
    assert_equal_trees(final, expected)


@given(shapes, members.flatmap(lambda m: st.tuples(st.just(m), thresholds_for(m))), seeds)
def test_group_neuron_after_one_step_is_qcfs(shape, case, seed):
    count, threshold = case
    x = dyadic(seed, shape, -threshold, 2 * threshold)
    outputs, _ = gs.run(gs.group_neuron(count), x[None], threshold)
    np.testing.assert_array_equal(outputs[0], gs.qcfs(x, threshold, count))


@given(shapes, members, st.sampled_from([1, 2, 4, 8]), seeds)
def test_group_neuron_over_time_is_qcfs_of_as_many_levels_as_units(shape, count, steps, seed):
    # theta / (m T) must be a power of two for the sums to be exact.
    threshold = 0.5 * count
    x = dyadic(seed, shape, -threshold, 2 * threshold)
    outputs, _ = gs.run(gs.group_neuron(count), jnp.broadcast_to(x, (steps, *shape)), threshold)
    np.testing.assert_array_equal(outputs.mean(0), gs.qcfs(x, threshold, count * steps))


@given(shapes, members, st.sampled_from([1, 2, 4, 8]), seeds)
def test_signed_group_neuron_over_time_is_qcfs_that_goes_on_below_zero(shape, count, steps, seed):
    threshold = 0.5 * count
    x = dyadic(seed, shape, -2 * threshold, 2 * threshold)
    outputs, _ = gs.run(gs.group_neuron(count, signed=True), jnp.broadcast_to(x, (steps, *shape)), threshold)
    np.testing.assert_array_equal(outputs.mean(0), quantised(x, 0.5 / steps, -count * steps, count * steps))


@given(simulations(GROUPS, [MANY]))
def test_group_neurons_spike_as_their_members_one_by_one(simulation):
    neuron, currents, threshold = simulation
    outputs, _ = gs.run(neuron, currents, threshold)
    for own, found in zip(neuron_by_neuron(currents), neuron_by_neuron(outputs), strict=True):
        counts, _ = numpy_reference.run_group(own, threshold, neuron.members, 0.5, neuron.signed)
        np.testing.assert_array_equal(found / (threshold / neuron.members), counts)


# The staircase of both signs.


@given(st.sampled_from([0.3, 0.7, 3.3, 41.0, 47.0, 49.0]), st.sampled_from([1, 4, 9]))
def test_a_value_on_a_signed_step_is_on_that_step(unit, levels):
    unit, steps = jnp.float32(unit), jnp.arange(-levels - 3.0, levels + 3.0)
    for staircase in (gs.staircase, jax.jit(gs.staircase, static_argnums=(2, 3))):
        np.testing.assert_array_equal(
            staircase(steps * unit, unit, levels, True), jnp.clip(steps, -levels, levels) * unit
        )
        just_below = jnp.where(steps == 0, -jnp.finfo(jnp.float32).tiny, jnp.nextafter(steps * unit, -jnp.inf))
        below = staircase(just_below, unit, levels, True)
        np.testing.assert_array_equal(below, jnp.clip(steps - 1, -levels, levels) * unit)


def test_far_signed_steps_are_exact_too():
    steps = jnp.asarray([-(10**6), -(10**6) + 1, -999_983, -3, 999_983], jnp.float32)
    for unit in map(jnp.float32, (0.3, 1.0, 47.0)):
        np.testing.assert_array_equal(gs.staircase(steps * unit, unit, 10**6, True), steps * unit)
        below = jnp.nextafter(steps[1:] * unit, -jnp.inf)
        np.testing.assert_array_equal(gs.staircase(below, unit, 10**6, True), (steps[1:] - 1) * unit)


@pytest.mark.parametrize("x", [jnp.inf, -jnp.inf, jnp.nan])
def test_the_signed_staircase_of_what_is_not_finite(x):
    for levels in (1, 3):
        expected = np.clip(x, -levels, levels)
        np.testing.assert_array_equal(gs.staircase(jnp.float32(x), 1.0, levels, True), expected)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 3, 4])
@pytest.mark.parametrize("unit", [0.5, 0.7])
def test_gradients_of_the_signed_staircase_at_and_between_the_edges(unit, levels):
    unit = jnp.float32(unit)
    edges = (jnp.asarray([-levels + 0.5, levels + 0.5], jnp.float32)) * unit
    inner = (jnp.arange(-levels, levels + 1.0) + 0.25)[1:] * unit
    x = jnp.concatenate([edges, inner, jnp.asarray([-9.0, 9.0]), jnp.nextafter(edges, edges * 2)])
    y = gs.staircase(x, unit, levels, True)
    of = lambda x, u: gs.staircase(x, u, levels, True)
    by_x, by_unit = jax.vmap(jax.grad(of, argnums=(0, 1)), (0, None))(x, unit)
    inside = (x >= edges[0]) & (x <= edges[1])
    np.testing.assert_array_equal(by_x, inside.astype(jnp.float32))
    expected = jnp.where(inside, (y - x) / unit, jnp.where(x > 0, levels, -levels).astype(jnp.float32))
    np.testing.assert_allclose(by_unit, expected, atol=1e-6)
    assert int(inside.sum()) == len(x) - 4


# The signed neuron with memory.


@st.composite
def with_memory(draw, largest):
    """A start, currents of at most so many thresholds and a threshold, sums exact."""
    threshold = draw(thresholds_for(1))
    currents = dyadic(draw(seeds), MANY, -largest * threshold, largest * threshold + 1 / 64)
    return draw(st.sampled_from([0.0, 0.5])), currents, threshold


@given(with_memory(2))
def test_a_signed_neuron_with_memory_spikes_as_its_equations_say(case):
    start, currents, threshold = case
    outputs, state = gs.run(gs.signed_memory_neuron(start), currents, threshold)
    found = zip(neuron_by_neuron(outputs), np.asarray(state.potential), np.asarray(state.memory), strict=True)
    for own, (spikes, potential, memory) in zip(neuron_by_neuron(currents), found, strict=True):
        counts, potentials, memories = numpy_reference.run_signed_memory(own, threshold, start)
        np.testing.assert_array_equal(spikes / threshold, counts)
        assert (potential, memory) == (potentials[-1], memories[-1])


@given(with_memory(3))
def test_memory_is_the_count_and_never_negative(case):
    start, currents, threshold = case
    outputs, state = gs.run(gs.signed_memory_neuron(start), currents, threshold)
    so_far = jnp.cumsum(outputs / threshold, 0)
    np.testing.assert_array_equal(state.memory, so_far[-1])
    assert (so_far >= 0).all()


@given(with_memory(1))
def test_with_memory_the_count_is_right_at_every_step_or_one_more(case):
    """Of currents within one threshold, by which the potential is below 0 or not."""
    start, currents, threshold = case
    outputs, _ = gs.run(gs.signed_memory_neuron(start), currents, threshold)
    charge = np.cumsum(np.float64(currents), 0) / threshold + start
    count = np.cumsum(np.float64(outputs), 0) / threshold
    right = np.clip(np.floor(charge), 0, np.arange(1, len(currents) + 1)[:, None])
    np.testing.assert_array_equal(count - right, (charge < count) & (count > 0))


@given(st.sampled_from([1, 4, 12]), seeds)
def test_with_memory_the_mean_converges_to_the_staircase_whatever_came_before(steps, seed):
    """Where IF keeps the spikes of a short large current for ever, they are taken back."""
    neuron, x = gs.signed_memory_neuron(), dyadic(seed, (40,), 0.0, 1.0)
    burst = jnp.stack([jnp.ones_like(x), jnp.ones_like(x), -jnp.ones_like(x), -jnp.ones_like(x)])
    before, state = gs.run(neuron, burst, 1.0)
    after, _ = gs.run(neuron, jnp.broadcast_to(x, (steps, 40)), 1.0, state)
    total = np.asarray(before).sum(0) + np.asarray(after).sum(0) - quantised(steps * x, 1.0, 0, steps)
    assert ((total == 0) | (total == 1)).all()
    assert (total[np.asarray(x) * steps >= 1.5] == 0).all()


@given(st.sampled_from([1, 7]), seeds)
def test_with_memory_constant_currents_give_what_if_gives(steps, seed):
    x = jnp.broadcast_to(dyadic(seed, (40,)), (steps, 40))
    found, _ = gs.run(gs.signed_memory_neuron(), x, 1.0)
    np.testing.assert_array_equal(found, gs.run(gs.integrate_and_fire(), x, 1.0)[0])


def test_surrogate_of_both_spikes_of_a_neuron_with_memory():
    """A rectangle around each threshold, the negative one where there is a spike to take back."""
    neuron, x = gs.signed_memory_neuron(), jnp.asarray([-1.51, -1.5, -1.0, -0.5, -0.49, 0.49, 0.5, 1.0, 1.5, 1.51])
    for memory, below in ((0, 0), (2, 1)):
        state = neuron.init(jnp.float32(1), ())._replace(potential=jnp.float32(0), memory=jnp.int32(memory))
        slope = jax.vmap(jax.grad(lambda x, state=state: neuron.step(state, x, jnp.float32(1))[1]))(x)
        np.testing.assert_array_equal(slope, [0, below, below, below, 0, 0, 1, 1, 1, 0])


@pytest.mark.usefixtures("unchecked")
def test_a_start_that_is_not_finite_is_refused():
    for start in (np.nan, np.inf):
        with pytest.raises(gs.InputError, match="start must be finite"):
            gs.signed_memory_neuron(start)
    assert repr(gs.signed_memory_neuron(0)) == "SignedMemoryNeuron(start=0.0)"


# More on group neurons.


def test_group_neuron_of_one_member_is_if():
    assert gs.group_neuron(1) == gs.integrate_and_fire()
    outputs, potential = gs.run(gs.integrate_and_fire(), jnp.asarray([0.25, 0.25, 0.0, 2.0, 0.0]), 1.0)
    np.testing.assert_array_equal(outputs, [0, 1, 0, 1, 1])
    assert potential == 0.0


def test_if_fires_at_the_threshold_exactly_and_keeps_the_remainder():
    for threshold in (0.3, 0.7, 41.0, 49.0):
        theta = jnp.float32(threshold)
        outputs, potential = gs.run(gs.integrate_and_fire(), theta[None], theta, jnp.float32(0))
        assert outputs[0] == theta
        assert potential == 0


def test_group_neuron_emits_as_its_members_would():
    """The published neuron: m members, each with threshold theta/m and the others' charge below its own."""
    currents, count, threshold = dyadic(3, (6, 50)), 4, 2.0
    unit = threshold / count
    potential, outputs = np.full(50, unit / 2), []
    for x in np.asarray(currents):
        potential = potential + x
        fired = sum((potential >= (i + 1) * unit).astype(np.float32) for i in range(count))
        potential = potential - unit * fired
        outputs.append(unit * fired)
    np.testing.assert_array_equal(gs.run(gs.group_neuron(count), currents, threshold)[0], np.stack(outputs))


def test_per_channel_thresholds():
    currents, theta = dyadic(4, (5, 2, 3)), jnp.asarray([0.5, 1.0, 2.0])
    outputs, _ = gs.run(gs.group_neuron(2), currents, theta)
    for c in range(3):
        np.testing.assert_array_equal(outputs[..., c], gs.run(gs.group_neuron(2), currents[..., c], theta[c])[0])


def test_gradient_after_one_step_is_that_of_qcfs():
    x = dyadic(5, (100,), -1.5, 3.0) + 1e-3
    loss = lambda outputs: (outputs * jnp.arange(100.0)).sum()
    of_snn = jax.grad(lambda x, t: loss(gs.run(gs.group_neuron(4), x[None], t)[0][0]), argnums=(0, 1))(x, 1.0)
    of_ann = jax.grad(lambda x, t: loss(gs.qcfs(x, t, 4)), argnums=(0, 1))(x, 1.0)
    np.testing.assert_allclose(of_snn[0], of_ann[0], rtol=1e-5)
    np.testing.assert_allclose(of_snn[1], of_ann[1], rtol=1e-4)


def test_gradient_flows_through_time_by_the_charge_that_is_kept():
    # The charge of step 1 stays below half the threshold and is emitted at step 2.
    first = lambda x: gs.run(gs.integrate_and_fire(), x, 1.0, jnp.float32(0))[0][1]
    np.testing.assert_array_equal(jax.grad(first)(jnp.asarray([0.375, 0.75])), [1, 1])


def test_half_precision_currents_keep_a_single_precision_potential():
    currents = dyadic(6, (16, 300)).astype(jnp.bfloat16)
    outputs, potential = gs.run(gs.integrate_and_fire(), currents, 0.75)
    assert (outputs.dtype, potential.dtype) == (jnp.bfloat16, jnp.float32)
    exact, _ = gs.run(gs.integrate_and_fire(), currents.astype(jnp.float32), 0.75)
    np.testing.assert_array_equal(outputs.astype(jnp.float32), exact)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained():
    with pytest.raises(gs.InputError, match="members must be at least 1, got 0; members=1 is an IF neuron"):
        gs.group_neuron(0)
    with pytest.raises(TypeError, match="members must be an integer, got '4'"):
        gs.group_neuron("4")
    with pytest.raises(gs.InputError, match="leading time axis"):
        gs.run(gs.integrate_and_fire(), jnp.float32(1), 1.0)
    with pytest.raises(TypeError, match=r"neuron must be a Neuron such as group_neuron\(8\), got <class"):
        gs.run(gs.GroupNeuron, jnp.ones((4, 2)), 1.0)
    with pytest.raises(gs.InputError, match=r"threshold of shape \(3,\) does not broadcast to values of shape \(2,\)"):
        gs.run(gs.integrate_and_fire(), jnp.ones((4, 2)), jnp.ones(3))
    with pytest.raises(gs.InputError, match=r"initial potential of shape \(3,\) does not broadcast"):
        gs.run(gs.integrate_and_fire(), jnp.ones((4, 2)), 1.0, jnp.ones(3))
    for signed in ("yes", 1, None):
        with pytest.raises(TypeError, match="signed must be True or False, got"):
            gs.group_neuron(4, signed)
    with pytest.raises(gs.InputError, match="probe_steps must be at least 1, got 0"):
        gs.offset_spikes(0)
    with pytest.raises(gs.InputError, match="passes must be at least 1, got -1"):
        gs.offset_spikes(4, passes=-1)


# Types.

HALF_AND_MORE = ["bfloat16", "float16", "float32", "float64"]
OF_EACH_KIND = [gs.integrate_and_fire(), gs.group_neuron(4), gs.group_neuron(4, True), gs.signed_memory_neuron()]


@pytest.mark.slow
@pytest.mark.parametrize("of_threshold", [*HALF_AND_MORE, None])
@pytest.mark.parametrize("of_currents", HALF_AND_MORE)
def test_a_state_is_as_wide_as_what_it_is_made_of_and_never_changes(of_currents, of_threshold):
    """Traced only: a scan whose carry changes its type is refused then."""
    wide = jnp.float64 if "float64" in (of_currents, of_threshold) else jnp.float32
    with jax.enable_x64(True):
        threshold = jnp.asarray(2.0, of_threshold) if of_threshold else 2.0
        for neuron, steps in itertools.product(OF_EACH_KIND, (1, 5, 18)):
            currents = jax.ShapeDtypeStruct((steps, 6), of_currents)
            of = lambda x, start=None, n=neuron: potential_after(n, *gs.run(n, x, threshold, start))
            assert types_of(of, currents) == [currents.dtype, wide]
            for calibration in CALIBRATIONS if steps > 3 else ():
                initial = lambda x, n=neuron, c=calibration: (c.initial(n, x, threshold),)
                assert types_of(initial, currents) == [wide]
                assert types_of(lambda x, of=of, i=initial: of(x, *i(x)), currents) == [currents.dtype, wide]


@pytest.mark.parametrize("neuron", OF_EACH_KIND, ids=repr)
@pytest.mark.parametrize("dtype", HALF_AND_MORE)
def test_a_state_of_its_own_is_as_wide_as_the_threshold_or_float32(dtype, neuron):
    with jax.enable_x64(True):
        own = neuron.potential(neuron.init(jnp.asarray(2.0, dtype), (3,)))
        assert own.dtype == ("float64" if dtype == "float64" else "float32")


def potential_after(neuron, outputs, state):
    return outputs, neuron.potential(state)


def types_of(function, *args):
    return [each.dtype for each in jax.eval_shape(function, *args)]


@pytest.mark.slow
@pytest.mark.parametrize(("of_currents", "of_threshold"), [*zip(HALF_AND_MORE, HALF_AND_MORE[::-1], strict=True)])
def test_sums_that_are_exact_are_so_in_every_type(of_currents, of_threshold):
    with jax.enable_x64(True):
        currents, neuron, calibration = dyadic(1, (4, 6)), gs.group_neuron(4), OFFSETS[-1]
        given = currents.astype(of_currents), jnp.asarray(2.0, of_threshold)
        np.testing.assert_array_equal(calibration.initial(neuron, *given), calibration.initial(neuron, currents, 2.0))
        for found, expected in zip(gs.run(neuron, *given), gs.run(neuron, currents, 2.0), strict=True):
            np.testing.assert_array_equal(np.float64(found), np.float64(expected))


@pytest.mark.parametrize("dtype", [*HALF_AND_MORE, "int32"])
def test_initial_potentials_come_in_any_type(dtype):
    with jax.enable_x64(True):
        currents = dyadic(8, (3, 4))
        _, potential = gs.run(gs.group_neuron(2), currents, 2.0, jnp.zeros(4, dtype))
        np.testing.assert_array_equal(potential, gs.run(gs.group_neuron(2), currents, 2.0, jnp.float32(0))[1])
        assert potential.dtype == jnp.float32


# Calibrations.


def counts(neuron, currents, threshold, initial=None):
    """Unit spikes over the whole sequence."""
    outputs, _ = gs.run(neuron, currents, threshold, initial)
    return jnp.round(outputs.sum(0) / (threshold / neuron.members))


def desired(neuron, currents, threshold):
    """What QCFS of as many levels as the neuron can emit units makes of the mean current."""
    unit = threshold / neuron.members
    fewest, most = neuron.lowest * len(currents), neuron.members * len(currents)
    return jnp.clip(jnp.floor(currents.sum(0) / unit + 0.5), fewest, most)


@pytest.mark.slow
@settings(max_examples=10)
@given(simulations(GROUPS, PROBES).map(off_ties))
def test_each_pass_of_cos_changes_a_count_by_one_towards_the_desired(simulation):
    neuron, currents, threshold = simulation
    calibrate = lambda passes: calibrated(gs.offset_spikes(len(currents), passes), neuron, currents, threshold)
    before = counts(neuron, currents, threshold)
    for done in (1, 2, 3):
        after = counts(neuron, currents, threshold, calibrate(done))
        wrong = desired(neuron, currents, threshold) - before
        np.testing.assert_array_equal(after - before, jnp.sign(wrong))
        before = after


@pytest.mark.slow
@settings(max_examples=10)
@given(simulations(GROUPS, PROBES).map(off_ties))
def test_cos_repeated_until_nothing_changes_reaches_the_desired_count(simulation):
    neuron, currents, threshold = simulation
    initial = calibrated(gs.offset_spikes(len(currents), 10**6), neuron, currents, threshold)
    np.testing.assert_array_equal(counts(neuron, currents, threshold, initial), desired(neuron, currents, threshold))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_passes_that_cos_computes_suffice_where_a_signed_count_is_farthest_off(sign):
    """All steps but the last emit the most against the charge that comes last."""
    neuron, probe = gs.group_neuron(2, signed=True), 5
    currents = sign * jnp.asarray([-100.0, 0, 0, 0, 200])[:, None]
    wanted = desired(neuron, currents, 1.0)
    assert abs(counts(neuron, currents, 1.0) - wanted) == 4 * (probe - 1)
    initial = gs.offset_spikes(probe, 10**6).initial(neuron, currents, 1.0)
    np.testing.assert_array_equal(counts(neuron, currents, 1.0, initial), wanted)


@given(simulations(GROUPS, [MANY]))
def test_one_pass_of_cos_is_that_of_the_plain_simulation(simulation):
    neuron, currents, threshold = simulation
    unit = threshold / neuron.members
    initial = calibrated(gs.offset_spikes(len(currents)), neuron, currents, threshold)
    start = lambda own: numpy_reference.offset_start(own, threshold, neuron.members, neuron.signed)
    expected = [start(own) * unit for own in neuron_by_neuron(currents)]
    np.testing.assert_allclose(initial.ravel(), expected, rtol=1e-6)


@given(simulations((gs.signed_memory_neuron(),), [MANY]))
def test_no_pass_of_cos_moves_a_count_with_memory_away_from_the_desired(simulation):
    neuron, currents, threshold = simulation
    calibrate = lambda passes: calibrated(gs.offset_spikes(len(currents), passes), neuron, currents, threshold)
    wanted = jnp.maximum(desired(neuron, currents, threshold), 0)
    errors = [jnp.abs(counts(neuron, currents, threshold) - wanted)]
    for done in (1, 2, 3):
        errors.append(jnp.abs(counts(neuron, currents, threshold, calibrate(done)) - wanted))
        assert (errors[-1] <= errors[-2]).all()


@pytest.mark.parametrize("calibration", OFFSETS, ids=repr)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_saturated_neurons_are_left_alone(neuron, calibration):
    currents = jnp.broadcast_to(jnp.asarray([5.0, -5.0]), (calibration.probe_steps, 2))
    initial = calibration.initial(neuron, currents, 1.0)
    np.testing.assert_array_equal(initial, neuron.potential(neuron.init(jnp.float32(1), (2,))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "probe", "shares"),
    [(1, 4, [0.806, 0.994, 1.000, 1.0]), (4, 4, [0.619, 0.780, 0.886, 0.983]), (8, 8, [0.499, 0.587, 0.665, 0.790])],
)
def test_share_of_neurons_with_the_desired_count(count, probe, shares):
    """Measured once with an independent simulation; currents of mean 0.4 and deviation 0.7."""
    neuron = gs.group_neuron(count)
    currents = 0.4 + 0.7 * jax.random.normal(jax.random.key(0), (probe, 50_000))
    wanted = desired(neuron, currents, 1.0)
    initials = [None] + [gs.offset_spikes(probe, passes).initial(neuron, currents, 1.0) for passes in (1, 2, 4)]
    found = [(counts(neuron, currents, 1.0, initial) == wanted).mean() for initial in initials]
    np.testing.assert_allclose(found, shares, atol=0.005)


def test_a_calibration_looks_at_its_probe_steps_and_no_further():
    currents = dyadic(7, (6, 40))
    calibration = gs.offset_spikes(2)
    np.testing.assert_array_equal(
        calibration.initial(gs.group_neuron(2), currents, 1.0),
        calibration.initial(gs.group_neuron(2), currents[:2], 1.0),
    )
    with pytest.raises(gs.InputError, match="2 probe steps need as many currents, got 1"):
        calibration.initial(gs.group_neuron(2), currents[:1], 1.0)


def test_equal_arguments_give_the_same_calibration():
    assert gs.offset_spikes(4, 2) == gs.offset_spikes(4, 2)
    assert gs.group_neuron(4) == gs.group_neuron(4)
