"""What the engine knows of JAX's operations: one table, keyed by the primitive.

A rule says in which operands an operation is linear, whether it applies weights, and what to do where spikes
reach it and it is not linear in them. `register` adds a rule for a primitive of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Primitive, primitives

from gnsnn_jax.engine.jaxprs import inner_jaxprs

# Whether an operation is linear in the operands at these positions together, the others being fixed.
Linear = Callable[[JaxprEqn, frozenset[int]], bool]


@dataclass(frozen=True)
class Rule:
    """What the engine knows of an operation.

    linear      whether it is linear in the operands at some positions together
    remedy      what to do where spikes reach it and it is not
    weighted    whether one of its operands are the weights of a layer
    """

    linear: Linear
    remedy: str = "use operations that are linear in the spikes, or move it out of the network"
    weighted: bool = False


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


def _keeps_fractions(eqn: JaxprEqn, positions: frozenset[int]) -> bool:
    return not positions or jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact)


_USE_ANOTHER = (
    "conversion knows the activations relu, clip(x, 0, a) and gnsnn_jax.qcfs; use one, or move this out of the network"
)
NORM_REMEDY = (
    "a batch norm converts in inference mode (train=False, use_running_average=True); layer and group norms behind "
    "spikes do not"
)
_OF_THE_MEAN = "leave it out of the network and apply it to the mean of the outputs over time"
_NOT_A_MEAN = f"it has no meaning for single spikes; {_OF_THE_MEAN}"
_MAXIMUM = "the maximum of spike trains is not the maximum of their rates; use average pooling"
_PRODUCT = f"it multiplies one spike train by another, and only products with fixed values convert; {_OF_THE_MEAN}"
_BITS = "spikes are no integers or truth values here; make this depend on fixed values only"
_CONDITION = "the condition must not depend on spikes; " + _USE_ANOTHER
_RANDOM = "random numbers must not depend on spikes"
_MATRIX = f"decompositions of matrices made of spikes do not convert; {_OF_THE_MEAN}"

# Rules by the names of JAX's primitives; a name that a version of JAX does not have is passed over.
_BY_NAME: dict[str, Rule] = {}


def _rule(names: str, linear: Linear, remedy: str = Rule.remedy, weighted: bool = False) -> None:
    _BY_NAME.update(dict.fromkeys(names.split(), Rule(linear, remedy, weighted)))


# Linear: sums, and what moves, repeats or leaves out values.
_rule(
    "add add_any sub neg reduce_sum reduce_window_sum cumsum fft copy copy_p name device_put "
    "reshape broadcast_in_dim squeeze expand_dims transpose rev slice split concatenate stack unstack tile pad "
    "real imag conj complex reduce_precision optimization_barrier sharding_constraint reshard mesh_cast "
    "layout_constraint pvary pcast psum psum_invariant psum2 pbroadcast "
    "all_gather all_gather_invariant all_to_all ppermute "
    "psum_scatter reduce_scatter debug_callback debug_print stop_gradient computed_once custom_lin "
    "linear_call",
    everywhere,
)  # fmt: skip
_rule("convert_element_type", _keeps_fractions, "rounding to integers is not linear; " + _OF_THE_MEAN)
_rule("div", only(0), "spikes cannot be divided by; divide by fixed values only")
_rule("gather dynamic_slice get", only(0), "indices must not depend on spikes")
_rule("dynamic_update_slice swap", only(0, 1), "indices must not depend on spikes")
_rule("scatter scatter-add scatter_add scatter-sub scatter_sub", only(0, 2), "indices must not depend on spikes")
_rule("scatter-mul scatter_mul", only(0), _PRODUCT)
_rule("triangular_solve", only(1), _MATRIX)
_rule("tridiagonal_solve", only(3), _MATRIX)
_rule("custom_linear_solve", _from(lambda eqn: sum(eqn.params["const_lengths"])), _MATRIX)
_rule("sort", _from(lambda eqn: eqn.params["num_keys"]), _NOT_A_MEAN)
_rule("select_n", _from(lambda eqn: 1), _CONDITION)
_rule("select_and_scatter_add", only(0), _MAXIMUM)
_rule("select_and_gather_add", only(0), _MAXIMUM)
_rule("reduce reduce_window", _adds, "only sums convert; " + _MAXIMUM)
# Linear in one operand at a time.
_rule("mul", one_at_a_time, _PRODUCT)
_rule(
    "dot_general conv_general_dilated repaired_convolution ragged_dot_general ragged_dot scaled_matmul",
    one_at_a_time, _PRODUCT, weighted=True,
)  # fmt: skip
# Not linear.
_rule("max min clamp abs sign", nowhere, _USE_ANOTHER)
_rule(
    "tanh logistic erf erfc erf_inv sin cos tan sinh cosh asin acos atan asinh acosh atanh atan2", nowhere, _USE_ANOTHER
)
_rule("square integer_pow pow sqrt rsqrt cbrt", nowhere, f"a power of spikes is not linear in them; {_OF_THE_MEAN}")
_rule("exp exp2 expm1 log log1p", nowhere, _NOT_A_MEAN)
_rule("argmax argmin top_k approx_top_k cummax cummin cumprod cumlogsumexp reduce_prod", nowhere, _NOT_A_MEAN)
_rule(
    "reduce_window_max reduce_window_min reduce_max reduce_min pmax pmin select_and_scatter scatter-max scatter_max "
    "scatter-min scatter_min",
    nowhere, _MAXIMUM,
)  # fmt: skip
_rule("floor ceil round rem nextafter is_finite bitcast_convert_type", nowhere, _NOT_A_MEAN)
_rule("eq ne lt le gt ge eq_to le_to lt_to and or not xor reduce_and reduce_or reduce_xor", nowhere, _CONDITION)
_rule("clz population_count mulhi shift_left shift_right_arithmetic shift_right_logical", nowhere, _BITS)
_rule(
    "bessel_i0e bessel_i1e digamma igamma igammac igamma_grad_a lgamma polygamma regularized_incomplete_beta zeta "
    "random_gamma_grad",
    nowhere, _NOT_A_MEAN,
)  # fmt: skip
_rule("cholesky cholesky_update eig eigh hessenberg householder_product lu lu_pivots_to_permutation qr schur svd "
      "tridiagonal geqrf geqp3 symmetric_product", nowhere, _MATRIX)  # fmt: skip
_rule(
    "random_bits random_fold_in random_gamma random_seed random_split random_wrap random_unwrap random_clone "
    "rng_bit_generator rng_uniform threefry2x32 iota empty empty2 axis_index after_all create_token dce_sink",
    nowhere, _RANDOM,
)  # fmt: skip
_rule("pure_callback io_callback ragged_all_to_all stage", nowhere, "JAX cannot see inside; " + _OF_THE_MEAN)
# What the engine enters or walks through, and so never asks a rule for.
ENTERED = frozenset(
    "jit pjit remat2 checkpoint closed_call core_call call custom_jvp_call custom_vjp_call scan while cond".split()
)


def known_primitives() -> Iterator[Primitive]:
    """The primitives that JAX makes public."""
    for module in (jax.lax, primitives):
        yield from (each for each in vars(module).values() if isinstance(each, Primitive))


RULES: dict[Primitive, Rule] = {each: _BY_NAME[each.name] for each in known_primitives() if each.name in _BY_NAME}


def register(primitive: Primitive, rule: Rule) -> None:
    """Tells the engine about a primitive of one's own, or otherwise about one of JAX's.

        register(my_primitive, Rule(everywhere))                 # linear in all operands together
        register(my_matmul, Rule(one_at_a_time, weighted=True))  # a product of data and weights

    How it runs over time is its batching rule, which `jax.interpreters.batching` registers.
    """
    RULES[primitive] = rule


def rule_of(eqn: JaxprEqn) -> Rule | None:
    """The rule for an equation; for primitives that JAX keeps private, by name."""
    return RULES.get(eqn.primitive) or _BY_NAME.get(eqn.primitive.name)


def is_linear(eqn: JaxprEqn, positions: Any) -> bool:
    """Whether an operation without calls in it is linear in the operands at these positions together."""
    rule = rule_of(eqn)
    return rule is not None and rule.linear(eqn, frozenset(positions))


def remedy_of(eqn: JaxprEqn) -> str:
    """What to do where spikes reach an operation that is not linear in them."""
    rule = rule_of(eqn)
    return rule.remedy if rule else Rule.remedy
