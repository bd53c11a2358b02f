"""The networks: their size, their layers, what they accept, and that they fold and convert."""

from functools import partial

import dyadic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.models import networks
from gnsnn_jax.models.layers import average_pool

# Weights, biases and norms of the published networks: those of torchvision (vgg*_bn; residual networks
# with a 3x3 stem instead of its 7x7 one, 7680 weights fewer) and, for ResNet-20 on ten classes, the
# 269,722 of its paper and 2752 of the two projections; of vision transformers without the class token and its position.
PARAMETERS = {
    "vgg11": 132_868_840,
    "vgg13": 133_053_736,
    "vgg16": 138_365_992,
    "vgg19": 143_678_248,
    "resnet18": 11_689_512 - 7680,
    "resnet34": 21_797_672 - 7680,
    "resnet50": 25_557_032 - 7680,
    "resnet101": 44_549_160 - 7680,
    "resnet152": 60_192_808 - 7680,
    "vit_s": 22_050_664 - 2 * 384,
    "vit_b": 86_567_656 - 2 * 768,
}
ACTIVATIONS = {
    "vgg11": 10, "vgg13": 12, "vgg16": 15, "vgg19": 18, "resnet10": 9, "resnet18": 17, "resnet20": 19,
    "resnet34": 33, "resnet50": 49, "resnet101": 100, "resnet152": 151,
    "vit_digits": 0, "vit_s": 0, "vit_b": 0,
}  # fmt: skip
SMALL = {
    "vgg16": {"convolutions": (1, 2, 1), "widths": (8, 16, 16), "hidden": 32},
    "resnet10": {"widths": (8, 16)},
    "resnet50": {"widths": (4, 4, 8, 8), "blocks": (1, 1, 2, 1)},
}


def small(name, **options):
    return gs.build(name, num_classes=3, levels=4, threshold=2.0, **SMALL[name] | options)


def structure(name, side, num_classes=10, channels=3):
    model = gs.build(name, num_classes=num_classes, levels=4)
    images = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return model, images, variables


def parameters(variables):
    """The number of parameters that are no threshold, and of thresholds."""
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree.leaves_with_path(variables["params"])}
    thresholds = sum(size for path, size in sizes.items() if "threshold" in path)
    return sum(sizes.values()) - thresholds, thresholds


@pytest.mark.parametrize("name", sorted(networks()))
def test_published_size(name):
    _, _, variables = structure(name, 224, num_classes=1000)
    weights, thresholds = parameters(variables)
    assert weights == PARAMETERS.get(name, weights)
    assert thresholds == ACTIVATIONS[name]


def test_published_size_of_resnet20():
    assert parameters(structure("resnet20", 32)[2])[0] == 269_722 + 2752


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", sorted(networks()))
def test_every_network_takes_small_and_large_images_and_folds(name, side):
    model, images, variables = structure(name, side, num_classes=7, channels=1)
    folded = jax.eval_shape(gs.fold_batch_norm, variables)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, variables)
    assert jax.eval_shape(model.apply, folded, images).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_folding_keeps_the_logits(name):
    model = small(name)
    variables = dyadic.variables(model, (32, 32, 3))
    images = dyadic.images(1, (2, 32, 32, 3))
    folded = gs.fold_batch_norm(variables)
    apply = jax.jit(model.apply)
    logits = apply(variables, images)
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    np.testing.assert_allclose(apply(folded, images), logits, atol=1e-5)
    assert not np.allclose(apply(variables | {"params": folded["params"]}, images), logits)


@pytest.mark.parametrize("name", SMALL)
def test_group_neurons_give_the_logits_in_one_step(name):
    model = small(name)
    variables = gs.fold_batch_norm(dyadic.variables(model, (32, 32, 3)))
    images = dyadic.images(1, (2, 32, 32, 3))
    spiking = jax.jit(gs.to_spiking(model.apply, gs.group_neuron(4), steps=2))
    np.testing.assert_allclose(spiking(variables, images)[0], jax.jit(model.apply)(variables, images), atol=1e-5)


