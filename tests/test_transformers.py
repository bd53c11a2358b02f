"""Transformers: their equations, what they accept, that they convert, and that they learn as spiking ones."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import erf
from sklearn.datasets import load_digits

import gnsnn_jax as gs
from gnsnn_jax.models.language import LanguageModel, bits_per_token
from gnsnn_jax.models.transformer import EPSILON, GELU, Block
from gnsnn_jax.models.vit import sincos_positions

HEADS = 2
ON_DEVICES = Path(__file__).with_name("transformer_on_devices.py")


def random_like(tree, seed=0):
    """Weights of size 1/sqrt(inputs), positions and biases small, norms near the identity."""
    random = np.random.default_rng(seed)

    def leaf_of(path, leaf):
        deviation = leaf.size**-0.5 * leaf.shape[-1] ** 0.5 if path[-1].key == "kernel" else 0.3
        return jnp.asarray(random.normal(float(path[-1].key == "scale"), deviation, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf_of, tree)


def random_variables(model, example):
    return random_like(jax.eval_shape(model.init, jax.random.key(0), example))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def small_vit(**options):
    chosen = {"width": 16, "depth": 1, "heads": HEADS} | options
    model = gs.build("vit_digits", num_classes=10, levels=16, **chosen)
    return model, random_variables(model, jnp.zeros((1, 8, 8, 1)))


def small_language_model(**options):
    model = LanguageModel(11, 6, width=16, depth=1, heads=HEADS, **options)
    return model, random_variables(model, jnp.zeros((1, 6), jnp.int32))


# Equations.


def normed(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def attended(x, p, is_causal):
    """Token by token and head by head, [N, C]."""
    query, key, value = (linear(x, p[name]) for name in ("query", "key", "value"))
    size, mixed = x.shape[-1] // HEADS, np.zeros_like(x)
    for head in range(HEADS):
        of_head = slice(head * size, (head + 1) * size)
        for token in range(len(x)):
            seen = slice(0, token + 1 if is_causal else None)
            scores = np.exp(key[seen, of_head] @ query[token, of_head] / np.sqrt(size))
            mixed[token, of_head] = scores / scores.sum() @ value[seen, of_head]
    return linear(mixed, p["out"])


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_block_is_that_of_the_papers(is_causal):
    x = normal(0, 2, 5, 8)
    block = Block(HEADS, GELU, jnp.float32, is_causal=is_causal)
    params = random_variables(block, x)["params"]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for found, sample in zip(block.apply({"params": params}, x), np.asarray(x, np.float64), strict=True):
        y = sample + attended(normed(sample, p["norm1"]), p["attention"], is_causal)
        hidden = linear(normed(y, p["norm2"]), p["mlp"]["dense1"])
        gelu = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        np.testing.assert_allclose(found, y + linear(gelu, p["mlp"]["dense2"]), rtol=1e-4, atol=1e-4)


def test_fixed_positions_are_waves_of_row_and_column():
    found = sincos_positions(3, 5, 8)
    row, column, rates = 2, 4, np.asarray([1.0, 10_000.0**-0.5])
    waves = lambda place: [*np.sin(place * rates), *np.cos(place * rates)]
    np.testing.assert_allclose(found[row * 5 + column], [*waves(row), *waves(column)], atol=1e-6)
    assert len(np.unique(found.round(4), axis=0)) == 15


@pytest.mark.parametrize(("name", "size"), [("vit_s", 22_050_664), ("vit_b", 86_567_656)])
def test_published_size_with_a_class_token(name, size):
    model = gs.build(name, num_classes=1000, levels=4, pool="token")
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == size


@pytest.mark.parametrize("options", [{"pool": "token"}, {"positions": "learned"}])
def test_options_of_a_vision_transformer(options):
    images = normal(0, 2, 8, 8, 1)
    model, variables = small_vit(**options)
    logits = jax.jit(model.apply)(variables, images)
    assert logits.shape == (2, 10)
    assert not np.allclose(logits, jax.jit(model.apply)(variables, images[:, ::-1]), atol=1e-3)
    half, _ = small_vit(dtype=jnp.bfloat16, **options)
    rounded = jax.jit(half.apply)(variables, images)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, logits, atol=0.1)
    assert not np.array_equal(rounded, logits)


def test_dropout_in_training_only():
    images = normal(0, 2, 8, 8, 1)
    model, variables = small_vit()
    dropping, _ = small_vit(dropout_rate=0.5)
    in_training = jax.jit(lambda v, x: dropping.apply(v, x, train=True, rngs={"dropout": jax.random.key(0)}))
    expected = jax.jit(model.apply)(variables, images)
    np.testing.assert_array_equal(jax.jit(dropping.apply)(variables, images), expected)
    assert not np.allclose(in_training(variables, images), expected, atol=1e-3)


def test_positions_are_seen():
    """Without them the mean over all tokens would be that of any order of the patches."""
    images = normal(0, 2, 8, 8, 1)
    model, variables = small_vit()
    apply = jax.jit(model.apply)
    assert not np.allclose(apply(variables, images), apply(variables, images[:, ::-1]), atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 9, 8, 1), (8, 8, 1), (2, 1, 1, 1), (2, 8, 8, 3), (2, 12, 12, 1)])
def test_images_of_another_shape_are_refused(shape, unchecked):
    model, variables = small_vit(positions="learned")
    with pytest.raises(gs.InputError, match="images"):
        model.apply(variables, jnp.zeros(shape))


def test_unknown_activations_are_refused():
    with pytest.raises(gs.InputError, match="there are qcfs, noisy_qcfs, clip, relu, gelu; did you mean 'gelu'"):
        small_vit(activation="gelo")


@pytest.mark.parametrize("shape", [(3,), (1, 7), (1, 0)])
def test_too_many_tokens_are_refused(shape, unchecked):
    model, variables = small_language_model()
    with pytest.raises(gs.InputError, match="1 to 6 tokens"):
        model.apply(variables, jnp.zeros(shape, jnp.int32))


def test_bits_of_chance_and_of_certainty():
    tokens = jnp.asarray([[0, 3, 1, 2]])
    assert float(bits_per_token(jnp.zeros((1, 4, 8)), tokens)) == pytest.approx(3)
    certain = 100 * jax.nn.one_hot(jnp.roll(tokens, -1, -1), 8)
    assert float(bits_per_token(certain, tokens)) == pytest.approx(0, abs=1e-6)


# Conversion.


def test_sites_are_named_after_the_modules_that_read_them():
    model, variables = small_vit()
    names = [site.name for site in gs.sites(model.apply, variables, jnp.zeros((1, 8, 8, 1)))]
    within = ["query/encoder", "scores/encoder", "scores/encoder#2", "mix/encoder", "mix/encoder#2", "out/encoder"]
    attention = [f"block0/attention/{name}" for name in within]
    assert names == [*attention, "block0/mlp/dense1/encoder", "block0/mlp/dense2/encoder", "head/encoder"]


def test_a_vision_transformer_of_many_members_is_the_network():
    model, variables = small_vit()
    images = normal(0, 16, 8, 8, 1)
    thresholds = gs.find_thresholds(model.apply, [images], 512, method="max", variables=variables)
    snn = jax.jit(gs.to_spiking(model.apply, gs.group_neuron(512), steps=2, thresholds=thresholds))
    outputs, expected = snn(variables, images), model.apply(variables, images)
    np.testing.assert_allclose(outputs[0], expected, atol=0.03)
    np.testing.assert_allclose(outputs.mean(0), expected, atol=0.02)


def test_a_language_model_sees_the_past_alone_as_spiking_one_too():
    model, variables = small_language_model()
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 6)), jnp.int32)
    other = tokens.at[:, 4].add(1) % 11
    thresholds = gs.find_thresholds(model.apply, [tokens], 16, variables=variables)
    snn = jax.jit(gs.to_spiking(model.apply, gs.group_neuron(16), steps=2, thresholds=thresholds))
    for network in (jax.jit(model.apply), snn):
        before, after = network(variables, tokens), network(variables, other)
        np.testing.assert_allclose(before[..., :4, :], after[..., :4, :], atol=1e-5)
        assert not np.allclose(before[..., 4:, :], after[..., 4:, :], atol=1e-3)
    assert np.isfinite(snn(variables, tokens)).all()


def test_one_image_at_a_time_and_several_networks_at_once_give_what_batches_give():
    model, variables = small_vit(pool="token")
    images = normal(0, 4, 8, 8, 1)
    thresholds = gs.find_thresholds(model.apply, [images], 4, variables=variables)
    snn = jax.jit(gs.to_spiking(model.apply, gs.group_neuron(4), steps=2, thresholds=thresholds))
    expected = snn(variables, images)
    one_by_one = jax.jit(jax.vmap(lambda image: snn(variables, image[None])[:, 0], out_axes=1))
    np.testing.assert_allclose(one_by_one(images), expected, atol=1e-5)
    others = jax.tree.map(lambda leaf: 0.9 * leaf, variables)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, others)
    found = jax.jit(jax.vmap(snn, (0, None)))(both, images)
    np.testing.assert_allclose(found, jnp.stack([expected, snn(others, images)]), atol=1e-5)


def test_in_bfloat16_throughout_it_is_the_network_up_to_rounding():
    """Potentials and sums stay in float32, so that errors do not add up over time."""
    model, variables = small_vit()
    images = normal(0, 8, 8, 8, 1)
    expected = jax.jit(model.apply)(variables, images)
    half, _ = small_vit(dtype=jnp.bfloat16)
    apply = lambda variables, images: half.apply(variables, images).astype(jnp.bfloat16)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (variables, images))
    with jax.numpy_dtype_promotion("standard"):  # which layer norms of bfloat16 weights need
        thresholds = gs.find_thresholds(apply, [rounded[1]], 64, method="max", variables=rounded[0])
        outputs = jax.jit(gs.to_spiking(apply, gs.group_neuron(64), steps=32, thresholds=thresholds))(*rounded)
    assert outputs.dtype == jnp.bfloat16
    sums = jnp.cumsum(outputs.astype(jnp.float32), 0)
    for steps, error in ((1, 0.06), (4, 0.02), (32, 0.02)):
        np.testing.assert_allclose(sums[steps - 1] / steps, expected, atol=error)


def test_a_gradient_reaches_every_weight_and_threshold_through_time():
    """Under `jit` over chunks, of a loss that reads each of four steps."""
    model, variables = small_vit()
    images = normal(0, 8, 8, 8, 1)
    thresholds = gs.find_thresholds(model.apply, [images], 4, variables=variables)

    def loss(variables, thresholds):
        snn = gs.to_spiking(model.apply, gs.group_neuron(4), steps=4, thresholds=thresholds)
        return jnp.cumsum(snn(variables, images), 0).var()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(variables, thresholds)
    assert gradients[1].keys() == thresholds.keys()
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_eight_devices_answer_as_one():
    """With images split by batch and weights by feature, under explicit sharding, and inside shard_map."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    environment = os.environ | flags | {"PYTHONPATH": str(ON_DEVICES.parent.parent)}
    done = subprocess.run([sys.executable, str(ON_DEVICES)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Learning.


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return normal_images(images), jnp.asarray(labels, jnp.int32)


def normal_images(images):
    return jnp.asarray((images - images.mean()) / images.std(), jnp.float32).reshape(-1, 8, 8, 1)


def descend(outputs_of, variables, digits, steps, rate):
    """So many steps of AdamW on batches of 64."""
    optimizer = optax.adamw(rate, weight_decay=0.0)
    images, labels = digits

    def step(carry, start):
        variables, moments = carry
        x, y = (jax.lax.dynamic_slice_in_dim(array, start, 64) for array in (images, labels))
        loss = lambda v: optax.softmax_cross_entropy_with_integer_labels(outputs_of(v, x), y).mean()
        updates, moments = optimizer.update(jax.grad(loss)(variables), moments, variables)
        return (optax.apply_updates(variables, updates), moments), None

    starts = 64 * (jnp.arange(steps) % (len(labels) // 64))
    with jax.numpy_dtype_promotion("standard"):  # which AdamW needs
        return jax.jit(lambda v: jax.lax.scan(step, (v, optimizer.init(v)), starts)[0][0])(variables)


@pytest.mark.slow
def test_a_spiking_transformer_learns_through_its_spikes(digits):
    """Fine-tuned at T = 1 with four members a neuron, it answers better; each of its weights has a gradient."""
    model, variables = small_vit()
    variables = descend(model.apply, variables, digits, 150, 5e-3)
    thresholds = gs.find_thresholds(model.apply, [digits[0][:256]], 4, variables=variables)
    snn = gs.to_spiking(model.apply, gs.group_neuron(4), steps=1, thresholds=thresholds)
    outputs_of = lambda variables, images: snn(variables, images)[0]
    gradient = jax.jit(jax.grad(lambda v: outputs_of(v, digits[0][:64]).var()))(variables)["params"]
    del gradient["block0"]["attention"]["key"]["bias"]  # which a softmax does not see
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    accuracy = jax.jit(lambda v: (outputs_of(v, digits[0]).argmax(-1) == digits[1]).mean())
    before, after = accuracy(variables), accuracy(descend(outputs_of, variables, digits, 60, 1e-3))
    assert after > before + 0.02
