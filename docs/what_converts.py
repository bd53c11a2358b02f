"""Writes docs/what_converts.md: what becomes of each public function and primitive of JAX behind spikes.

    python docs/what_converts.py

Functions are traced behind spikes and sorted as conversion sorts them, primitives by the table in
`gnsnn_jax/engine/rules.py`. A test compares the page with what this makes of both.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr

import gnsnn_jax as gs
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.rules import ENTERED, RULES, OverTime, Rule, everywhere, known_primitives, nowhere
from gnsnn_jax.engine.split import SpikingNetwork, split
from gnsnn_jax.engine.views import How

PAGE = Path(__file__).with_suffix(".md")
COMMAND = "python docs/what_converts.py"
MODULES = {
    "jnp": jnp,
    "jnp.linalg": jnp.linalg,
    "jnp.fft": jnp.fft,
    "lax": lax,
    "lax.linalg": lax.linalg,
    "jax.nn": jax.nn,
}

# Calls of functions that are not f(s): s are spikes, x fixed numbers of the same shape, i fixed whole numbers.
CALLS = {
    "f(s, x)": """
        jnp.add jnp.allclose jnp.append jnp.arctan2 jnp.array_equal jnp.array_equiv jnp.atan2 jnp.copysign jnp.divide
        jnp.divmod jnp.dot jnp.equal jnp.float_power jnp.floor_divide jnp.fmax jnp.fmin jnp.fmod jnp.geomspace
        jnp.greater jnp.greater_equal jnp.heaviside jnp.hypot jnp.inner jnp.isclose jnp.isin jnp.kron jnp.less
        jnp.less_equal jnp.linspace jnp.logaddexp jnp.logaddexp2 jnp.logical_and jnp.logical_or jnp.logical_xor
        jnp.logspace jnp.matmul jnp.matvec jnp.maximum jnp.minimum jnp.mod jnp.multiply jnp.nextafter jnp.not_equal
        jnp.outer jnp.polyadd jnp.polysub jnp.polyval jnp.pow jnp.power jnp.remainder jnp.subtract jnp.tensordot
        jnp.true_divide jnp.vdot jnp.vecdot jnp.vecmat jnp.linalg.lstsq jnp.linalg.matmul jnp.linalg.solve
        jnp.linalg.tensordot jnp.linalg.vecdot lax.add lax.atan2 lax.batch_matmul lax.complex lax.div lax.dot lax.eq
        lax.ge lax.gt lax.igamma lax.igamma_grad_a lax.igammac lax.le lax.lt lax.max lax.min lax.mul lax.ne
        lax.nextafter lax.polygamma lax.pow lax.random_gamma_grad lax.rem lax.sort_key_val lax.sub lax.zeta
        lax.linalg.symmetric_product lax.linalg.triangular_solve""",
    "f(s[0], x[0])": "jnp.convolve jnp.correlate jnp.linalg.outer jnp.polymul jnp.polydiv",
    "f(s[0], strip_zeros=False)": "jnp.roots",
    "f(s[0])": "jnp.polyder jnp.polyint jnp.vander",
    "f(s[:, :3], x[:, :3])": "jnp.cross jnp.linalg.cross",
    "f(s, 1)": """
        jnp.argpartition jnp.array_split jnp.delete jnp.expand_dims jnp.hsplit jnp.ldexp jnp.nanpercentile jnp.pad
        jnp.partition jnp.percentile jnp.repeat jnp.roll jnp.rollaxis jnp.split jnp.take jnp.tile jnp.vsplit
        jnp.linalg.tensorinv lax.approx_max_k lax.approx_min_k lax.broadcast_to_rank
        lax.collapse lax.dynamic_index_in_dim lax.index_in_dim lax.integer_pow lax.top_k""",
    "f(s, 1, 1)": "jnp.insert jnp.moveaxis jnp.swapaxes lax.dynamic_slice_in_dim lax.slice_in_dim",
    "f(s, 2)": "jnp.linalg.matrix_power",
    "f(s, 5, 10)": "lax.reduce_precision",
    "f(s, i)": "jnp.linalg.tensorsolve",
    "f(x[0], x[0], x[0], s)": "lax.linalg.tridiagonal_solve",
    "f(i > 1, s, x)": "jnp.where",
    "f([x > 1], [s], x)": "jnp.select",
    "f(s, x, x)": "lax.betainc jax.nn.dot_product_attention",
    "f(x, s, x)": "lax.clamp",
    "f([s, x])": "jnp.linalg.multi_dot",
    "f(s, (1,))": "lax.broadcast lax.expand_dims lax.reduce_max lax.reduce_min lax.reduce_prod lax.reduce_sum lax.rev",
    "f(s, (1, 0))": "jnp.permute_dims lax.transpose",
    "f('ij,jk', s, x)": "jnp.einsum",
    "f(s > 1, (1,))": "lax.reduce_and lax.reduce_or lax.reduce_xor",
    "f((s > 1).astype(int), i)": """
        jnp.bitwise_and jnp.bitwise_or jnp.bitwise_xor jnp.bitwise_left_shift jnp.bitwise_right_shift jnp.left_shift
        jnp.right_shift jnp.gcd jnp.lcm""",
    "f((s > 1).astype(int), i[:, None] + i)": """
        lax.bitwise_and lax.bitwise_or lax.bitwise_xor lax.shift_left lax.shift_right_arithmetic
        lax.shift_right_logical lax.mulhi""",
    "f((s > 1).astype(int))": """
        jnp.bitwise_count jnp.bitwise_invert jnp.bitwise_not jnp.invert lax.bitwise_not lax.clz
        lax.population_count""",
    "f((s > 1).astype(int), 4)": "jax.nn.one_hot",
    "f((s > 1).astype(int), (4, 4))": "jnp.unravel_index",
    "f([(s > 1).astype(int), i], (4, 4), mode='clip')": "jnp.ravel_multi_index",
    "f(s, i[:, None], 1)": "jnp.take_along_axis",
    "f(i, [s[0], s[1], s[2], s[3]], mode='clip')": "jnp.choose",
    "f(i > 1, s, 0, size=2)": "jnp.compress",
    "f(s, 0.2, 0.8)": "jnp.clip",
    "f(i > 1, s[0], size=2)": "jnp.extract",
    "f(s[0], x[0], x[1])": "jnp.interp",
    "f(s[0], x[0], 2)": "jnp.polyfit",
    "f(s, 0.5)": "jnp.quantile jnp.nanquantile",
    "f(x[0], s)": "jnp.searchsorted",
    "f(jnp.sum, 0, s)": "jnp.apply_along_axis",
    "f(jnp.sum, s, (0,))": "jnp.apply_over_axes",
    "f(jnp.sin)(s)": "jnp.vectorize",
    "f(s, [s > 1], [jnp.sin, jnp.cos])": "jnp.piecewise",
    "f(s, jnp.float32)": "jnp.astype lax.convert_element_type",
    "f(s, jnp.int32)": "lax.bitcast_convert_type",
    "f(s, (2, 4, 4))": "jnp.broadcast_to",
    "f(s, (2, 4, 4), (1, 2))": "lax.broadcast_in_dim",
    "f(s, (2, 8))": "jnp.reshape jnp.resize lax.reshape",
    "f(s[..., None], 1)": "jnp.dsplit",
    "f(s, 1.0, inplace=False)": "jnp.fill_diagonal",
    "f(s, i, x[0], inplace=False)": "jnp.put",
    "f(s, i[:, None], x[:, :1], 1, inplace=False)": "jnp.put_along_axis",
    "f(s, axis=0)": "jnp.cumulative_prod jnp.cumulative_sum",
    "f(s, size=4)": """
        jnp.argwhere jnp.nonzero jnp.flatnonzero jnp.unique jnp.unique_all jnp.unique_counts jnp.unique_inverse
        jnp.unique_values""",
    "f(s, x, size=4)": "jnp.intersect1d jnp.setdiff1d jnp.setxor1d jnp.union1d",
    "f(s[0], x[0])[0]": "jnp.histogram2d",
    "f((s[0] > 1).astype(int), length=4)": "jnp.bincount",
    "f((s > 1).astype(jnp.uint8))": "jnp.packbits jnp.unpackbits",
    "f(s[0], s[1])": "jnp.meshgrid",
    "f(s, 0, jnp.int32)": "lax.argmax lax.argmin",
    "f(lax.add, s)": "lax.associative_scan",
    "f([s, s], 0)": "lax.concatenate",
    "f(i[0] > 1, jnp.sin, jnp.cos, s)": "lax.cond",
    "f(i[0], [jnp.sin, jnp.cos], s)": "lax.switch",
    "f(lambda c, r: (c + r, c), s[0], x)": "lax.scan",
    "f(0, 3, lambda k, c: 2 * c, s)": "lax.fori_loop",
    "f(lambda c: c[1] < 3, lambda c: (2 * c[0], c[1] + 1), (s, 0))[0]": "lax.while_loop",
    "f(lambda r: 2 * r, s)": "lax.map",
    "f(s[None, None], x[None, None], (1, 1), 'SAME')": """
        lax.conv lax.conv_general_dilated""",
    "f(s[None, None], x[None, None], (1, 1), 'SAME', (1, 1), (1, 1))": "lax.conv_with_general_padding",
    "f(s[None], x[None], (1,), 'SAME')": "lax.conv_transpose",
    "f(s[None, None], (2, 2), (1, 1), 'SAME')": "lax.conv_general_dilated_patches",
    "f(s[None, None], jnp.ones((4, 4, 3, 3)), (1, 1), 'VALID', (2, 2))": "lax.conv_general_dilated_local",
    "f(s, x, (((1,), (0,)), ((), ())))": "lax.dot_general",
    "f(s, (i[0], i[1]), (2, 2))": "lax.dynamic_slice",
    "f(s, x[:2, :2], (i[0], i[1]))": "lax.dynamic_update_slice",
    "f(s, x[:1], i[0], 0)": "lax.dynamic_update_index_in_dim lax.dynamic_update_slice_in_dim",
    "f(s.astype(jnp.complex64), 'fft', (4,))": "lax.fft",
    "f(s.astype(jnp.complex64))": "jnp.imag jnp.iscomplex jnp.isreal lax.imag lax.real",
    "f(s, i[:, None], lax.GatherDimensionNumbers((1,), (0,), (0,)), (1, 4))": "lax.gather",
    "f(s, (i,), (0,))": "lax.index_take",
    "f(s, 0.0, ((1, 1, 0), (0, 0, 0)))": "lax.pad",
    "f(s, x[None], jnp.array([4], jnp.int32))": "lax.ragged_dot",
    "f(s, 0.0, lax.add, (1,))": "lax.reduce",
    "f(s, 0.0, lax.add, (1, 2), (1, 1), 'SAME')": "lax.reduce_window",
    "f(s, i[:, None], x, lax.ScatterDimensionNumbers((1,), (0,), (0,)))": """
        lax.scatter lax.scatter_add lax.scatter_max lax.scatter_min lax.scatter_mul lax.scatter_sub""",
    "f(s, i[:, None], jnp.sin, lax.ScatterDimensionNumbers((1,), (0,), (0,)), update_shape=(4, 4))": """
        lax.scatter_apply""",
    "f(jnp.broadcast_to(i > 1, (4, 4)), s, x)": "lax.select lax.select_n",
    "f(s, (0, 0), (2, 2))": "lax.slice",
    "f(s, (2, 2))": "lax.split lax.tile",
    "f(s[:, :1], (1,))": "lax.squeeze",
    "f(lambda v: v - 1, s, lambda g, y: y, lambda g, y: y)": "lax.custom_root",
    "f(s, default=jnp.sin)": "lax.platform_dependent",
    "f(jnp.sin, 'sine')(s)": "lax.composite",
    "jax.vmap(lambda v: f(v, 'a'), axis_name='a')(s)": """
        lax.all_gather lax.pmax lax.pmean lax.pmin lax.psum lax.psum_scatter""",
    "jax.vmap(lambda v: f(v, 'a', [(0, 1), (1, 2), (2, 3), (3, 0)]), axis_name='a')(s)": "lax.ppermute",
    "jax.vmap(lambda v: f(v, 'a', i[::-1]), axis_name='a')(s)": "lax.pshuffle",
    "jax.vmap(lambda v: f(v, 'a', 0), axis_name='a')(s)": "lax.pswapaxes",
    "jax.vmap(lambda v: f(v, 'a', 0, 0), axis_name='a')(s)": "lax.all_to_all",
    "f(lambda v: 2 * v, s, lambda mv, b: b / 2, lambda mv, b: b / 2)": "lax.custom_linear_solve",
    "f(s, x[0])": "jnp.digitize lax.linalg.cholesky_update lax.linalg.householder_product",
    "f(s, x[0], x)": "lax.linalg.ormqr",
}
# Calls that stand on the page as they are described here, since one function does several things.
CASES = {
    "gs.qcfs": "gs.qcfs(s, 1.0, 4)",
    "jnp.where by a condition made of spikes": "jnp.where(s > 0.5, x, 2 * x)",
    "jnp.take and x[i] by indices made of spikes": "jnp.take(x, s.astype(int))",
    "x.at[i].set, .add, .subtract": "s.at[0].add(s[1])",
    "x.at[i].max, .min": "s.at[0].max(s[1])",
    "x.at[i].multiply": "s.at[0].multiply(x[0])",
    "x.at[i].multiply of spikes by spikes": "s.at[0].multiply(s[1])",
    "x.at[i].apply": "s.at[0].apply(jnp.sin)",
    "x.at[i].add at indices made of spikes": "x.at[s.astype(int)].add(1.0)",
    "lax.reduce_window of lax.max or lax.min": "lax.reduce_window(s, -jnp.inf, lax.max, (1, 2), (1, 1), 'SAME')",
    "lax.reduce and lax.reduce_window of other functions": "lax.reduce(s, 1.0, lambda a, b: a * b + a, (1,))",
    "lax.cond steered by spikes": "lax.cond(s.sum() > 3, jnp.sin, jnp.cos, s)",
    "lax.while_loop steered by spikes": "lax.while_loop(lambda c: c.sum() < 3, lambda c: c + 1, s)",
    "lax.while_loop with an activation inside": (
        "lax.while_loop(lambda c: c[1] < 3, lambda c: (jax.nn.relu(c[0]), c[1] + 1), (s, 0))[0]"
    ),
    "jax.random of a key made of spikes": "jax.random.normal(jax.random.key(s.sum().astype(int)))",
    "jax.pure_callback": "jax.pure_callback(lambda v: v, s, s)",
}
# What is listed under what is entered, since what runs within decides.
CALLERS = """
    lax.associative_scan lax.composite lax.cond lax.custom_linear_solve lax.custom_root lax.fori_loop lax.map
    lax.platform_dependent lax.scan lax.switch lax.while_loop jnp.apply_along_axis jnp.apply_over_axes jnp.piecewise
    jnp.vectorize""".split()
# What takes no numbers, or tells nothing of their values.
LEFT_OUT = """
    jnp.arange jnp.array_repr jnp.array_str jnp.bartlett jnp.blackman jnp.broadcast_shapes jnp.can_cast
    jnp.diag_indices jnp.diag_indices_from jnp.einsum_path jnp.empty jnp.empty_like jnp.eye jnp.from_dlpack
    jnp.frombuffer jnp.fromfile jnp.fromfunction jnp.fromiter jnp.frompyfunc jnp.fromstring jnp.full jnp.full_like
    jnp.get_printoptions jnp.hamming jnp.hanning jnp.identity jnp.indices jnp.iscomplexobj jnp.isdtype jnp.isrealobj
    jnp.isscalar jnp.issubdtype jnp.iterable jnp.ix_ jnp.kaiser jnp.load jnp.mask_indices jnp.ndim jnp.ones
    jnp.ones_like jnp.place jnp.printoptions jnp.promote_types jnp.result_type jnp.save jnp.savez
    jnp.set_printoptions jnp.shape jnp.size jnp.tri jnp.tril_indices jnp.tril_indices_from jnp.trim_zeros
    jnp.triu_indices jnp.triu_indices_from jnp.zeros jnp.zeros_like jnp.fft.fftfreq jnp.fft.rfftfreq
    lax.ConvGeneralDilatedDimensionNumbers lax.DotDimensionNumbers lax.PrecisionLike lax.after_all lax.axis_index
    lax.axis_size lax.broadcast_shapes lax.broadcasted_iota lax.conv_dimension_numbers
    lax.conv_general_permutations lax.conv_general_shape_tuple lax.conv_shape_tuple lax.conv_transpose_shape_tuple
    lax.create_token lax.dce_sink lax.dtype lax.empty lax.full lax.full_like lax.iota lax.padtype_to_pads
    lax.reduce_window_shape_tuple lax.rng_bit_generator lax.rng_uniform lax.shape_as_value lax.stage
    jax.nn.get_scaled_dot_general_config""".split()

NEURONS, LINEAR, PARTLY, SUMS, MEANS, ENTERED_HERE, NOT_TRIED = range(7)
Outcome = int | str  # a section of the page, or the remedy of what is refused


def public_functions() -> Iterator[tuple[str, Callable]]:
    """The functions that JAX documents, by the names that users write."""
    for module_name, module in MODULES.items():
        for name in sorted(dir(module)):
            if _is_function(name, getattr(module, name)) and f"{module_name}.{name}" not in LEFT_OUT:
                yield f"{module_name}.{name}", getattr(module, name)


def _is_function(name: str, value: object) -> bool:
    is_kept = not name.startswith("_") and callable(value)
    return is_kept and not isinstance(value, ModuleType) and not inspect.isclass(value)


def what_becomes(function: Callable, call: str) -> Outcome | None:
    """Where a call stands on the page: a section, or the remedy where it is refused; None if it reads no values."""
    found = [_run(function, each) for each in _with_other_operands(call)]
    if found[0] == LINEAR and any(each not in (LINEAR, None) for each in found):
        return PARTLY
    return found[0]


def _with_other_operands(call: str) -> Iterator[str]:
    """The call, the same with spikes and fixed numbers exchanged, and with spikes alone."""
    yield call
    if re.search(r"\bx\b", call):
        yield re.sub(r"\b[sx]\b", lambda name: "x" if name[0] == "s" else "s", call)
        yield re.sub(r"\bx\b", "s", call)


def _run(function: Callable | None, call: str) -> Outcome | None:
    try:
        traced = _traced(function, call)
    except (TypeError, ValueError, NotImplementedError):
        return None
    sites = [each.activation.name for each in network_of(traced, None).activations]
    if len(sites) != 1:  # with one, it is that in front of the call
        return NEURONS if sites else None
    try:
        return _how(split(traced, [False], dict.fromkeys(sites, 1.0), None))
    except gs.InputError as error:
        return _remedy(str(error))


def _traced(function: Callable | None, call: str) -> ClosedJaxpr:
    numbers = jnp.full((4, 4), 0.5)
    names = {"f": function, "x": numbers, "i": jnp.arange(4), "gs": gs, "jax": jax, "jnp": jnp, "lax": lax}
    return jax.make_jaxpr(lambda x: _floats(eval(call, names | {"s": gs.qcfs(x, 1.0, 4)})))(numbers)


def _how(found: SpikingNetwork) -> Outcome | None:
    if not any(slot in found.views for slot in found.outputs):
        return None
    how = set(found.how.values())
    return MEANS if How.OF_MEANS in how else SUMS if How.OF_SUMS in how else LINEAR


def _floats(outputs: object) -> list[jax.Array]:
    """Whole numbers and truth values as fractions, since no output of a network may be one."""
    arrays = [each for each in jax.tree.leaves(outputs) if isinstance(each, jax.Array)]
    return [each.real if jnp.iscomplexobj(each) else each.astype(jnp.float32) for each in arrays]


def _remedy(error: str) -> str:
    """Of the first operation that an error lists: "  place: name: remedy"."""
    return error.splitlines()[1].split(": ", 2)[2]


def functions_by_outcome() -> Mapping[Outcome, list[str]]:
    """Public functions and the cases of `CASES`, by section of the page or by remedy."""
    calls = {name: call for call, names in CALLS.items() for name in names.split()}
    found: dict[Outcome, list[str]] = defaultdict(list)
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        for name, function in public_functions():
            outcome = ENTERED_HERE if name in CALLERS else what_becomes(function, calls.get(name, "f(s)"))
            found[NOT_TRIED if outcome is None else outcome].append(name)
        for name, call in CASES.items():
            found[_run(None, call)].append(name)
    return found


def primitives_by_outcome() -> Mapping[Outcome, list[str]]:
    """JAX's primitives by section of the page; those refused, whatever they read, by remedy."""
    found: dict[Outcome, list[str]] = defaultdict(list)
    for primitive in known_primitives():
        if primitive in RULES:
            found[_section_of(RULES[primitive])].append(primitive.name)
    found[ENTERED_HERE] = list(ENTERED)
    return found


