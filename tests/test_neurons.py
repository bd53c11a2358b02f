"""One suite of theorems that every neuron and every calibration of the library passes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CALIBRATIONS, NEURONS, dyadic, members, seeds, shapes, thresholds_for
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs

neurons = st.sampled_from(NEURONS)
steps = st.integers(1, 11)


@st.composite
def simulations(draw):
    """A neuron, currents and a threshold whose sums are exact."""
    neuron = draw(neurons)
    threshold = draw(thresholds_for(neuron.members))
    currents = dyadic(draw(seeds), (draw(steps), *draw(shapes)), -threshold, 2 * threshold)
    return neuron, currents, threshold


@given(simulations())
def test_charge_is_conserved(simulation):
    neuron, currents, threshold = simulation
    outputs, potential = gs.run(neuron, currents, threshold)
    start = neuron.init(jnp.float32(threshold), currents.shape[1:])
    np.testing.assert_array_equal(currents.sum(0) + start, outputs.sum(0) + potential)


@given(simulations())
def test_outputs_lie_on_the_lattice(simulation):
    neuron, currents, threshold = simulation
    units = gs.run(neuron, currents, threshold)[0] / (threshold / neuron.members)
    np.testing.assert_array_equal(units, jnp.round(units))
    assert ((units >= 0) & (units <= neuron.members)).all()


@given(simulations())
def test_doubling_currents_and_threshold_doubles_outputs(simulation):
    neuron, currents, threshold = simulation
    outputs, potential = gs.run(neuron, currents, threshold)
    doubled, doubled_potential = gs.run(neuron, 2 * currents, 2 * threshold)
    np.testing.assert_array_equal(doubled, 2 * outputs)
    np.testing.assert_array_equal(doubled_potential, 2 * potential)


@given(simulations(), seeds)
def test_outputs_depend_on_no_later_current(simulation, seed):
    neuron, currents, threshold = simulation
    known = len(currents) // 2
    changed = jnp.concatenate([currents[:known], dyadic(seed, currents[known:].shape)])
    np.testing.assert_array_equal(
        gs.run(neuron, currents, threshold)[0][:known], gs.run(neuron, changed, threshold)[0][:known]
    )


@given(simulations())
def test_carrying_the_potential_continues_the_simulation(simulation):
    neuron, currents, threshold = simulation
    cut = len(currents) // 2
    head, potential = gs.run(neuron, currents[:cut], threshold)
    tail, final = gs.run(neuron, currents[cut:], threshold, potential)
    whole, expected = gs.run(neuron, currents, threshold)
    np.testing.assert_array_equal(jnp.concatenate([head, tail]), whole)
    np.testing.assert_array_equal(final, expected)


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
    with pytest.raises(gs.InputError, match=r"initial potential of shape \(3,\) does not broadcast"):
        gs.run(gs.integrate_and_fire(), jnp.ones((4, 2)), 1.0, jnp.ones(3))
    with pytest.raises(gs.InputError, match="probe_steps must be at least 1, got 0"):
        gs.offset_spikes(0)
    with pytest.raises(gs.InputError, match="passes must be at least 1, got -1"):
        gs.offset_spikes(4, passes=-1)


# Types.

HALF_AND_MORE = ["bfloat16", "float16", "float32", "float64"]


@pytest.mark.parametrize("of_threshold", [*HALF_AND_MORE, None])
@pytest.mark.parametrize("of_currents", HALF_AND_MORE)
def test_a_state_is_as_wide_as_what_it_is_made_of_and_never_changes(of_currents, of_threshold):
    """Traced only: a scan whose carry changes its type is refused then."""
    wide = jnp.float64 if "float64" in (of_currents, of_threshold) else jnp.float32
    with jax.enable_x64(True):
        threshold = jnp.asarray(2.0, of_threshold) if of_threshold else 2.0
        for neuron, steps in itertools.product(NEURONS, (1, 4, 5, 18)):
            currents = jax.ShapeDtypeStruct((steps, 6), of_currents)
            outputs, potential = jax.eval_shape(lambda x, n=neuron: gs.run(n, x, threshold), currents)
            assert (outputs.dtype, potential.dtype) == (currents.dtype, wide)
            for calibration in CALIBRATIONS if steps > 3 else ():
                of = lambda x, n=neuron, c=calibration: gs.run(n, x, threshold, c.initial(n, x, threshold))
                assert [each.dtype for each in jax.eval_shape(of, currents)] == [currents.dtype, wide]


@pytest.mark.parametrize(("of_currents", "of_threshold"), [*zip(HALF_AND_MORE, HALF_AND_MORE[::-1], strict=True)])
def test_sums_that_are_exact_are_so_in_every_type(of_currents, of_threshold):
    with jax.enable_x64(True):
        currents, neuron, calibration = dyadic(1, (4, 6)), gs.group_neuron(4), CALIBRATIONS[-1]
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
    most = neuron.members * len(currents)
    unit = threshold / neuron.members
    return jnp.clip(jnp.floor(currents.sum(0) / unit + 0.5), 0, most)


@given(simulations(), st.integers(1, 3))
def test_each_pass_of_cos_changes_a_count_by_one_towards_the_desired(simulation, passes):
    neuron, currents, threshold = simulation
    calibrate = lambda passes: gs.offset_spikes(len(currents), passes).initial(neuron, currents, threshold)
    before = counts(neuron, currents, threshold)
    for done in range(1, passes + 1):
        after = counts(neuron, currents, threshold, calibrate(done))
        wrong = desired(neuron, currents, threshold) - before
        np.testing.assert_array_equal(after - before, jnp.sign(wrong))
        before = after


@given(simulations())
def test_cos_repeated_until_nothing_changes_reaches_the_desired_count(simulation):
    neuron, currents, threshold = simulation
    most = neuron.members * len(currents)
    initial = gs.offset_spikes(len(currents), most).initial(neuron, currents, threshold)
    np.testing.assert_array_equal(counts(neuron, currents, threshold, initial), desired(neuron, currents, threshold))


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=repr)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_saturated_neurons_are_left_alone(neuron, calibration):
    currents = jnp.full((calibration.probe_steps, 7), 5.0)
    initial = calibration.initial(neuron, currents, 1.0)
    np.testing.assert_array_equal(initial, neuron.init(jnp.float32(1), (7,)))


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
