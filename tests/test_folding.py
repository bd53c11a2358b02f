import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TwoLayers
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.conversion import fold_on_graph


def with_random_norms(variables, seed=0):
    """Statistics, scales and biases that a trained network could have."""
    random = np.random.default_rng(seed)

    def randomise(path, value):
        if path[-1].key in ("var", "scale"):
            return jnp.asarray(random.uniform(0.2, 3.0, value.shape), jnp.float32)
        if path[-1].key in ("mean", "bias"):
            return jnp.asarray(random.normal(size=value.shape), jnp.float32)
        return value

    return jax.tree_util.tree_map_with_path(randomise, variables)


def test_folding_changes_numbers_and_neither_outputs_nor_structure():
    model = gs.build("resnet20", num_classes=3, levels=2**16)  # too fine for a neuron on a step to show
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))
    variables = with_random_norms(jax.jit(model.init)(jax.random.key(0), images))
    folded = gs.fold_batch_norm(variables)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(folded) == shapes(variables)
    expected = model.apply(variables, images)
    np.testing.assert_allclose(model.apply(folded, images), expected, atol=1e-3 * jnp.abs(expected).max())
    for path, value in jax.tree_util.tree_leaves_with_path(folded["batch_stats"]):
        np.testing.assert_allclose(value, 1 - 1e-5 if path[-1].key == "var" else 0, atol=1e-7)


def test_names_that_count_layers_and_norms_apart_are_not_guessed_from():
    model, images = TwoLayers(), jax.random.normal(jax.random.key(1), (2, 6, 6, 2))
    variables = with_random_norms(jax.jit(model.init)(jax.random.key(0), images))
    with pytest.raises(gs.InputError, match="cannot tell which layer comes before the batch norm BatchNorm_0"):
        gs.fold_batch_norm(variables)
    folded = gs.fold_batch_norm(variables, layers={"BatchNorm_0": "Conv_1"})
    np.testing.assert_allclose(model.apply(folded, images), model.apply(variables, images), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"use_bias": False}, {"use_scale": False}, {"use_bias": False, "use_scale": False}]
)
@pytest.mark.parametrize("biased", [True, False])
def test_norms_and_layers_with_and_without_scale_and_bias(options, biased):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(5, (3, 3), feature_group_count=1, use_bias=biased)(x)
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, **options)(x)
            return nn.Dense(3)(x)

    model, images = Layer(), jax.random.normal(jax.random.key(1), (2, 6, 6, 2))
    variables = with_random_norms(jax.jit(model.init)(jax.random.key(0), images))
    folded = gs.fold_batch_norm(variables, epsilon=1e-3)
    np.testing.assert_allclose(model.apply(folded, images), model.apply(variables, images), rtol=1e-4, atol=1e-5)


