"""What the engine knows of JAX's operations: one table, keyed by the primitive.

A rule says everything that the engine asks about an operation behind spikes: in which operands it is linear, how it
runs over time where it is not, whether it applies weights, how its connections are counted, which whole units its
results keep, and what to do where it does not convert. `register` adds a rule for a primitive of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Primitive, primitives

from gnsnn_jax.engine import unit_rules, work_rules
from gnsnn_jax.engine.jaxprs import CALLS, CONTROL_FLOW, inner_jaxprs
from gnsnn_jax.errors import shown

# Whether an operation is linear in the operands at these positions together, the others being fixed.
Linear = Callable[[JaxprEqn, frozenset[int]], bool]


class OverTime(Enum):
    """How an operation runs over time where it is not linear in the operands that vary.

    OF_MEANS  on the means of its operands so far: m_out(t) = f(m(t)), exact in the mean for any f
    OF_SUMS   on their sums so far: x_out(t) = f(S(t)) - f(S(t-1)), the same for f(a x) = a f(x) with a > 0, and of
              spikes it makes spikes again where f picks one of its operands, as max-pooling does
    REFUSED   not at all, as it has no meaning for a mean
    """

    OF_MEANS = "means"
    OF_SUMS = "sums"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """What the engine knows of an operation.

    Args:
        linear: whether it is linear in the operands at some positions together; how a linear operation runs over
            time is its batching rule, at all steps at once.
        otherwise: how it runs over time where it is not linear.
        remedy: what to do where that is refused.
        weighted: whether one of its operands are the weights of a layer.
        moves: whether each output is one input, moved or scaled; no two are added up.
        unit: the unit of its outputs where those of its inputs are whole numbers of a unit, see `unit_rules`.
        work: how many elementary operations it takes each time it is applied, see `work_rules`.
        casts: whether its output is its input in another type, which counting connections passes over.
        divisors: the operands that it divides by, which are never zero: each counts as a coefficient of one.
    """

    linear: Linear
    otherwise: OverTime = OverTime.OF_MEANS
    remedy: str = "leave it out of the network and apply it to the mean of the outputs over time"
    weighted: bool = False
    moves: bool = False
    unit: unit_rules.UnitRule | None = None
    work: work_rules.WorkRule = work_rules.each_value
    casts: bool = False
    divisors: frozenset[int] = frozenset()


def everywhere(eqn: JaxprEqn, positions: frozenset[int]) -> bool:
    """In all operands together."""
    return True


def nowhere(eqn: JaxprEqn, positions: frozenset[int]) -> bool:
    return not positions


def one_at_a_time(eqn: JaxprEqn, positions: frozenset[int]) -> bool:
    """In each operand while the others are fixed, as a product is."""
    return len(positions) <= 1


def only(*linear: int) -> Linear:
    """In the operands at these positions together."""
    return lambda eqn, positions: positions <= set(linear)


def _from(first: Callable[[JaxprEqn], int]) -> Linear:
    """In the operands from a position on, which the equation tells."""
    return lambda eqn, positions: all(position >= first(eqn) for position in positions)


def _adds(eqn: JaxprEqn, positions: frozenset[int]) -> bool:
    """Whether a reduction by a function of the user's adds up, and its initial values are fixed."""
    operands = len(eqn.invars) // 2
    bodies = [body.jaxpr for body in inner_jaxprs(eqn)]
    sums = all([inner.primitive.name for inner in body.eqns] in (["add"], ["add_any"]) for body in bodies)
    return bool(bodies) and operands == 1 and sums and positions <= {0}


def _replaces(eqn: JaxprEqn, positions: frozenset[int]) -> bool:
    """Whether a scatter writes values at fixed places; `.at[...].apply` has a function in place of values."""
    return positions <= {0, 2} and not any(body.eqns for body in inner_jaxprs(eqn))


def _keeps_fractions(eqn: JaxprEqn, positions: frozenset[int]) -> bool:
    return not positions or jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact)


OF_MEANS, OF_SUMS, REFUSED = OverTime

_OF_THE_MEAN = Rule.remedy
_INDICES = f"integers made of spikes select values, which has no mean; {_OF_THE_MEAN}"
_SCATTERED = (
    "it converts at fixed indices, and of two factors one may be made of spikes; else write it with jnp.where, or "
    f"{_OF_THE_MEAN}"
)
_NOT_A_MEAN = f"it has no meaning for the mean of spikes; {_OF_THE_MEAN}"
_BITS = "the bits of a number have no mean; make this depend on fixed values only"
_RANDOM = "random numbers must not depend on spikes"
_UNSEEN = f"JAX cannot see inside; {_OF_THE_MEAN}"

