"""What every spiking neuron is: a value with two pure functions, `init` and `step`."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.method.activations import align

HOW_TO_SUBCLASS = """\
Neuron is a base class and takes no arguments; write a subclass:
    @dataclass(frozen=True)
    class MyNeuron(gs.Neuron):
        def init(self, threshold, shape): ...         # -> state
        def step(self, state, x_t, threshold): ...    # -> (state, y_t)"""


@dataclass(frozen=True, eq=False)
class Neuron(ABC):
    """Base class of spiking neurons. A subclass is a frozen dataclass with `init` and `step`:

        @dataclass(frozen=True)
        class Leaky(gs.Neuron):
            leak: float = 0.9

            def init(self, threshold, shape):
                return jnp.broadcast_to(threshold / 2, shape)

            def step(self, potential, x_t, threshold):
                charged = self.leak * potential + x_t
                spikes = gs.staircase(charged, threshold, 1)
                return charged - spikes, spikes

    Its fields are what sets two neurons apart: equal ones compile once. The state is any tree of arrays whose
    leading axes are `shape`. One step emits a whole number of units, threshold / members each: at least `lowest`
    and at most `members` of them.

    Attributes:
        members: the most units that one step can emit; 1 by default.
        signed: whether a step can emit negative units, down to -members; False by default.
        sends_its_value: whether its outputs are the spikes that it sends, whole numbers of units; True by default. A
            neuron whose outputs are not says by `sent` how many spikes it sent.
        layerwise: whether it needs the currents of all steps before it sends, see `LayerwiseNeuron`; False by default.

    A subclass sets them as attributes of the class or as fields.
    """

    if TYPE_CHECKING:

        @property
        def members(self) -> int: ...
        @property
        def signed(self) -> bool: ...
        @property
        def sends_its_value(self) -> bool: ...
        @property
        def layerwise(self) -> bool: ...
    else:
        members = 1
        signed = False
        sends_its_value = True
        layerwise = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Neuron:
        if cls is Neuron:
            raise TypeError(HOW_TO_SUBCLASS)
        return super().__new__(cls)

    @abstractmethod
    def init(self, threshold: Array, shape: tuple[int, ...]) -> Any:
        """The state before the first step.

        Args:
            threshold: [] or [C], broadcasts to `shape`.
            shape: that of the currents of one step.

        Returns:
            A tree of arrays with leading axes `shape`, float32 or wider.
        """

    @abstractmethod
    def step(self, state: Any, x_t: Array, threshold: Array) -> tuple[Any, Array]:
        """One time-step, a pure function.

        Args:
            state: as `init` and `step` return it.
            x_t: currents [...] of this step, in the type of the threshold where `run` calls it.
            threshold: [] or [C], as in `init`.

        Returns:
            The state after the step, and the outputs y_t [...].
        """

    def unit(self, threshold: Array) -> Array:
        """The size of one spike: threshold / members.

        Args:
            threshold: [] or [C].

        Returns:
            [] or [C], as the threshold.
        """
        return threshold / self.members

    @property
    def lowest(self) -> int:
        """The fewest units that one step can emit: 0, or -members if `signed`."""
        return -self.members if self.signed else 0

    @property
    def values_a_step(self) -> int:
        """How many values besides 0 one step can send: the whole numbers of units from `lowest` to `members`.

        A neuron that sends fewer, or others, overrides it.
        """
        return self.members - self.lowest

    def least_output(self, state: Any, unit: Array) -> Array | int:
        """The least output that the step after `state` can have: `lowest` units.

        Calibrations ask for it: a step that emitted more could have emitted one unit less. A neuron overrides it
        where it depends on the state.

        Args:
            state: before the step.
            unit: what `unit` returned, aligned to the outputs.

        Returns:
            A number or an array that broadcasts to the outputs.
        """
        return self.lowest * unit if self.signed else 0

    def signed_form(self) -> Neuron | None:
        """The neuron that stands for it where values of either sign are encoded: itself if `signed`.

        A neuron overrides it that has another form for that, or that is `signed` and yet cannot emit fewer than 0
        units in sum.

        Returns:
            A neuron, or None for a signed group neuron of as many members.
        """
        return self if self.signed else None

    def at_site(self, number: int) -> Neuron:
        """The neuron at one of the populations of a network: itself, or with random numbers of its own.

        Args:
            number: of the population, from 0 on.
        """
        return self

    def potential(self, state: Any) -> Array:
        """The membrane potential within a state: the state itself if it is an array, or its `potential`.

        Args:
            state: as `init` and `step` return it.

        Returns:
            v [...].

        Raises:
            TypeError: for a state without one.
        """
        return state if _is_array(state) else _part_of(self, state)

    def with_potential(self, state: Any, potential: Array) -> Any:
        """The state with another membrane potential; the counterpart of `potential`, and overridden with it.

        Args:
            state: as `init` and `step` return it.
            potential: v [...].

        Returns:
            A state of the same structure.

        Raises:
            TypeError: for a state without a potential.
        """
        if _is_array(state):
            return potential
        _part_of(self, state)
        return _replace(state, potential)

    def units(self, outputs: Float[Array, "*shape"], threshold: Float[Array, "..."] | float) -> Int[Array, "*shape"]:
        """How many units each output is, below 0 for negative ones: round(y members / threshold).

        Args:
            outputs: y [...].
            threshold: [] or [C].

        Returns:
            int32 [...].

        Raises:
            InputError: for a threshold that does not broadcast.
        """
        dtype = at_least_single(outputs.dtype)
        unit = align(self.unit(jnp.asarray(threshold, dtype)), outputs.shape, "threshold")
        return jnp.round(outputs.astype(dtype) / unit).astype(jnp.int32)

    def count(self, outputs: Float[Array, "*shape"], threshold: Float[Array, "..."] | float) -> Int[Array, "*shape"]:
        """How many spikes each output is sent as, negative ones included: one for each unit, |units|.

        A neuron that needs fewer overrides it.

        Args:
            outputs: y [...].
            threshold: [] or [C].

        Returns:
            int32 [...], at most `members`.

        Raises:
            InputError: for a threshold that does not broadcast.
        """
        return jnp.abs(self.units(outputs, threshold))

    def nothing_sent(self, shape: tuple[int, ...]) -> Any:
        """What `sent` remembers before the first step: None, or a tree of arrays.

        Args:
            shape: of one step.
        """
        return None

    def sent(
        self, memory: Any, outputs: Float[Array, "n *shape"], threshold: Array
    ) -> tuple[Any, Int[Array, "n *shape"]]:
        """How many spikes were sent at each of n consecutive steps: `count`, if outputs are what is sent.

        Args:
            memory: as `nothing_sent` and `sent` return it.
            outputs: y [n, ...].
            threshold: [] or [C].

        Returns:
            What to remember, and int32 [n, ...].
        """
        return memory, self.count(outputs, threshold)


def _is_array(state: Any) -> bool:
    return jax.tree_util.treedef_is_leaf(jax.tree.structure(state))


def _part_of(neuron: Neuron, state: Any) -> Array:
    if not hasattr(state, "potential"):
        name = type(neuron).__name__
        raise TypeError(
            f"the state of {name}, a {type(state).__name__}, has no attribute `potential`; "
            f"give it one, or override `potential` and `with_potential` in {name}"
        )
    return state.potential


def _replace(state: Any, potential: Array) -> Any:
    if dataclasses.is_dataclass(state):
        return dataclasses.replace(state, potential=potential)  # type: ignore[type-var]
    return state._replace(potential=potential)