def test_layers_can_be_named():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x)
            x = nn.Dense(4, name="second")(x)
            return nn.BatchNorm(use_running_average=True, name="norm")(x)

    model, x = Named(), jax.random.normal(jax.random.key(0), (3, 4))
    variables = with_random_norms(jax.jit(model.init)(jax.random.key(0), x))
    with pytest.raises(gs.InputError, match="cannot tell which layer comes before the batch norm norm"):
        gs.fold_batch_norm(variables)
    folded = gs.fold_batch_norm(variables, layers={"norm": "second"})
    np.testing.assert_allclose(model.apply(folded, x), model.apply(variables, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(gs.InputError, match="layers gives third to norm, which has no kernel"):
        gs.fold_batch_norm(variables, layers={"norm": "third"})
    with pytest.raises(gs.InputError, match="layers names nrm, but the batch norms are norm"):
        gs.fold_batch_norm(variables, layers={"nrm": "first"})


@pytest.mark.usefixtures("unchecked")
def test_what_holds_no_variables_is_refused():
    with pytest.raises(gs.InputError, match="takes Linen variables"):
        gs.fold_batch_norm({"kernel": jnp.ones(3)})


def test_networks_without_norms_stay_as_they_are():
    variables = {"params": {"Dense_0": {"kernel": jnp.ones((2, 2))}}}
    assert jax.tree.structure(gs.fold_batch_norm(variables)) == jax.tree.structure(variables)


def tree(layers, norms):
    """Variables of layers and norms by name, with these numbers of channels."""
    kernel = lambda name, outputs: jnp.ones((3, 3, 2, outputs) if name.lower().startswith("conv") else (2, outputs))
    return {
        "params": {name: {"kernel": kernel(name, outputs)} for name, outputs in layers.items()},
        "batch_stats": {name: {"mean": jnp.ones(n), "var": jnp.full(n, 3.0)} for name, n in norms.items()},
    }


@pytest.mark.parametrize(
    ("layers", "norms", "folded"),
    [
        ({"Dense_0": 8, "Dense_1": 3}, {"BatchNorm_0": 8}, ["Dense_0"]),
        ({"Conv_0": 8, "Conv_1": 8, "Dense_0": 3}, {"BatchNorm_0": 8, "BatchNorm_1": 8}, ["Conv_0", "Conv_1"]),
        ({"Conv_0": 4, "Conv_1": 8, "Conv_2": 8}, {"BatchNorm_0": 4}, ["Conv_0"]),
        ({"convs_0": 8, "convs_1": 8}, {"norms_0": 8, "norms_1": 8}, ["convs_0", "convs_1"]),
        ({"conv1": 8, "fc": 8}, {"bn1": 8}, ["conv1"]),
        ({"Conv_0": 8, "Conv_1": 8}, {"BatchNorm_0": 8}, None),
        ({"Conv_0": 8, "Dense_0": 8}, {"BatchNorm_0": 8}, None),
        ({"conv": 8, "fc": 8}, {"norm": 8}, None),
        ({"convs_0": 8, "convs_1": 8, "convs_2": 8}, {"norms_0": 8, "norms_1": 8}, None),
        ({"conv1": 8}, {"norm2": 8}, None),
    ],
)
def test_the_layer_before_a_norm_is_told_by_names_and_channels_or_refused(layers, norms, folded):
    variables = tree(layers, norms)
    if folded is None:
        with pytest.raises(gs.InputError, match="cannot tell which layer comes before"):
            gs.fold_batch_norm(variables)
    else:
        params = gs.fold_batch_norm(variables)["params"]
        assert [name for name in layers if (params[name]["kernel"] != 1).all()] == folded


# Folding on the graph: every framework, and never a norm that does not follow its layer.

LAYERS = {"conv": {}, "unbiased": {"use_bias": False}, "grouped": {"groups": 2}, "dense": {}}
KINDS = (*LAYERS, "norm", "norm", "plain norm", "relu", "sum", "twice")
IMAGES = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 4)), jnp.float32)


def is_folded(plan, index):
    """Whether the norm at an index of a plan follows a layer, with at most other norms between."""
    before = plan[index - 1] if index else None
    return before in LAYERS or (before in ("norm", "plain norm") and is_folded(plan, index - 1))


def random_values(tree, seed):
    """A tree with random numbers in the place of its floats, all above 0 where they may be variances."""
    random = np.random.default_rng(seed)

    def randomise(leaf):
        if not eqx.is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        values = random.uniform(0.5, 2.0, leaf.shape) if leaf.ndim <= 1 else random.normal(size=leaf.shape) / 4
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(randomise, tree)


class InLinen(nn.Module):
    plan: tuple

    @nn.compact
    def __call__(self, x):
        layers = [self.layer(kind, f"layer{index}") for index, kind in enumerate(self.plan)]
        return applied(self.plan, layers, x)

    def layer(self, kind, name):
        if kind in ("conv", "unbiased", "grouped"):
            options = {"use_bias": kind != "unbiased", "feature_group_count": LAYERS[kind].get("groups", 1)}
            return nn.Conv(4, (3, 3), name=name, **options)
        if kind in ("norm", "plain norm"):
            options = {"use_scale": kind == "norm", "use_bias": kind == "norm"}
            return nn.BatchNorm(use_running_average=True, name=name, **options)
        return nn.Dense(4, name=name)


