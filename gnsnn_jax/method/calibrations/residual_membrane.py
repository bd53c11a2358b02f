"""SRP: neurons that a residual membrane potential shows to fire too often are silenced."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.calibrations.base import Calibration
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.run import initial_state, run
from gnsnn_jax.xla.computed_once import computed_once

RESIDUE = 1e-3  # of a unit: a potential up to this counts as spikes that should not have been


@dataclass(frozen=True)
class ResidualMembrane(Calibration):
    """SRP: the neurons whose potential after the probe is not above 0 are silenced, the others start again.

        v(0) <- -infinity    where v(probe_steps) <= 1e-3 u,   else unchanged

    A potential below 0 at the end says that more was sent than came in. Such a neuron never fires; the others start
    from their own potential. Signed neurons, which take back what they sent too much, are left as they are.

    Made for IF: of a group neuron it silences all members at once, also where only one unit of many was too much.

    Args:
        probe_steps: tau, at least 1.

    Raises:
        InputError: for probe_steps < 1.
        TypeError: for probe_steps that are no integer.

    Hao et al., AAAI 2023, arXiv 2302.02091.
    """

    def initial(
        self, neuron: Neuron, currents: Float[Array, "T *shape"], threshold: Float[Array, "..."] | float
    ) -> Float[Array, "*shape"]:
        """The initial potential of each neuron: its own, or -infinity.

        Args:
            neuron: any whose state has a potential.
            currents: x [T, ...] with T >= probe_steps, in the unit of the threshold.
            threshold: [] or [C].

        Returns:
            v(0) [...], which no gradient reaches.

        Raises:
            InputError: for fewer currents than probe steps and for shapes that do not broadcast.
            TypeError: for a neuron whose state has no potential.
        """
        currents, threshold = self.probed(currents, threshold)
        own = neuron.potential(initial_state(neuron, currents, threshold))
        if neuron.signed:
            return own
        residue = neuron.potential(run(neuron, currents, threshold)[1])
        unit = align(neuron.unit(threshold), residue.shape, "threshold")
        return computed_once(jnp.where(residue > RESIDUE * unit, own, -jnp.inf))


def residual_membrane(probe_steps: int) -> ResidualMembrane:
    """SRP, neurons silenced by their residual membrane potential: `ResidualMembrane(probe_steps)`.

    Args:
        probe_steps: tau, at least 1.

    Returns:
        A calibration; equal arguments give equal ones.

    Raises:
        InputError: for probe_steps < 1.
        TypeError: for probe_steps that are no integer.

    Hao et al., AAAI 2023, arXiv 2302.02091.
    """
    return ResidualMembrane(probe_steps)


# By name, given probe_steps and passes.
CALIBRATIONS = {"srp": lambda probe_steps, passes: residual_membrane(probe_steps)}
HELP = {"srp": "neurons that send too much in rho probe steps of each sample are silenced"}
