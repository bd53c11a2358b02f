"""The report as classes: to JSON and back, damaged files, and the writers."""

import json
import math
import types
from dataclasses import is_dataclass, replace
from importlib import import_module
from random import Random
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import is_drawn
from rich.console import Console

import gnsnn_jax as gs
from gnsnn_jax.analysis.behaviour import OFFSETS
from gnsnn_jax.analysis.energy import MODELS
from gnsnn_jax.analysis.operations import NeuroBench, Operations
from gnsnn_jax.report import compare_runs, pictures
from gnsnn_jax.report.files import keep_report, read_report
from gnsnn_jax.report.markdown import markdown_of
from gnsnn_jax.report.pictures import draw_accuracy, draw_energy, draw_errors, draw_firing, draw_offsets
from gnsnn_jax.report.report import (
    BehaviourSummary,
    CalibrationSummary,
    EarlyStop,
    LayerSummary,
    MethodResult,
    NetworkSummary,
    NotExamined,
    OffsetShares,
    PopulationSummary,
    Report,
    ThresholdSummary,
)
from gnsnn_jax.report.terminal import print_report

STEPS = (1, 4)


def some(hint: Any, chance: Random) -> Any:
    """A random value of a type that a report holds."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return some(parts[0], chance)
    if kind in (Union, types.UnionType):
        return some(chance.choice(parts), chance)
    if kind is tuple:
        return tuple(some(parts[0], chance) for _ in range(chance.randint(1, 2)))
    if kind is dict:
        return {some(parts[0], chance): some(parts[1], chance) for _ in range(chance.randint(1, 2))}
    if is_dataclass(hint) or hint in (NeuroBench, Operations):
        return hint(**{name: some(of, chance) for name, of in get_type_hints(hint, include_extras=True).items()})
    return chance.choice(SOME[hint])


SOME = {
    int: [0, -1, 7, 10**20],
    float: [0.0, -0.1, 1 / 3, 1e-320, 1e300, math.inf],
    str: ["", "a", "1", "ρ, \n", "left_out"],
    type(None): [None],
}
SEEDS = st.integers(0, 10**9)


def through_a_file(report: Report) -> Any:
    return json.loads(json.dumps(report.to_json()))


@given(SEEDS)
def test_a_report_reads_back(seed):
    report = some(Report, Random(seed))
    assert Report.from_json(through_a_file(report)) == report


def places_in(content: Any, place: tuple = ()):
    yield place
    if isinstance(content, dict | list):
        for key, part in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places_in(part, (*place, key))


@given(SEEDS)
def test_a_damaged_report_is_one_sentence(seed):
    chance = Random(seed)
    content = [through_a_file(some(Report, chance))]
    *parents, last = chance.choice(list(places_in(content))[1:])
    holder = content
    for key in parents:
        holder = holder[key]
    holder[last] = {"damage": []}
    with pytest.raises(gs.InputError) as refused:
        Report.from_json(content[0], "here")
    message = str(refused.value)
    assert message.startswith("here is no report of convert.py or damaged (")
    assert message.endswith("); convert the run again")
    assert "\n" not in message


# What the first version wrote of a method and a report; all of it is required.
FIRST_METHOD = {
    "name": "IF",
    "neuron": "if",
    "members": 1,
    "probe_steps": 0,
    "accuracy": {"1": 0.5, "4": 1.0},
    "agreement": {"1": 0.25, "4": 1.0},
    "latency_steps": {"1": 1, "4": 4},
    "spikes_per_neuron": {"1": 0.125, "4": 0.5},
}
FIRST = {"dataset": "d", "model": "m", "levels": 4, "ann_accuracy": 1.0, "samples": 4, "methods": [FIRST_METHOD]}


def test_parts_that_earlier_versions_did_not_write_may_be_missing():
    report = Report.from_json(FIRST)
    assert (report.steps, report.analysis) == ([1, 4], None)
    assert (report.methods[0].thresholds, report.methods[0].behaviour) == (None, None)
    assert Report.from_json(FIRST | {"analysis": {"left_out": "so"}}).analysis == NotExamined("so")
    assert Report.from_json(FIRST | {"of a later version": 1}) == report


def test_parts_that_there_are_not_are_left_out_of_the_json():
    written = Report.from_json(FIRST).to_json()
    assert written == FIRST | {"methods": [FIRST_METHOD | {"thresholds": None, "channel_axis": None}]}


@pytest.mark.parametrize("key", [*FIRST, *FIRST_METHOD])
def test_no_required_part_may_be_missing(key):
    without = lambda content: {name: part for name, part in content.items() if name != key}
    with pytest.raises(gs.InputError, match=f"{key}: Field required"):
        Report.from_json(without(FIRST | {"methods": [without(FIRST_METHOD)]}))


@pytest.mark.parametrize("empty", [{"methods": []}, {"methods": [FIRST_METHOD | {"accuracy": {}}]}])
def test_a_report_has_methods_and_steps(empty):
    with pytest.raises(gs.InputError, match="should have at least 1 item"):
        Report.from_json(FIRST | empty)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 10**5, b'{"methods": [{}]}', b'"\\n\\u0000"'])
def test_a_damaged_file_is_one_sentence(content, tmp_path):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(gs.InputError, match=r"report.json is no report of convert.py or damaged") as refused:
        read_report(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_directory_without_a_report_is_one_sentence(tmp_path):
    with pytest.raises(gs.InputError, match=r"holds no report.json; give a run directory"):
        read_report(tmp_path)


# The writers.


def over_steps(value: Any) -> dict[int, Any]:
    return dict.fromkeys(STEPS, value)


def population(name: str) -> PopulationSummary:
    shares = (0.0, 0.125, 0.75, 0.125, 0.0)
    return PopulationSummary(
        name=name, kind="relu", shape=(2, 3), threshold=ThresholdSummary(0.5, 1.0, 1.5), firing_rate=(0.25,) * 4,
        squared_error={1: 0.03125, 4: 0.0}, correlation={1: None, 4: 0.875}, offsets=over_steps(shares),
        own_offsets=over_steps(shares), silent=over_steps(0.375), saturated=over_steps(0.0625), ann_silent=0.4375,
        ann_saturated=0.5625,
    )  # fmt: skip


def behaviour(members: int, is_calibrated: bool) -> BehaviourSummary:
    energy = {model.name: {1: 1234.0, 4: 5678.0} for model in MODELS}
    shares = {name: OffsetShares((0.0, 0.0, 0.8125, 0.1875, 0.0), (0.0, 0.0, 1.0, 0.0, 0.0)) for name in "ab"}
    return BehaviourSummary(
        populations=(population("a"), population("b")),
        operations=over_steps(Operations(11.0, 1213.0, 14, 14, 151617.0, 18)),
        neurobench=over_steps(NeuroBench(19.0, 20.0, 21, 0.22, 0.23, 24)),
        energy_nanojoules=energy,
        energy_nanojoules_of_values=energy if members > 1 else None,
        calibration=CalibrationSummary(4, shares, shares) if is_calibrated else None,
    )


def method(name: str, neuron: str, members: int, probe_steps: int) -> MethodResult:
    return MethodResult(
        name=name, neuron=neuron, members=members, probe_steps=probe_steps, accuracy={1: 0.25, 4: 0.9375},
        agreement={1: 0.3125, 4: 1.0}, latency_steps={t: probe_steps + t for t in STEPS},
        spikes_per_neuron=over_steps(0.0625), early_stop=EarlyStop(0.9, 0.875, 2.5),
        behaviour=behaviour(members, probe_steps > 0),
    )  # fmt: skip


ANALYSIS = NetworkSummary(
    samples=16, offsets=OFFSETS, activation_bits=3, multiply_accumulates=12345,
    layers=(LayerSummary("conv", 1000, "once", 100), LayerSummary("dense", 2000, "at each step", 200)),
    energy_models=MODELS, energy_nanojoules={m.name: {"float ANN": 9.0, "quantised ANN": 4.0} for m in MODELS},
    analog=("tanh",),
)  # fmt: skip
REPORT = Report(
    dataset="digits", model="resnet10", levels=4, ann_accuracy=0.96875, samples=32,
    methods=(method("GN", "gn", 4, 0), method("COS", "if", 1, 4)), analysis=ANALYSIS,
)  # fmt: skip
QUICK = replace(REPORT, methods=tuple(replace(each, behaviour=None) for each in REPORT.methods), analysis=None)
LEFT_OUT = replace(QUICK, analysis=NotExamined("it cannot be counted", ("tanh",)))


def test_the_document_says_all_that_was_measured():
    text = markdown_of(REPORT, ["errors.png"], "figures")
    for shown in [
        "# resnet10, L = 4, on digits\n\n32 test samples; the network itself (ANN) reaches 96.88 %.",
        "| COS | 4 | 25.00 | 93.75 |",
        "| GN | 31.25 | 100.00 |",
        "- `tanh`",
        "| a | 0.5 to 1.5 | 0.031 | 0 | – | 0.875 | 37.5 | 6.2 | 43.8 | 56.2 |",
        "### COS, 4 steps",
        "| a | 0.0 | 0.0 | 100.0 | 0.0 | 0.0 | 0.0 | 0.0 | 100.0 | 0.0 | 0.0 | 81.2 | 81.2 |",
        "| GN | unit spikes | 11 | 11 |",
        "| GN | or, as values, MAC | 151,617 | 151,617 |",
        "| dense | 2,000 | 200 | at each step |",
        "| GN, units as values | 1,234 | 5,678 |",
        "| quantised ANN | 4 | 4 |",
        "| COS | 19 | 20 | 21 | 0.2200 | 0.2300 | 24 |",
        "](figures/errors.png)",
    ]:
        assert shown in text
    assert "| COS | or, as values" not in text
    assert "| COS, units as values" not in text
    assert text.count("| 45 nm") == len(MODELS)


def test_the_document_says_why_parts_are_missing():
    text = markdown_of(LEFT_OUT, [], "figures")
    assert "left out: it cannot be counted" in text
    assert "- `tanh`" in text
    assert "## Where" not in text
    assert markdown_of(QUICK, [], "figures").count("## ") == 1


@pytest.mark.parametrize("draw", [draw_accuracy, draw_energy, draw_errors, draw_firing, draw_offsets])
def test_pictures_are_drawn_from_a_report_alone(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DOTS", 20)
    draw(REPORT, tmp_path / "drawn.png")
    assert is_drawn(tmp_path / "drawn.png")


@pytest.mark.parametrize("width", [1, 100])
@pytest.mark.parametrize("report", [REPORT, QUICK])
def test_the_terminal_shows_accuracy_latency_and_spikes(report, width, capsys):
    report = replace(report, methods=tuple(replace(each, name="COS+THETA-V0") for each in report.methods))
    print_report(report, Console(width=width))
    shown = capsys.readouterr().out
    assert "│ COS+THETA-V0 │ accuracy % │" in shown
    assert all(f" T = {t} ┃" in shown for t in STEPS)
    assert "resnet10 (L = 4) on digits, 32 test samples: ANN 96.88 %" in shown
    assert all(each in shown for each in ("93.75", "0.062", "m = 4", "ρ = 4"))
    assert "COS+THETA-V0, each sample stopped at confidence 0.9: 87.50 % after 2.50 steps" in shown


@pytest.mark.parametrize(
    ("model", "activation", "thresholds", "name", "kind"),
    [
        ("resnet10", "qcfs", None, "resnet10 (L = 4)", "L = 4"),
        ("resnet10", "relu", "mse", "resnet10 (ReLU)", "ReLU"),
        ("resnet10", None, "mse", "resnet10 (ReLU)", "ReLU"),
        ("vit_digits", "gelu", "mse", "vit_digits (GELU)", "GELU"),
        ("vit_digits", "qcfs", "mse", "vit_digits (L = 4)", "L = 4"),  # those of encoders
        ("own:network", "relu", "mse", "own:network", "L = 4"),
    ],
)
def test_titles_name_the_activations(model, activation, thresholds, name, kind):
    methods = tuple(replace(each, thresholds=thresholds) for each in QUICK.methods)
    report = replace(QUICK, model=model, activation=activation, methods=methods)
    assert report.network == name
    assert markdown_of(report, [], "figures").startswith(f"# {model}, {kind}, on digits")
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


@pytest.mark.parametrize("report", [QUICK, LEFT_OUT])
def test_a_kept_report_reads_back(report, tmp_path):
    keep_report(tmp_path, report, {})
    assert read_report(tmp_path) == report
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown_of(report, [], "figures")
    assert is_drawn(tmp_path / "accuracy.png")


def test_runs_with_and_without_energy_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_runs, "DOTS", 20)
    other = replace(QUICK, methods=(replace(QUICK.methods[1], accuracy={2: 0.5}),))
    reports = {"run": REPORT, "quick": other}
    compare_runs.draw_runs(reports, tmp_path / "both.png")
    assert is_drawn(tmp_path / "both.png")
    table = compare_runs.table_of(reports)
    assert [column.header for column in table.columns] == ["run", "method", "", "T = 1", "T = 2", "T = 4"]
    assert [list(column.cells) for column in table.columns[3:]] == [
        ["96.88", "25.00", "1,234", "25.00", "1,234", "96.88", "–"],
        ["", "–", "–", "–", "–", "", "50.00"],
        ["", "93.75", "5,678", "93.75", "5,678", "", "–"],
    ]


def test_energy_at_steps_without_an_accuracy_is_not_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_runs, "DOTS", 20)
    other = replace(REPORT, methods=tuple(replace(each, accuracy={4: 0.5}) for each in REPORT.methods))
    compare_runs.draw_runs({"run": other}, tmp_path / "run.png")
    assert is_drawn(tmp_path / "run.png")


@pytest.mark.parametrize("name", ["gnsnn_jax.report.compare", "gnsnn_jax.analysis.compare"])
def test_names_of_the_command_that_earlier_versions_had_work(name):
    assert import_module(name).main is compare_runs.main


def test_numbers_of_numpy_are_written_as_numbers():
    written = replace(REPORT, ann_accuracy=np.float64(0.5)).to_json()
    assert json.loads(json.dumps(written))["ann_accuracy"] == 0.5