def applied(plan, layers, x):
    for kind, layer in zip(plan, layers, strict=True):
        if kind == "relu":
            x = jax.nn.relu(x)
        elif kind == "sum":
            x = x + layer(x)
        else:
            x = layer(layer(x)) if kind == "twice" else layer(x)
    return x


def in_linen(plan):
    model = InLinen(plan)
    norms = [f"layer{index}" for index, kind in enumerate(plan) if "norm" in kind]
    variances = lambda variables: [variables["batch_stats"][name]["var"] for name in norms]
    return model.apply, model.init(jax.random.key(0), IMAGES), IMAGES, variances


def in_nnx(plan):
    rngs = nnx.Rngs(0)

    def layer(kind):
        if kind in ("conv", "unbiased", "grouped"):
            options = {"use_bias": kind != "unbiased", "feature_group_count": LAYERS[kind].get("groups", 1)}
            return nnx.Conv(4, 4, (3, 3), rngs=rngs, **options)
        if kind in ("norm", "plain norm"):
            options = {"use_scale": kind == "norm", "use_bias": kind == "norm"}
            return nnx.BatchNorm(4, use_running_average=True, rngs=rngs, **options)
        return nnx.Linear(4, 4, rngs=rngs)

    graph, state = nnx.split(nnx.List([layer(kind) for kind in plan]))
    norms = [index for index, kind in enumerate(plan) if "norm" in kind]
    variances = lambda state: [nnx.merge(graph, state)[index].var[...] for index in norms]
    return lambda state, x: applied(plan, nnx.merge(graph, state), x), state, IMAGES, variances


def in_equinox(plan):
    def layer(kind):
        key = jax.random.key(0)
        if kind in ("norm", "plain norm"):
            return eqx.nn.BatchNorm(4, "batch", channelwise_affine=kind == "norm", mode="batch")
        size = 3 if kind in ("conv", "unbiased", "grouped") else 1
        return eqx.nn.Conv2d(4, 4, size, padding="SAME", key=key, use_bias=kind != "unbiased", **groups(kind))

    groups = lambda kind: {"groups": LAYERS.get(kind, {}).get("groups", 1)}
    layers, state = eqx.nn.make_with_state(lambda: [layer(kind) for kind in plan])()
    norms = [layer for layer in layers if isinstance(layer, eqx.nn.BatchNorm)]

    def apply(variables, images):
        layers, state = variables
        with_state = lambda layer: (lambda x: layer(x, state)[0]) if isinstance(layer, eqx.nn.BatchNorm) else layer
        one = lambda x: applied(plan, [with_state(layer) for layer in eqx.nn.inference_mode(layers)], x)
        return jax.vmap(one, axis_name="batch")(images)

    variances = lambda variables: [variables[1].get(norm.batch_state_index)[1] for norm in norms]
    return apply, (layers, state), IMAGES, variances


@pytest.mark.parametrize("framework", [in_linen, in_nnx, in_equinox])
@given(plan=st.lists(st.sampled_from(KINDS), min_size=2, max_size=6).map(tuple), seed=st.integers(0, 99))
@settings(max_examples=12)
def test_on_the_graph_a_norm_is_folded_if_and_only_if_it_follows_a_layer(framework, plan, seed):
    apply, variables, images, variances = framework(plan)
    variables = random_values(variables, seed)
    folded = gs.fold_batch_norm(apply, variables, images)
    assert jax.tree.structure(folded) == jax.tree.structure(variables)
    expected = apply(variables, images)
    np.testing.assert_allclose(apply(folded, images), expected, rtol=1e-4, atol=1e-4 * jnp.abs(expected).max())
    norms = [index for index, kind in enumerate(plan) if "norm" in kind]
    for index, before, after in zip(norms, variances(variables), variances(folded), strict=True):
        if is_folded(plan, index):
            np.testing.assert_allclose(after, 1 - 1e-5, rtol=1e-6)
        else:
            np.testing.assert_array_equal(after, before)


