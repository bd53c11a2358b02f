"""Names of methods: what they stand for, what is listed and explained, and what is refused."""

import re

import pytest

import gnsnn_jax as gs
from gnsnn_jax.method.calibrations import CALIBRATIONS
from gnsnn_jax.method.corrections import CORRECTIONS
from gnsnn_jax.method.methods import ALL, every_method, names_explained, parse_method, parse_methods
from gnsnn_jax.method.neurons import NEURONS, OVER

NUMBERS = {"members": 8, "probe_steps": 4}
MANY_SIZES = gs.multi_threshold_neuron(4)


def test_each_name_is_explained_in_a_line():
    lines = dict(re.findall(r"^  (\S+) +(.*)$", names_explained(), re.MULTILINE))
    assert list(lines) == [*NEURONS, *CALIBRATIONS, *CORRECTIONS, ALL]
    assert all(lines.values()), "a file that registers a name has a line on it in its HELP"
    assert max(map(len, names_explained().splitlines())) <= 120


def test_all_are_each_neuron_each_calibration_and_combinations():
    methods = parse_methods(["all"], **NUMBERS)
    assert [method.name.lower() for method in methods] == every_method()
    made = {name: make(8) for name, make in NEURONS.items()}
    assert {method.neuron for method in methods} == {neuron for name, neuron in made.items() if name != "permuted"}
    assert {method.calibration for method in methods if method.calibration} == {
        make(4, 1) for make in CALIBRATIONS.values()
    }
    assert {method.correction for method in methods if method.correction} == {make() for make in CORRECTIONS.values()}
    assert parse_methods(["ALL", "gn", "cos"], **NUMBERS) == methods


@pytest.mark.parametrize(
    ("text", "name", "neuron"),
    [
        ("dc", "DC", gs.differential(MANY_SIZES)),
        ("dc+mt", "DC+MT", gs.differential(MANY_SIZES)),
        ("mt+dc", "DC+MT", gs.differential(MANY_SIZES)),
        ("DC+gn", "DC+GN", gs.differential(gs.group_neuron(8))),
        ("dc+if", "DC+IF", gs.differential(gs.integrate_and_fire())),
        ("if+cos", "COS", gs.integrate_and_fire()),
        ("cos+gn", "GN+COS", gs.group_neuron(8)),
    ],
)
def test_a_name_says_which_neuron_over_which(text, name, neuron):
    method = parse_method(text, **NUMBERS)
    assert (method.name, method.neuron) == (name, neuron)
    assert parse_method(method.name, **NUMBERS) == method
    assert method.neuron_name == name.split("+")[0].lower().replace("cos", "if")


def test_dc_is_what_goes_over_another():
    assert set(OVER) <= set(NEURONS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["gnn"], "did you mean 'gn'"),
        (["gn+coss"], "unknown neuron, calibration or correction 'coss' in method 'gn.coss'.*did you mean 'cos'"),
        (["al"], "did you mean 'all'"),
        (["gm"], "did you mean 'gn'"),
        (["dc+nt"], "did you mean 'mt'"),
        (["gn-cos"], r"did you mean 'gn\+cos'"),
        (["gn+all"], "unknown neuron, calibration or correction 'all'"),
        (["gn+mt"], "'gn.mt' must have at most one neuron"),
        (["dc+dc"], "'dc.dc' must have at most one neuron"),
        (
            ["dc+gn+mt"],
            "at most one neuron, one calibration and one correction, and one of dc, permuted over the neuron",
        ),
        (["cos+cos"], "at most one neuron, one calibration"),
        (["dc+snm"], "'dc.snm' joins what does not go together: "),
        (["+"], "unknown neuron, calibration or correction ''"),
        ([], "no method is given; there are .*if, gn.*cos.*gn.cos, .*dc.mt, all$"),
    ],
)
def test_what_is_no_method_is_refused(texts, message):
    with pytest.raises(gs.InputError, match=message):
        parse_methods(texts, **NUMBERS)