def _section_of(rule: Rule) -> Outcome:
    if rule.linear is everywhere:
        return LINEAR
    if rule.linear is not nowhere:
        return PARTLY
    sections: Mapping[OverTime, Outcome] = {OverTime.OF_MEANS: MEANS, OverTime.OF_SUMS: SUMS}
    return sections.get(rule.otherwise, rule.remedy)


TITLES = {
    NEURONS: (
        "Becomes neurons",
        "An activation is replaced by neurons, inside of these functions too. What weights read and is not made of "
        "spikes gets an encoder.",
    ),
    LINEAR: ("Runs on spikes", "Linear: applied to the spikes of each time-step, whatever else is made of spikes."),
    PARTLY: (
        "Runs on spikes where the other operands are fixed",
        "Linear in one operand or some of them, such as the values and not the indices. Else it runs on means, or is "
        "refused if it is listed below.",
    ),
    SUMS: (
        "Runs on sums",
        "Positively homogeneous: applied to the sums of the spikes so far, x(t) = f(S(t)) - f(S(t-1)); of spikes "
        "max-pooling makes spikes. What reads means already runs on means.",
    ),
    MEANS: (
        "Runs on means",
        "Not linear: applied to the means so far, x(t) = t f(m(t)) - (t-1) f(m(t-1)), exact in the mean after every "
        "step.",
    ),
    ENTERED_HERE: (
        "Is entered",
        "Loops, branches and calls: what runs within decides. A scan with activations inside is written out, a "
        "population for each pass; of a branch that is known in the trace the operations remain.",
    ),
}