def test_on_the_graph_a_norm_in_front_of_its_layer_is_left_where_names_would_fold_it():
    class NormFirst(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True, name="norm1")(x)
            return nn.Conv(4, (3, 3), name="conv1")(x)

    model = NormFirst()
    variables = with_random_norms(jax.jit(model.init)(jax.random.key(0), IMAGES))
    assert (gs.fold_batch_norm(variables)["params"]["conv1"]["kernel"] != variables["params"]["conv1"]["kernel"]).any()
    folded = gs.fold_batch_norm(model.apply, variables, IMAGES)
    assert jax.tree.all(jax.tree.map(lambda one, other: (one == other).all(), folded, variables))


def test_on_the_graph_names_that_tell_nothing_do_no_harm():
    model = TwoLayers(levels=2**16)
    variables = with_random_norms(jax.jit(model.init)(jax.random.key(0), IMAGES))
    folded = gs.fold_batch_norm(model.apply, variables, IMAGES, train=False)
    by_hand = gs.fold_batch_norm(variables, layers={"BatchNorm_0": "Conv_1"})
    for one, other in zip(jax.tree.leaves(folded), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_on_the_graph_the_whole_norm_ends_in_weights_and_bias():
    apply, variables, images, _ = in_linen(("conv", "norm", "relu", "unbiased", "norm"))
    folded = gs.fold_batch_norm(apply, random_values(variables, 0), images)
    np.testing.assert_allclose(folded["params"]["layer1"]["scale"], 1)
    np.testing.assert_array_equal(folded["params"]["layer1"]["bias"], 0)
    np.testing.assert_array_equal(folded["batch_stats"]["layer1"]["mean"], 0)
    np.testing.assert_array_equal(folded["batch_stats"]["layer4"]["mean"], 0)
    assert (folded["params"]["layer4"]["bias"] != 0).all()


NORMS = {
    "by rsqrt": lambda v, x: (x - v["mean"]) * (jax.lax.rsqrt(v["var"] + 1e-3) * v["scale"]) + v["bias"],
    "by a quotient": lambda v, x: v["bias"] + v["scale"] * (x - v["mean"]) / jnp.sqrt(1e-3 + v["var"]),
    "by a power": lambda v, x: (x - v["mean"]) * (v["var"] * 2.0 + 1e-3) ** -0.5 * v["scale"] + v["bias"],
    "of Keras": lambda v, x: x * (inv := jax.lax.rsqrt(v["var"] + 1e-3) * v["scale"]) + (v["bias"] - v["mean"] * inv),
    "with its variance cut": lambda v, x: (x - v["mean"]) / jnp.sqrt(jnp.maximum(v["var"], 0.0) + 1e-3) + v["bias"],
    "without a mean": lambda v, x: x * jax.lax.rsqrt(v["var"] + 1e-3) * v["scale"],
}
MAPS = {
    "a product": lambda v, x: x @ v["w"],
    "a product from the left": lambda v, x: jnp.einsum("oi,bpi->bpo", v["w"].T, x),
    "a kernel of two axes": lambda v, x: jnp.einsum("bpi,ihd->bphd", x, v["w"].reshape(4, 2, 3)).reshape(2, 8, 6),
    "a bias": lambda v, x: x @ v["w"] + v["b"],
    "a bias for all": lambda v, x: x @ v["w"] + v["shift"],
    "channels first": lambda v, x: (v["w"].T @ x.transpose(0, 2, 1)).transpose(0, 2, 1) + v["b"],
    "a matrix for each place": lambda v, x: jnp.einsum("bpi,pio->bpo", x, v["matrices"]),
}


def with_explicit_ranks(function):
    """Promotes ranks as users' code may."""

    def apply(v, x):
        with jax.numpy_rank_promotion("allow"):
            return function(v, x)

    return apply


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", MAPS)
def test_norms_and_layers_of_any_spelling(norm, layer):
    shapes = {"w": (4, 6), "b": (6,), "shift": (), "matrices": (8, 4, 6)}
    shapes |= dict.fromkeys(("mean", "var", "scale", "bias"), (6,))
    v = random_values({name: jnp.zeros(shape) for name, shape in shapes.items()}, 0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 4)), jnp.float32)
    apply = with_explicit_ranks(lambda v, x: jnp.tanh(NORMS[norm](v, MAPS[layer](v, x))))
    folded = gs.fold_batch_norm(apply, v, x)
    np.testing.assert_allclose(apply(folded, x), apply(v, x), rtol=1e-4, atol=1e-5)
    can_hold_the_shift = (layer, norm) != ("a bias for all", "without a mean")
    weights = "matrices" if layer == "a matrix for each place" else "w"
    assert (folded[weights] != v[weights]).any() == can_hold_the_shift
    if can_hold_the_shift and norm != "without a mean":
        outputs = with_explicit_ranks(MAPS[layer])(folded, x)
        normed = with_explicit_ranks(NORMS[norm])(folded, outputs)
        np.testing.assert_allclose(normed, outputs + folded["bias"][None, None], rtol=1e-5, atol=1e-5)


