"""Spiking neurons, a file a family, and the loop that runs them over time."""

from __future__ import annotations

from collections.abc import Callable

from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.group import GroupNeuron, group_neuron, integrate_and_fire
from gnsnn_jax.method.neurons.run import run
from gnsnn_jax.method.registry import union

__all__ = ["HELP", "NEURONS", "OVER", "GroupNeuron", "Neuron", "group_neuron", "integrate_and_fire", "run"]

# What a method's name stands for, given the number of members that group neurons have: the union of the
# dictionaries NEURONS in the files of this folder.
NEURONS: dict[str, Callable[[int], Neuron]] = union(__name__, __path__, "NEURONS")
# Those of them that can be made over another neuron, given that neuron.
OVER: dict[str, Callable[..., Neuron]] = union(__name__, __path__, "OVER")
HELP: dict[str, str] = union(__name__, __path__, "HELP")  # what each is, in a line