# Rules by the names of JAX's primitives; a name that a version of JAX does not have is passed over.
_BY_NAME: dict[str, Rule] = {}


def _rule(names: str, linear: Linear, otherwise: OverTime = OF_MEANS, **more: Any) -> None:
    _BY_NAME.update(dict.fromkeys(names.split(), Rule(linear, otherwise, **more)))


# Linear: what moves, repeats or leaves out values ...
_rule(
    "reshape broadcast_in_dim squeeze expand_dims transpose rev slice split unstack tile copy copy_p name device_put "
    "sharding_constraint reshard neg encode parameter",
    everywhere, moves=True, unit=unit_rules.moved, work=work_rules.none,
)  # fmt: skip
_rule("concatenate stack", everywhere, moves=True, unit=unit_rules.joined(max), work=work_rules.none)
_rule("pad", everywhere, moves=True, unit=unit_rules.padded, work=work_rules.none)
_rule("convert_element_type", _keeps_fractions, moves=True, unit=unit_rules.moved, work=work_rules.none, casts=True)
_rule("reduce_precision optimization_barrier", everywhere, moves=True, work=work_rules.none)
_rule(
    "real imag conj complex mesh_cast layout_constraint pvary pcast pbroadcast all_gather all_gather_invariant "
    "all_to_all ppermute debug_callback debug_print stop_gradient computed_once",
    everywhere, work=work_rules.none,
)  # fmt: skip
_rule(
    "gather dynamic_slice", only(0), REFUSED, remedy=_INDICES, moves=True, unit=unit_rules.moved, work=work_rules.none
)
_rule("get", only(0), REFUSED, remedy=_INDICES, work=work_rules.none)
_rule("dynamic_update_slice swap", only(0, 1), REFUSED, remedy=_INDICES)
# ... sums ...
_rule("add add_any sub", everywhere, unit=unit_rules.joined(sum))
_rule("reduce_sum", everywhere, unit=unit_rules.summed(unit_rules.reduced))
_rule("reduce_window_sum", everywhere, unit=unit_rules.summed(unit_rules.in_window), work=work_rules.each_in_window)
_rule("cumsum", everywhere, unit=unit_rules.summed(unit_rules.accumulated))
_rule("fft psum psum_invariant psum2 psum_scatter reduce_scatter custom_lin linear_call", everywhere)
_rule("reduce reduce_window", _adds)
_rule("scatter-add scatter_add scatter-sub scatter_sub", only(0, 2), REFUSED, remedy=_INDICES)
_rule("scatter", _replaces, REFUSED, remedy=_SCATTERED)
_rule("scatter-mul scatter_mul", only(0), REFUSED, remedy=_SCATTERED)
_rule("select_and_scatter_add select_and_gather_add", only(0))
_rule("select_n", _from(lambda eqn: 1))
_rule("sort", _from(lambda eqn: eqn.params["num_keys"]))
# ... products, linear in one operand at a time, and solutions of linear systems.
_rule("mul", one_at_a_time, moves=True, unit=unit_rules.scaled(jnp.multiply, (0, 1)))
_rule("div", only(0), moves=True, unit=unit_rules.scaled(jnp.divide, (0,)), divisors=frozenset({1}))
_rule("dot_general", one_at_a_time, weighted=True, work=work_rules.each_product)
_rule("conv_general_dilated repaired_convolution", one_at_a_time, weighted=True, work=work_rules.each_tap)
_rule("ragged_dot_general ragged_dot scaled_matmul", one_at_a_time, weighted=True)
_rule("triangular_solve", only(1))
_rule("tridiagonal_solve", only(3))
_rule("custom_linear_solve", _from(lambda eqn: sum(eqn.params["const_lengths"])))
# Not linear, and positively homogeneous: each output is one of the inputs.
_rule("max min reduce_max reduce_min cummax cummin pmax pmin", nowhere, OF_SUMS, unit=unit_rules.picked)
_rule("reduce_window_max reduce_window_min", nowhere, OF_SUMS, unit=unit_rules.picked, work=work_rules.each_in_window)
# Not linear.
_rule(
    "clamp abs sign tanh logistic erf erfc erf_inv sin cos tan sinh cosh asin acos atan asinh acosh atanh atan2 "
    "square one_minus_square integer_pow polynomial pow sqrt rsqrt cbrt exp exp2 expm1 log log1p log2 "
    "cumprod cumlogsumexp reduce_prod "
    "floor ceil round rem nextafter is_finite eq ne lt le gt ge eq_to le_to lt_to and or not xor "
    "reduce_and reduce_or reduce_xor select_and_scatter scatter-max scatter_max scatter-min scatter_min "
    "bessel_i0e bessel_i1e digamma igamma igammac igamma_grad_a lgamma polygamma regularized_incomplete_beta zeta "
    "random_gamma_grad "
    "cholesky cholesky_update eig eigh hessenberg householder_product lu lu_pivots_to_permutation qr schur svd "
    "tridiagonal geqrf geqp3 symmetric_product",
    nowhere,
)
# Without a mean.
_rule("argmax argmin top_k approx_top_k", nowhere, REFUSED, remedy=_NOT_A_MEAN)
_rule(
    "bitcast_convert_type clz population_count mulhi shift_left shift_right_arithmetic shift_right_logical",
    nowhere, REFUSED, remedy=_BITS,
)  # fmt: skip
_rule(
    "random_bits random_fold_in random_gamma random_seed random_split random_wrap random_unwrap random_clone "
    "rng_bit_generator rng_uniform threefry2x32 iota empty empty2 axis_index after_all create_token dce_sink",
    nowhere, REFUSED, remedy=_RANDOM,
)  # fmt: skip
_rule("pure_callback io_callback ragged_all_to_all stage", nowhere, REFUSED, remedy=_UNSEEN)
# What the engine enters or walks through, and so never asks a rule for.
ENTERED = CALLS | {*CONTROL_FLOW, "call"}