NOT_FOLDED = {
    "weights used twice": lambda v, x: norm_of(v, x @ v["w"]) + (x @ v["w"]).sum(),
    "outputs used twice": lambda v, x: norm_of(v, y := x @ v["w"]) + y,
    "a norm used twice": lambda v, x: norm_of(v, jax.nn.relu(norm_of(v, x @ v["w"]))),
    "a variance used twice": lambda v, x: norm_of(v, x @ v["w"]) * v["var"].sum(),
    "weights that are computed": lambda v, x: norm_of(v, x @ jnp.tanh(v["w"])),
    "weights of the data": lambda v, x: norm_of(v, x @ (x.T @ x)),
    "a norm along the batch": lambda v, x: norm_of(v, (x @ v["w"]).T).T,
    "statistics of the batch": lambda v, x: norm_of(v | {"mean": (y := x @ v["w"]).mean(0), "var": y.var(0)}, y),
    "a layer norm": lambda v, x: (y := x @ v["w"]) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5),
    "no norm": lambda v, x: (x @ v["w"] - v["mean"]) * v["scale"] + v["bias"],
    "a sum": lambda v, x: norm_of(v, x @ v["w"] + x),
    "padding": lambda v, x: norm_of(v, jnp.pad(x @ v["w"], ((1, 1), (0, 0)))),
}


def norm_of(v, x):
    return (x - v["mean"]) * jax.lax.rsqrt(v["var"] + 1e-5) * v["scale"] + v["bias"]


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_what_cannot_be_folded_stays_as_it_is(case):
    shapes = {"w": (4, 4)} | dict.fromkeys(("mean", "var", "scale", "bias"), (4,))
    v = random_values({name: jnp.zeros(shape) for name, shape in shapes.items()}, 0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)
    folded = gs.fold_batch_norm(with_explicit_ranks(NOT_FOLDED[case]), v, x)
    assert all(folded[name] is v[name] for name in v)


def test_layers_in_half_precision_keep_the_gain_to_single_precision():
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, dtype=jnp.bfloat16)(x)
            return nn.BatchNorm(use_running_average=True, dtype=jnp.bfloat16)(x)

    model = Half()
    with jax.numpy_dtype_promotion("standard"):
        variables = with_random_norms(jax.jit(model.init)(jax.random.key(0), IMAGES))
        folded = gs.fold_batch_norm(model.apply, variables, IMAGES)["params"]["Dense_0"]
    by_names = gs.fold_batch_norm(variables)["params"]["Dense_0"]
    np.testing.assert_allclose(folded["kernel"], by_names["kernel"], rtol=1e-5)


