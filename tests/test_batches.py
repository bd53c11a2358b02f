"""What a batch is, and what the functions that take batches make of what loaders, lists and other frameworks give."""

import collections
import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.analysis.observation import observe
from gnsnn_jax.engine.batches import as_batch

WEIGHTS = dyadic(0, (4, 6)), dyadic(1, (6, 3))
THRESHOLD = 8.0


class Tensor:
    """An array of another framework."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __iter__(self):
        return map(Tensor, self.values)

    @property
    def shape(self):
        return self.values.shape

    @property
    def ndim(self):
        return self.values.ndim


class Learned(Tensor):
    """A tensor that gives its values away only without its gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("it requires grad")

    def detach(self):
        return Tensor(self.values)


class Picture:
    """What has no `__array__`, but NumPy's older protocol, as images of Pillow."""

    def __init__(self, values):
        self.values = np.asarray(values)

    @property
    def __array_interface__(self):
        return self.values.__array_interface__


def torch_tensor(x):
    return pytest.importorskip("torch").tensor(x)


def learned_torch_tensor(x):
    return pytest.importorskip("torch").tensor(x, requires_grad=True)


# Every form that one batch may have.
FORMS = {
    "array of jax": jnp.asarray,
    "list": lambda x: x.tolist(),
    "list of tuples": lambda x: list(map(tuple, x.tolist())),
    "tuple of a list": lambda x: (x.tolist(),),
    "list of numpy numbers": lambda x: [list(row) for row in x],
    "tensor": Tensor,
    "tensor with gradient": Learned,
    "picture": Picture,
    "tuple of a tensor": lambda x: (Tensor(x),),
    "torch": torch_tensor,
    "torch with gradient": learned_torch_tensor,
}


def ann(x):
    return jax.nn.relu(x @ WEIGHTS[0]) @ WEIGHTS[1]


def names_of(network, *args):
    return [site.name for site in gs.sites(network, *args)]


def spiking(network, *args, members=4, steps=3):
    thresholds = dict.fromkeys(names_of(network, *args), THRESHOLD)
    return gs.to_spiking(network, gs.group_neuron(members), steps=steps, thresholds=thresholds)


def batches(count=3, scale=4.0):
    """Batches that grow, so that the first of them alone tells another threshold."""
    return [np.asarray(scale**power * dyadic(2 + power, (5, 4)), np.float32) for power in range(count)]


def found_of(network, snn, given, **options):
    """What each function that takes batches makes of them."""
    thresholds = gs.find_thresholds(network, given, 8, method="max", **options)
    seen = gs.verify(network, snn, given, **options)
    behaviour = observe(snn, given, **options)
    counted = [(each.name, [list(map(int, spikes)) for spikes in each.spikes]) for each in behaviour.populations]
    return [float(theta) for theta in thresholds.values()], seen.error, seen.agreement, counted, behaviour.samples


def assert_same(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6) if not isinstance(a, str) else a == b,
                 list(found), list(wanted))  # fmt: skip


@pytest.fixture(scope="module")
def expected():
    snn = spiking(ann, batches()[0])
    found = found_of(ann, snn, batches())
    assert found[0] != found_of(ann, snn, batches()[:1])[0]
    return snn, found


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("form", FORMS)
def test_every_batch_counts_in_whatever_form_it_comes(expected, form):
    snn, wanted = expected
    assert_same(found_of(ann, snn, [FORMS[form](batch) for batch in batches()]), wanted)


def test_an_array_of_batches_is_as_good_as_their_list(expected):
    snn, wanted = expected
    for stacked in (np.stack(batches()), jnp.stack(batches()), Tensor(np.stack(batches()))):
        assert_same(found_of(ann, snn, stacked), wanted)


def test_numbers_in_a_batch_are_arrays_and_differ_from_one_batch_to_the_next():
    shifted = lambda x, shift: ann(x + shift)
    numbers = [0.5, 40, True]
    snn = spiking(shifted, batches()[0], jnp.zeros(()))
    arrays = [(batch, np.float32(number)) for batch, number in zip(batches(), numbers, strict=True)]
    given = list(zip(batches(), map(float, numbers), strict=True))
    wanted = gs.find_thresholds(shifted, arrays, 8, method="max")
    assert gs.find_thresholds(shifted, given, 8, method="max") == wanted
    np.testing.assert_array_equal(gs.verify(shifted, snn, given).error, gs.verify(shifted, snn, arrays).error)
    in_trees = lambda batch: ann(batch["x"] + batch["shift"][0].astype(jnp.float32))
    trees = [{"x": Tensor(x), "shift": [number]} for x, number in zip(batches(), numbers, strict=True)]
    assert list(gs.find_thresholds(in_trees, trees, 8, method="max").values()) == list(wanted.values())


LEAVES = st.one_of(st.integers(-5, 5), st.floats(-4, 4, width=32), st.booleans())
TREES = st.recursive(
    st.one_of(LEAVES, st.lists(LEAVES, min_size=1, max_size=3)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1) | st.tuples(st.just({"d": 1}), inner),
    max_leaves=6,
)


