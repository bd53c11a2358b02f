import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TwoLayers

import gnsnn_jax as gs


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
    variables = with_random_norms(model.init(jax.random.key(0), images))
    folded = gs.fold_batch_norm(variables)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(folded) == shapes(variables)
    expected = model.apply(variables, images)
    np.testing.assert_allclose(model.apply(folded, images), expected, atol=1e-3 * jnp.abs(expected).max())
    for path, value in jax.tree_util.tree_leaves_with_path(folded["batch_stats"]):
        np.testing.assert_allclose(value, 1 - 1e-5 if path[-1].key == "var" else 0, atol=1e-7)


def test_names_that_count_layers_and_norms_apart_are_not_guessed_from():
    model, images = TwoLayers(), jax.random.normal(jax.random.key(1), (2, 6, 6, 2))
    variables = with_random_norms(model.init(jax.random.key(0), images))
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
    variables = with_random_norms(model.init(jax.random.key(0), images))
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
    variables = with_random_norms(model.init(jax.random.key(0), x))
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
