"""Strategies and networks that several test modules share.

Thresholds and currents are multiples of powers of two, so that sums of them are exact in float32 and
the theorems hold to the last bit, ties included.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.method import neurons

GRAIN = 1 / 64

# The shared suites run over these: every neuron that has a name, whose outputs are its spikes and that sends them step
# by step, and more members and signs of group neurons.
GROUPS = [gs.group_neuron(members, signed) for signed in (False, True) for members in (1, 2, 3, 4, 8)]
NAMED = {name: make(4) for name, make in neurons.NEURONS.items()}
SENDING = {name: each for name, each in NAMED.items() if each.sends_its_value and not each.layerwise}
NEURONS = list(dict.fromkeys([*GROUPS, *SENDING.values()]))
OFFSETS = [gs.offset_spikes(4), gs.offset_spikes(3, passes=2)]
# Whoever adds a calibration adds it here too.
CALIBRATIONS = [*OFFSETS, gs.residual_membrane(3)]

# A few, as every new one compiles.
shapes = st.sampled_from([(), (4,), (2, 1, 3)])
levels = st.integers(1, 9)
members = st.sampled_from([1, 2, 3, 4, 8])
seeds = st.integers(0, 2**31)


def dyadic(seed, shape, low=-2.0, high=3.0):
    """Multiples of GRAIN, uniform between the bounds."""
    random = np.random.default_rng(seed)
    return jnp.asarray(random.integers(int(low / GRAIN), int(high / GRAIN), size=shape) * GRAIN, jnp.float32)


def thresholds_for(members):
    """Thresholds whose unit, threshold / members, is a power of two."""
    return st.sampled_from([0.25, 0.5, 1.0, 2.0]).map(lambda unit: unit * members)


class TwoLayers(nn.Module):
    """A convolution, a residual block and a head, three activations."""

    levels: int = 4

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), padding=((1, 1), (1, 1)))(x)
        x = gs.qcfs(x, self.param("threshold0", nn.initializers.constant(1.5), ()), self.levels)
        y = nn.Conv(4, (3, 3), padding=((1, 1), (1, 1)), use_bias=False)(x)
        y = nn.BatchNorm(use_running_average=not train)(y)
        y = gs.qcfs(y, self.param("threshold1", nn.initializers.constant(1.0), (4,)), self.levels)
        x = gs.qcfs(x + y, self.param("threshold2", nn.initializers.constant(2.0), ()), self.levels)
        return nn.Dense(3)(x.mean((-3, -2)))
