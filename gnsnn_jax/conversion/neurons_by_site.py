"""Which neuron stands at which site: one for all, or by patterns of site names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from gnsnn_jax.engine.graph import Operation
from gnsnn_jax.errors import InputError, nearest
from gnsnn_jax.method.neurons import GroupNeuron, Neuron

Neurons = Neuron | Mapping[str, Neuron]


def checked_neurons(neuron: Any) -> Neurons:
    """A neuron, or a mapping from patterns to neurons. Raises TypeError for anything else."""
    if isinstance(neuron, Neuron):
        return neuron
    if isinstance(neuron, Mapping) and neuron and all(isinstance(each, Neuron) for each in neuron.values()):
        return dict(neuron)
    raise TypeError(
        "neuron must be a Neuron such as group_neuron(8), or a mapping from patterns of site names to neurons such as "
        f'{{"head/*": integrate_and_fire(), "*": group_neuron(8)}}, got {neuron!r}'
    )


def neuron_for(neuron: Neurons, name: str, kind: str) -> Neuron:
    """The neuron of the first pattern that matches the name of a site, in its signed form for an encoder.

    Raises InputError where no pattern matches, and for a signed neuron of the library in place of an activation: that
    cuts off negative values, and the neuron would pass them on.
    """
    found = neuron if isinstance(neuron, Neuron) else _first_match(neuron, name)
    if kind == "encoder":
        return signed(found)
    if type(found).signed_form is not Neuron.signed_form and found.signed_form() == found:
        raise InputError(
            f"a signed neuron stands at {name!r}, an activation without negative values; give one there whose sum is "
            f"never negative in place of {found}, encoders take the signed form by themselves"
        )
    return found


def signed(neuron: Neuron) -> Neuron:
    """A neuron in the form that encodes values of either sign."""
    return neuron.signed_form() or GroupNeuron(neuron.members, signed=True)


def check_patterns(neuron: Neurons, populations: Sequence[Operation]) -> None:
    """Raises InputError for a pattern that matches no population, and a population that no pattern matches."""
    if isinstance(neuron, Neuron):
        return
    names = [population.activation.name for population in populations]
    for pattern in neuron:
        if not any(_matches(pattern, name) for name in names):
            raise InputError(
                f"the pattern {pattern!r} matches no site; there are {', '.join(names)}{nearest(pattern, names)}"
            )
    for name in names:
        _first_match(neuron, name)


def each_neuron(neuron: Neurons) -> list[Neuron]:
    """The neurons of a mapping, or the one."""
    return [neuron] if isinstance(neuron, Neuron) else list(neuron.values())


def settings_of(neuron: Neurons) -> Any:
    """Equal and hashable for neurons that make equal populations."""
    return neuron if isinstance(neuron, Neuron) else tuple(neuron.items())


def _first_match(neurons: Mapping[str, Neuron], name: str) -> Neuron:
    for pattern, neuron in neurons.items():
        if _matches(pattern, name):
            return neuron
    raise InputError(f'no pattern matches the site {name!r}; end the mapping with "*" for all others')


def _matches(pattern: str, name: str) -> bool:
    """`*` and `?` stand for anything, and brackets for themselves, as in "layers[3]/act"."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))