def is_made_of_arrays(tree):
    return all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(tree))


@given(TREES)
def test_a_batch_is_a_tuple_of_arrays_and_stays_what_it_is(tree):
    args = as_batch({"x": tree})
    assert len(args) == 1
    assert is_made_of_arrays(args)
    assert all(leaf.dtype in (jnp.float32, jnp.int32, bool) for leaf in jax.tree.leaves(args))
    jax.tree.map(np.testing.assert_array_equal, args, as_batch(args))


BROKEN = {
    "string": "abc",
    "strings": ["a", "b"],
    "array of strings": np.asarray(["a", "b"]),
    "None": None,
    "optional": (np.ones((2, 4), np.float32), None),
    "object": object(),
    "function": len,
    "ragged": [[1.0, 2.0], [3.0]],
    "deeply ragged": {"x": [[[1.0], [2.0]], [[3.0], 4.0]]},
    "objects in an array": np.asarray([1.0, None]),
    "nothing": (),
    "empty list": [],
    "set": {1.0, 2.0},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_batch_is_refused_in_a_sentence(expected, broken):
    snn, _ = expected
    takes = (
        lambda given: gs.find_thresholds(ann, given, 8),
        lambda given: gs.verify(ann, snn, given),
        lambda given: observe(snn, given),
    )
    for position, take in itertools.product((0, 1), takes):
        with pytest.raises(gs.InputError, match="a batch holds") as error:
            take([batches()[0]] * position + [BROKEN[broken]])
        assert "\n" not in str(error.value)


# Batches as loaders give them.


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), name="conv")(x)).reshape(len(x), -1)
        return nn.Dense(2, name="head")(x)


@pytest.fixture(scope="module")
def convolutional():
    images = np.asarray(dyadic(9, (6, 4, 4, 1)), np.float32)
    variables = Network().init(jax.random.key(0), images)
    return Network().apply, variables, images, spiking(Network().apply, variables, images)


