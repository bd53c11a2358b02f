"""Random Linen variables of multiples of powers of two, of so few bits that sums are exact in float32."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def images(seed, shape):
    """Multiples of 1/16 in [-2, 2]."""
    return jnp.asarray(np.random.default_rng(seed).integers(-32, 33, shape) / 16, jnp.float32)


def variables(model, image_shape, seed=0):
    """Random variables of a network for images of this shape, [H, W, C]."""
    random = np.random.default_rng(seed)
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    leaves, structure = jax.tree_util.tree_flatten_with_path(jax.eval_shape(model.init, jax.random.key(0), example))
    values = [_leaf(random, path[-1].key, leaf.shape) for path, leaf in leaves]
    return jax.tree.unflatten(structure, [jnp.asarray(value, jnp.float32) for value in values])


def _leaf(random, name, shape):
    if name == "kernel":
        deviation = math.sqrt(2 / math.prod(shape[:-1]))
        grain = 2.0 ** math.floor(math.log2(deviation) - 2)
        return np.round(random.normal(size=shape) * deviation / grain) * grain
    if name == "var":  # var + epsilon is a power of four in float32, so that its root is exact
        return random.choice(np.float32([0.25, 1, 4]), shape) - np.float32(1e-5)
    if name == "threshold":
        return random.integers(4, 13, shape) / 4
    low, high = {"scale": (8, 25), "bias": (-4, 9), "mean": (-4, 5)}[name]
    return random.integers(low, high, shape) / 16
