"""Multiply-accumulates, counted without evaluating anything."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from gnsnn_jax.analysis.products import multiply_accumulates
from gnsnn_jax.models import build


def shape_of(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_product_of_matrices_is_rows_by_columns_by_terms():
    assert multiply_accumulates(jnp.matmul, shape_of(3, 5), shape_of(5, 7)) == 3 * 5 * 7
    assert multiply_accumulates(jax.jit(jnp.matmul), shape_of(2, 3, 5), shape_of(2, 5, 7)) == 2 * 3 * 5 * 7
    assert multiply_accumulates(jnp.add, shape_of(3, 5), shape_of(3, 5)) == 0


@pytest.mark.parametrize(("groups", "terms"), [(1, 4), (2, 2)])
def test_a_convolution_is_outputs_by_taps_by_channels(groups, terms):
    layer = nn.Conv(6, (3, 3), strides=2, feature_group_count=groups)
    variables = jax.eval_shape(layer.init, jax.random.key(0), shape_of(1, 8, 8, 4))
    assert multiply_accumulates(layer.apply, variables, shape_of(1, 8, 8, 4)) == 4 * 4 * 6 * 9 * terms


def test_a_scan_counts_each_of_its_steps():
    def repeated(x, weights):
        return jax.lax.scan(lambda x, _: (x @ weights, None), x, length=4)[0] @ weights

    assert multiply_accumulates(repeated, shape_of(2, 5), shape_of(5, 5)) == 5 * (2 * 5 * 5)


def test_resnet18_on_small_images_has_the_multiply_accumulates_of_its_layers():
    """3x3 convolutions of a stem and four stages, three projections and the last layer."""
    network = build("resnet18", num_classes=10, levels=4, threshold=8.0, dtype=jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), shape_of(1, 32, 32, 3))
    stem, first = 32**2 * 9 * 3 * 64, 4 * 32**2 * 9 * 64**2
    later = sum(
        side**2 * (9 * width * (width // 2 + 3 * width) + width**2 // 2)
        for side, width in ((16, 128), (8, 256), (4, 512))
    )
    assert multiply_accumulates(network.apply, variables, shape_of(1, 32, 32, 3)) == stem + first + later + 512 * 10