def known_primitives() -> Iterator[Primitive]:
    """The primitives that JAX makes public."""
    for module in (jax.lax, primitives):
        yield from (each for each in vars(module).values() if isinstance(each, Primitive))


RULES: dict[Primitive, Rule] = {each: _BY_NAME[each.name] for each in known_primitives() if each.name in _BY_NAME}


def register(primitive: Primitive, rule: Rule) -> None:
    """Tells the engine about a primitive of your own, or replaces what it knows of one of JAX's.

        register(my_primitive, Rule(everywhere))                       # linear in all operands together
        register(my_matmul, Rule(one_at_a_time, weighted=True))        # a product of data and weights
        register(my_pooling, Rule(nowhere, OverTime.OF_SUMS))          # max-pooling in a way of your own

    A linear operation needs the batching rule that `jax.interpreters.batching` registers, and so does any other:
    it is applied to all time-steps of a chunk at once.

    Args:
        primitive: of JAX, or a `jax.extend.core.Primitive`.
        rule: replaces one that is there.

    Raises:
        TypeError: for what is no primitive, such as its name, and for what is no rule.
    """
    if not isinstance(primitive, Primitive):
        raise TypeError(f"primitive must be a jax.extend.core.Primitive, got {shown(primitive)}")
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be a Rule such as Rule(everywhere), got {shown(rule)}")
    RULES[primitive] = rule


def rule_of(eqn: JaxprEqn) -> Rule | None:
    """The rule for an equation; for primitives that JAX keeps private, by name."""
    return RULES.get(eqn.primitive) or _BY_NAME.get(eqn.primitive.name)


UNKNOWN = Rule(nowhere, REFUSED, remedy="conversion has no rule for it; gnsnn_jax.engine.rules.register adds one")


def known_rule_of(eqn: JaxprEqn) -> Rule:
    """The rule for an equation, or that of an unknown operation, which is refused behind spikes."""
    return rule_of(eqn) or UNKNOWN


def is_linear(eqn: JaxprEqn, positions: Any) -> bool:
    """Whether an operation without calls in it is linear in the operands at these positions together."""
    return known_rule_of(eqn).linear(eqn, frozenset(positions))


def is_weighted(eqn: JaxprEqn) -> bool:
    """Whether an operation multiplies what it reads by weights, or two values that vary by each other."""
    return known_rule_of(eqn).weighted


def applies_weights(eqn: JaxprEqn) -> bool:
    """Whether an operation, or one within it, is weighted."""
    within = (inner for body in inner_jaxprs(eqn) for inner in body.eqns)
    return is_weighted(eqn) or any(map(applies_weights, within))