def test_he_initialisation_over_the_outputs():
    model = gs.build("vgg16", num_classes=3, levels=4, convolutions=(1, 1), widths=(64, 256), hidden=8)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    kernel = variables["params"]["stage2"]["conv1"]["kernel"]  # 3 3 64 256
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 256)), rtol=0.01)


def test_convolutions_have_a_bias_in_vgg_alone():
    biases = {
        name: {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(structure(name, 32)[2]["params"])}
        for name in ("vgg11", "resnet50")
    }
    assert "['stage1']['conv1']['bias']" in biases["vgg11"]
    assert not any("conv" in path.split("]")[-3] and "bias" in path for path in biases["resnet50"])


def test_average_pooling():
    images = dyadic.images(0, (2, 3, 4, 6, 5))
    wanted = np.zeros((2, 3, 2, 3, 5))
    for index in np.ndindex(2, 3, 2, 3, 5):
        *batch, row, column, channel = index
        window = np.asarray(images)[*batch, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, channel]
        wanted[index] = window.sum() / 4
    np.testing.assert_array_equal(average_pool(images), wanted)


@pytest.mark.parametrize("shape", [(1, 3, 4, 2), (1, 4, 5, 2), (1, 0, 4, 2)])
def test_average_pooling_refuses_odd_maps(shape):
    with pytest.raises(gs.InputError, match=f"{shape[1]}x{shape[2]}"):
        average_pool(jnp.zeros(shape))


def test_dropout_in_training_only():
    model = small("vgg16", dropout_rate=0.5)
    variables = dyadic.variables(model, (32, 32, 3))
    images = dyadic.images(1, (2, 32, 32, 3))
    in_training = lambda model, seed: model.apply(
        variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(seed)}
    )[0]
    train = jax.jit(partial(in_training, model))
    without = jax.jit(partial(in_training, small("vgg16")))(0)
    assert not np.allclose(train(0), train(1))
    assert not np.allclose(train(0), without)
    np.testing.assert_array_equal(model.apply(variables, images), small("vgg16").apply(variables, images))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vgg16", (2, 32, 32, 1)),  # channels
        ("vgg16", (2, 64, 64, 3)),  # more pixels than the weights were made for
        ("vgg16", (2, 36, 36, 3)),  # an odd map on the way
        ("vgg16", (2, 4, 4, 3)),
        ("vgg16", (32, 32, 3)),
        ("resnet10", (2, 32, 32, 1)),
        ("resnet10", (2, 1, 1, 3)),
        ("resnet10", (32, 32, 3)),
        ("resnet50", (2, 4, 32, 3)),
    ],
)
def test_images_of_another_shape_are_refused(name, shape, unchecked):
    model = small(name)
    variables = dyadic.variables(model, (32, 32, 3))
    with pytest.raises(gs.InputError, match="images"):
        model.apply(variables, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg15", {}, "did you mean 'vgg1"),
        ("vgg16", {"dropout": 0.1}, "did you mean 'dropout_rate'"),
        ("resnet20", {"dropout_rate": 0.1}, "no option 'dropout_rate'"),
        ("vgg16", {"dropout_rate": 1.0}, "dropout_rate must be at least 0 and below 1"),
        ("vgg16", {"dropout_rate": float("nan")}, "dropout_rate"),
        ("vgg16", {"threshold": 0.0}, "threshold"),
        ("vit_s", {"heads": 5}, "384 features cannot be shared evenly by 5 heads"),
        ("vit_s", {"positions": "fixed"}, "positions must be one of learned, sincos"),
        ("vit_s", {"pool": "max"}, "pool must be one of mean, token"),
        ("vit_s", {"width": 6, "positions": "sincos"}, "multiple of 4, got 6"),
        ("vit_s", {"dropout_rate": 1.0}, "dropout_rate must be at least 0 and below 1"),
    ],
)
def test_build_refuses(name, options, message):
    with pytest.raises(gs.InputError, match=message):
        gs.build(name, **{"num_classes": 3, "levels": 4} | options)