def page() -> str:
    """The text of docs/what_converts.md."""
    functions, primitives = functions_by_outcome(), primitives_by_outcome()
    parts = [
        "# What converts",
        f"What conversion does behind spikes to the public functions of JAX {jax.__version__}, and to its primitives. "
        "In front of the first neurons everything stays as it is. A function stands where the operations that it is "
        "made of put it; `gnsnn_jax.engine.rules.register` adds rules for primitives. This page is written by "
        f"`{COMMAND}`.",
    ]
    for section, (title, text) in TITLES.items():
        parts += [f"## {title}", text, *_lists(functions[section], primitives[section])]
    parts += ["## Is refused", "All in one list, each with file, line and remedy:"]
    remedies = [each for each in dict.fromkeys([*primitives, *functions]) if isinstance(each, str)]
    for remedy in sorted(remedies):
        parts += [f"**{remedy[0].upper()}{remedy[1:]}.**", *_lists(functions[remedy], primitives[remedy])]
    if functions[NOT_TRIED]:
        parts += ["## Not tried", *_lists(functions[NOT_TRIED], [])]
    return "\n\n".join(parts) + "\n"


def _lists(functions: Iterable[str], primitives: Iterable[str]) -> Iterator[str]:
    by_module = defaultdict(list)
    for name in functions:
        by_module["" if " " in name or name.startswith("x.") else name.rpartition(".")[0]].append(name)
    lines = [f"- {_listed(names, module)}" for module, names in by_module.items()]
    names = sorted(set(primitives))
    lines += [f"- primitives: {', '.join(f'`{name}`' for name in names)}"] if names else []
    if lines:
        yield "\n".join(lines)


def _listed(names: Iterable[str], module: str) -> str:
    if not module:
        return "; ".join(names)
    return f"`{module}`: " + ", ".join(f"`{name.removeprefix(module + '.')}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
