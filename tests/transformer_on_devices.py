"""A converted vision transformer on eight simulated devices, for test_transformers: it answers as on one of them.

In double precision, as the order in which devices add up numbers changes their last bit, which tips a spike over.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

import gnsnn_jax as gs


def mesh(*kinds):
    return jax.make_mesh((4, 2), ("batch", "features"), axis_types=kinds)


def random_variables(model, images):
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape)), shapes)


def by_features(leaf):
    """Weights are split along the features that they make, where these are even in number."""
    return jax.P(*[None] * (leaf.ndim - 1), "features" if leaf.ndim and leaf.shape[-1] % 2 == 0 else None)


def compare(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-9)


def main():
    model = gs.build("vit_digits", num_classes=10, levels=4, width=16, depth=1, heads=2, dtype=jnp.float64)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(8, 8, 8, 1)))
    variables = random_variables(model, images)
    thresholds = dict.fromkeys((site.name for site in gs.sites(model.apply, variables, images)), 2.0)
    snn = gs.to_spiking(model.apply, gs.group_neuron(4), steps=3, thresholds=thresholds)
    whole = jax.jit(snn)(variables, images)

    automatic = mesh(AxisType.Auto, AxisType.Auto)
    with jax.set_mesh(automatic):
        shared = jax.device_put(variables, jax.tree.map(by_features, variables))
        found = jax.jit(snn)(shared, jax.device_put(images, jax.P("batch")))
    assert not found.is_fully_replicated
    compare(found, whole)

    with jax.set_mesh(mesh(AxisType.Explicit, AxisType.Explicit)):
        found = jax.jit(snn)(variables, jax.device_put(images, jax.P("batch")))
        assert jax.typeof(found).sharding.spec == jax.P(None, "batch", None), jax.typeof(found)
    compare(found, whole)

    mapped = jax.shard_map(snn, mesh=automatic, in_specs=(jax.P(), jax.P("batch")), out_specs=jax.P(None, "batch"))
    compare(jax.jit(mapped)(variables, images), whole)


if __name__ == "__main__":
    main()