def test_folded_on_the_graph_stays_on_the_graph_under_conversion():
    apply, variables, images, _ = in_nnx(("conv", "norm", "relu", "dense"))
    variables = random_values(variables, 0)
    folded = gs.fold_batch_norm(apply, variables, images)
    thresholds = gs.find_thresholds(apply, [images], 4, variables=variables)
    spikes = [
        gs.to_spiking(apply, gs.group_neuron(4), steps=2, thresholds=thresholds)(each, images)
        for each in (variables, folded)
    ]
    np.testing.assert_allclose(*spikes, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((jnp.sin,), {}, "got a function alone"),
        ((jnp.sin, {"w": jnp.ones(3)}), {}, "needs an example"),
        ((jnp.sin, jnp.ones(3), jnp.ones(3)), {"layers": {"a": "b"}}, "layers= is for"),
        (({"params": {}}, jnp.ones(3)), {}, "takes a function first"),
        (({"params": {}},), {"train": False}, "takes a function first"),
        ((lambda v, x: x @ v, jax.ShapeDtypeStruct((3, 3), jnp.float32), jnp.ones((3, 3))), {}, "needs the values"),
        ((lambda v, x: x @ v, jnp.ones((3, 3)), jnp.ones((0, 3))), {}, "got an empty array"),
    ],
)
def test_calls_that_fit_neither_form_are_refused(arguments, options, message):
    with pytest.raises(gs.InputError, match=message):
        gs.fold_batch_norm(*arguments, **options)


def test_values_that_are_not_finite_are_refused():
    v = {"w": jnp.eye(4), "mean": jnp.ones(4), "var": -jnp.ones(4), "scale": jnp.ones(4), "bias": jnp.ones(4)}
    apply = with_explicit_ranks(lambda v, x: norm_of(v, x @ v["w"]))
    with pytest.raises(gs.InputError, match="not finite"):
        gs.fold_batch_norm(apply, v, jnp.ones((2, 4)))


def test_factors_that_cannot_become_one_leave_the_norm():
    v = {"w": jnp.eye(4), "var": jnp.ones(4)}
    apply = with_explicit_ranks(lambda v, x: x @ v["w"] * jax.lax.rsqrt(v["var"] * jnp.zeros(4) + 2.0))
    assert gs.fold_batch_norm(apply, v, jnp.ones((2, 4)))["w"] is v["w"]


def test_random_keys_and_other_numbers_among_the_variables_stay():
    graph, state = nnx.split(nnx.List([nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))]))
    variables = {"state": state, "key": jax.random.key(0), "count": jnp.asarray(3), "norm": jnp.full(4, 3.0), "n": 2}

    def apply(variables, x):
        layer, dropout = nnx.merge(graph, variables["state"])
        noise = jax.random.normal(variables["key"], ()) * variables["count"].astype(jnp.float32)
        return dropout(layer(x) / jnp.sqrt(variables["norm"])[None], deterministic=True) + noise * variables["n"]

    folded = gs.fold_batch_norm(apply, variables, jnp.ones((2, 4)))
    assert [folded[name] is variables[name] for name in ("key", "count", "n", "norm")] == [True, True, True, False]
    np.testing.assert_allclose(apply(folded, jnp.ones((2, 4))), apply(variables, jnp.ones((2, 4))), rtol=1e-6)


def test_what_is_folded_is_compared_with_what_it_was(monkeypatch):
    v = random_values({"w": jnp.zeros((4, 4))} | dict.fromkeys(("mean", "var", "scale", "bias"), jnp.zeros(4)), 0)
    wrong = fold_on_graph._scaled
    monkeypatch.setattr(fold_on_graph, "_scaled", lambda *args: wrong(*args) * 1.01)
    apply = with_explicit_ranks(lambda v, x: norm_of(v, x @ v["w"]))
    with pytest.raises(gs.InputError, match=r"test_folding.py:\d+ changes values by .*, more than rounding"):
        gs.fold_batch_norm(apply, v, jnp.ones((2, 4)))
