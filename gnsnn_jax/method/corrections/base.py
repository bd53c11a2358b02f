"""What every correction is: a few numbers for each site, which a rule finds from data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.run import run

HOW_TO_SUBCLASS = """\
CorrectionRule is a base class; write a subclass:
    @dataclass(frozen=True)
    class MyRule(gs.CorrectionRule):
        def correct(self, seen, before): ...    # -> Correction"""


class Correction(NamedTuple):
    """How the neurons of one site differ from the others of their kind.

        x'_t = gain x_t + bias_t,   v(0) = start

    Attributes:
        bias: b [S, ...], in the unit of the threshold; row t for step t, and the last row for all steps after S. Each
            row broadcasts to the currents of one step.
        gain: [] or [C].
        start: the potential that neurons start from, [] or [C] or of the shape of one sample; None for their own.
        threshold: [] or [C], in place of the site's own; None for that.
    """

    bias: Array
    gain: Array
    start: Array | None = None
    threshold: Array | None = None


class Seen(NamedTuple):
    """What a rule sees of one site, for one batch.

    Attributes:
        neuron: that stands there.
        currents: x [T, B, ...] that reach it in the spiking network, with the layers before it corrected.
        threshold: of the site, [] or [C].
        own_currents: a [B, ...] that the network itself has there.
        wanted: h [B, ...], what the activation of the network itself makes of them.
        channel_axis: the axis with a bias for each entry, counted from the right; None for one bias for all.
        batch: the number of the batch, from 1 on.
    """

    neuron: Neuron
    currents: Float[Array, "T B *shape"]
    threshold: Array
    own_currents: Float[Array, "B *shape"]
    wanted: Float[Array, "B *shape"]
    channel_axis: int | None
    batch: Array | int

    @property
    def steps(self) -> int:
        """T."""
        return len(self.currents)

    def by_channel(self, values: Array) -> Array:
        """The mean of values [B, ...] over all axes but that of the channels: [] or [C, 1, ...]."""
        at = self.channel_axis
        kept = None if at is None else values.ndim + at
        mean = values.mean([axis for axis in range(values.ndim) if axis != kept])
        return mean if at is None else mean.reshape(-1, *(1,) * (-at - 1))

    def nothing(self) -> Correction:
        """The correction that changes nothing, with a bias for each channel."""
        return Correction(jnp.zeros_like(self.by_channel(self.wanted), jnp.float32)[None], jnp.ones(()))

    def mean_output(self, correction: Correction) -> Array:
        """What the neurons emit at a step on average [B, ...], corrected."""
        threshold = self.threshold if correction.threshold is None else correction.threshold
        outputs, _ = run(self.neuron, corrected(self.currents, correction), threshold, correction.start)
        return outputs.mean(0)


@dataclass(frozen=True, eq=False)
class CorrectionRule(ABC):
    """Base class of rules that find corrections. A subclass is a frozen dataclass with `correct`.

    Attributes:
        holds_before: whether a correction that was found for T steps is that for fewer too; False by default.
    """

    if TYPE_CHECKING:

        @property
        def holds_before(self) -> bool: ...
    else:
        holds_before = False

    def __new__(cls, *args: Any, **kwargs: Any) -> CorrectionRule:
        if cls is CorrectionRule:
            raise TypeError(HOW_TO_SUBCLASS)
        return super().__new__(cls)

    @abstractmethod
    def correct(self, seen: Seen, before: Correction) -> Correction:
        """The correction of one site after one more batch, a pure function.

        Args:
            seen: the currents of this batch and what the network itself has there.
            before: the correction after the batches before, `seen.nothing()` at the first of them.

        Returns:
            The correction.
        """


def corrected(currents: Float[Array, "n *shape"], correction: Correction, done: Int[Array, ""] | int = 0) -> Array:
    """The currents as the neurons of a site get them: gain x_t + bias_t.

    Args:
        currents: x [n, ...] of n consecutive steps.
        correction: of the site.
        done: how many steps were before them.

    Returns:
        [n, ...], in the type of the currents or, if that is wider, of the correction.

    Raises:
        InputError: for a correction that does not broadcast.
    """
    dtype, shape = jnp.promote_types(currents.dtype, correction.bias.dtype), currents.shape[1:]
    rows = jnp.minimum(done + jnp.arange(len(currents), dtype=jnp.int32), len(correction.bias) - 1)
    per_step = lambda bias: align(bias, shape, "the bias of a correction")
    bias = jax.vmap(per_step)(jnp.asarray(correction.bias, dtype)[rows])
    gain = align(jnp.asarray(correction.gain, dtype), shape, "the gain of a correction")
    return currents.astype(dtype) * gain[None] + bias


def same_rank(first: Array, second: Array) -> tuple[Array, Array]:
    """Both with axes of length 1 in front where the other has more."""
    rank = max(first.ndim, second.ndim)
    return tuple(each.reshape((1,) * (rank - each.ndim) + each.shape) for each in (first, second))  # type: ignore