LABELS = np.arange(6, dtype=np.int32)
WRONG = {
    "tuples with labels": (lambda x: [(x, LABELS)], "for x, _ in loader"),
    "lists with labels": (lambda x: [[x, LABELS]], "for x, _ in loader"),
    "lists of one": (lambda x: [[x]], r"\(x for \(x,\) in loader\)"),
    "tensors with labels": (lambda x: [[Tensor(x), Tensor(LABELS)]], "for x, _ in loader"),
    "named": (lambda x: [{"image": x, "label": LABELS}], r"\(batch\[name\] for batch in loader\)"),
    "one array": (lambda x: x, r"\[x\]"),
    "one tensor": (Tensor, r"\[x\]"),
    "one array in two axes": (lambda x: x.reshape(6, -1), r"\[x\]"),
    "images and labels": (lambda x: (x, LABELS), r"\[x\]"),
    "one dict": (lambda x: {"image": x}, r"\[x\]"),
    "a number": (lambda x: 3, r"\[x\]"),
    "a function": (lambda x: lambda: iter([x]), r"\[x\]"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_network_cannot_take_says_what_a_batch_is_and_shows_the_call(convolutional, wrong):
    apply, variables, images, snn = convolutional
    make, call = WRONG[wrong]
    takes = {
        "find_thresholds(apply, ": lambda ann, snn, given, **options: gs.find_thresholds(ann, given, 8, **options),
        "verify(apply, snn, ": gs.verify,
        "observe(snn, ": lambda ann, *given, **options: observe(*given, **options),
    }
    closed = lambda x: apply(variables, x)
    networks = (apply, snn, {"variables": variables}), (closed, spiking(closed, images), {})
    for (start, take), (ann, snn, options) in itertools.product(takes.items(), networks):
        with pytest.raises(gs.InputError, match=call) as error:
            take(ann, snn, make(images), **options)
        assert start in str(error.value)
        assert "\n" not in str(error.value)
        assert ("variables=variables)" in str(error.value)) == bool(options)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_samples_in_place_of_batches_are_refused_where_the_network_takes_them():
    """As a network of convolutions does that takes the mean over pixels, and a dense one."""
    images = np.asarray(dyadic(9, (6, 5, 4, 4)), np.float32)
    pooled, dense = lambda x: ann(x.mean((-3, -2))), lambda x: ann(x)
    flat = images.mean((1, 2))
    for network, x in ((pooled, images), (dense, flat)):
        snn = spiking(network, x)
        for take in (
            lambda given, network=network, snn=snn: gs.find_thresholds(network, given, 8),
            lambda given, network=network, snn=snn: gs.verify(network, snn, given),
            lambda given, snn=snn: observe(snn, given),
        ):
            take([x])
            take(x.reshape(2, 3, *x.shape[1:]))
            with pytest.raises(gs.InputError, match=r"batch .* as its first axis.*\[x\]|no batch axis.*\[x\]"):
                take(x)
    with pytest.raises(gs.InputError, match=r"first axis"):
        observe(spiking(pooled, images), list(images))


def test_the_error_of_the_network_stays_with_its_first_line_and_the_shapes(convolutional):
    apply, variables, images, _ = convolutional
    with pytest.raises(gs.InputError, match=r"batch of float32\[6, 4, 4, 1\] and int32\[6\]: TypeError: ") as error:
        gs.find_thresholds(apply, [(images, LABELS)], 8, variables=variables)
    assert isinstance(error.value.__cause__, TypeError)
    with pytest.raises(gs.InputError, match=r"after its variables, .*, which are given as variables=;"):
        gs.find_thresholds(apply, [images], 8)
    ours = lambda x: gs.qcfs(x, -1.0, 0)
    with pytest.raises(gs.InputError, match="levels"):
        gs.find_thresholds(ours, [images], 8)


def test_as_many_entries_as_the_network_has_arguments_are_its_arguments():
    two = lambda x, y: ann(x) * y[:, None]
    pairs = [(x, np.ones(5, np.float32)) for x in batches()]
    assert found_of(two, spiking(two, *pairs[0]), pairs)[-1] == 15


# Arguments of the network.


@pytest.mark.parametrize("form", ["tensor", "tensor with gradient", "picture", "torch", "torch with gradient"])
def test_a_converted_network_takes_tensors_of_other_frameworks(form):
    scaled = lambda variables, x, train=True, scale=1.0: ann(x * variables["scale"]) / (2.0 if train else 1.0) * scale
    variables, x = {"scale": np.float32(2)}, batches()[0]
    snn = spiking(lambda *args: scaled(*args, train=False), variables, x)
    wanted, make = snn(variables, x), FORMS[form]
    np.testing.assert_array_equal(snn({"scale": make(np.float32(2))}, make(x)), wanted)
    assert [site.name for site in gs.sites(ann, make(x))] == names_of(ann, x)
    stop = gs.stop_when(0.9)(snn)
    np.testing.assert_array_equal(stop({"scale": make(np.float32(2))}, make(x)).outputs, stop(variables, x).outputs)


def test_flags_reach_the_network_as_they_are():
    def flagged(x, train, sizes, name):
        assert train is False
        assert sizes == [2, 3]
        assert name == "relu"
        return ann(x)

    x = batches()[0]
    arguments = x, False, [2, 3], "relu"
    np.testing.assert_array_equal(spiking(flagged, *arguments)(*arguments), spiking(ann, x)(x))


def test_lists_of_lists_of_numbers_are_refused_as_arguments():
    x = batches()[0]
    for table in (x.tolist(), x.astype(int).tolist(), [x.tolist()]):
        with pytest.raises(gs.InputError, match=r"argument 1 .* is a list of lists of numbers.*jnp.asarray"):
            spiking(ann, x)(table)


class Module(eqx.Module):
    """An Equinox module with a function and a number among its leaves."""

    weights: tuple
    activation: object
    scale: float = 2.0

    def __call__(self, x):
        return self.activation(x @ self.weights[0] * self.scale) @ self.weights[1]


def test_equinox_modules_are_arguments():
    module, apply = Module(WEIGHTS, jax.nn.relu), lambda module, x: module(x)
    closed, snn = module, spiking(apply, module, batches()[0])
    wanted = found_of(closed, spiking(closed, batches()[0]), batches())
    assert_same(found_of(apply, snn, batches(), variables=module), wanted)
    as_arguments = [(module, x) for x in batches()]
    assert list(map(float, gs.find_thresholds(apply, as_arguments, 8, method="max").values())) == wanted[0]
    np.testing.assert_allclose(gs.verify(apply, snn, as_arguments).error, wanted[1], rtol=1e-6)
    x = batches()[0]
    np.testing.assert_array_equal(
        gs.stop_when(0.9)(snn)(module, x).outputs, gs.stop_when(0.9)(spiking(closed, x))(x).outputs
    )


def test_what_is_no_array_in_a_module_may_differ_from_batch_to_batch():
    apply, scaled = (lambda module, x: module(x)), (lambda scale, x: ann(x * scale))
    scales, x = (1.0, 3.0), batches()[0]
    given = [(Module(tuple(map(jnp.asarray, WEIGHTS)), jax.nn.relu, scale), x) for scale in scales]
    arrays = [(np.float32(scale), x) for scale in scales]
    found = gs.verify(apply, spiking(apply, *given[0]), given)
    np.testing.assert_allclose(found.error, gs.verify(scaled, spiking(scaled, *arrays[0]), arrays).error, rtol=1e-5)
    (one,), (both,) = (gs.find_thresholds(apply, some, 8, method="max").values() for some in (given[:1], given))
    assert both == 3 * one


def test_a_batch_may_be_any_mapping_of_arrays(expected):
    _, wanted = expected
    network = lambda batch: ann(batch["x"])
    given = [collections.OrderedDict(x=Tensor(x)) for x in batches()]
    assert_same(found_of(network, spiking(network, {"x": batches()[0]}), given)[1:3], wanted[1:3])
