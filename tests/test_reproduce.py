"""Reproduction in one command: what it costs, what it trains once, and what it compares."""

import json
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

import gnsnn_jax as gs
from gnsnn_jax.report import reproduce
from gnsnn_jax.report.published_figures import METHODS, PROBE_STEPS, PUBLISHED, STEPS, published
from gnsnn_jax.report.report import MethodResult, Report
from gnsnn_jax.report.reproduction import Reproduction, figures_of, page_of, rows_of
from gnsnn_jax.runtime.command_line import Interrupted, run_script

TINY = """
# Trains on 36,000 images a second on a made-up device.
[data]
name = "cifar100"
[model]
name = "resnet10"
levels = 2
[training]
epochs = 300
batch_size = 128
"""


def result(name, accuracy, **fields):
    nothing = dict.fromkeys(accuracy, 0)
    return MethodResult(
        name=name, neuron="if", members=1, accuracy=accuracy, agreement=accuracy, latency_steps=nothing,
        spikes_per_neuron=accuracy, **{"probe_steps": 0, **fields},
    )  # fmt: skip


REPORT = Report(
    dataset="cifar100", model="vgg16", levels=4, ann_accuracy=0.75, samples=8,
    methods=(result("IF", {1: 0.25, 2: 0.5}), result("COS", {1: 0.5, 2: 0.75}, probe_steps=4)),
)  # fmt: skip
FOUND = Reproduction(
    dataset="cifar100", trained_on="cifar100", deviations=(), command="python -m gnsnn_jax.report.reproduce cifar100",
    date="2026-01-02", machine={"jax": "0.9"}, figures=tuple(figures_of("cifar100_vgg16", {0: REPORT}, True)),
)  # fmt: skip


# Figures.


def test_published_figures_are_those_of_the_recipes_comments():
    for each in PUBLISHED:
        comments = (ROOT / "configs" / f"{each.recipe}.toml").read_text(encoding="utf-8")
        for figure in (each.ann, *each.at_steps.values()):
            assert re.search(rf"\b{figure:.2f}\b", comments), (each.recipe, figure)
        assert each.source.split("arXiv ")[1] in comments or each.method == "if"
        assert each.method in METHODS
        assert set(each.at_steps) <= set(STEPS)
        assert each.recipe.split("_")[0] in PROBE_STEPS
    assert published("cifar10_vgg16", "IF").at_steps[2] == 91.18
    assert published("cifar10_resnet20", "if") is None


def test_the_table_has_published_measured_and_difference():
    assert rows_of(FOUND) == [
        ["cifar100_vgg16", "ANN", "–", "76.28", "75.00", "-1.28", "0"],
        ["cifar100_vgg16", "IF", "1", "–", "25.00", "–", "0"],
        ["cifar100_vgg16", "IF", "2", "63.79", "50.00", "-13.79", "0"],
        ["cifar100_vgg16", "COS, ρ = 4", "1", "74.24", "50.00", "-24.24", "0"],
        ["cifar100_vgg16", "COS, ρ = 4", "2", "76.03", "75.00", "-1.03", "0"],
    ]
    page = page_of(FOUND)
    assert "| cifar100_vgg16 | IF | 2 | 63.79 | 50.00 | -13.79 | 0 |" in page
    assert "Hao et al. 2023" in page
    assert "omparable" not in page


def test_several_seeds_are_averaged():
    other = replace(REPORT, ann_accuracy=0.8)
    figure, *_ = figures_of("cifar100_vgg16", {0: REPORT, 3: other}, True)
    assert (figure.mean, round(figure.difference, 2)) == (77.5, 1.22)
    found = replace(FOUND, figures=(figure,))
    assert rows_of(found) == [["cifar100_vgg16", "ANN", "–", "76.28", "77.50 ± 3.54", "+1.22", "0 3"]]


def test_two_published_networks_stand_in_two_rows():
    anns = [each for each in figures_of("imagenet_resnet34", {0: REPORT}, True) if each.method == "ANN"]
    assert sorted(each.published for each in anns) == [74.22, 74.35]


def test_a_stand_in_is_compared_with_nothing():
    figures = figures_of("cifar100_vgg16", {0: REPORT}, False)
    assert {(each.published, each.difference, each.source) for each in figures} == {(None, None, None)}
    found = replace(FOUND, figures=tuple(figures), trained_on="a stand-in", deviations=("trained on a stand-in",))
    assert "# cifar100, trained on a stand-in" in page_of(found)
    assert "**Not comparable with published figures**: trained on a stand-in." in page_of(found)


def test_a_reproduction_reads_back():
    assert Reproduction.from_json(json.loads(json.dumps(FOUND.to_json()))) == FOUND
    assert Reproduction.from_json(FOUND.to_json()) == FOUND


# The command.


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cifar100_tiny.toml").write_text(TINY)
    return tmp_path / "configs"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, unchecked):
    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, arguments)])
        status = run_script("reproduce", reproduce.main)
        return status, capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar1000"], "unknown data set 'cifar1000'; published figures are held of .*; did you mean 'cifar100'"),
        (["cifar10"], r"there is no recipe cifar10_\*\.toml in configs; give the folder configs"),
        (["cifar100", "--recipes", "cifar100_tinny"], "unknown recipe 'cifar100_tinny' of cifar100; .*did you mean"),
        (["cifar100", "--data-dir", "data"], "`python -m gnsnn_jax.data.prepare cifar100 --data-dir data`"),
        (["cifar100", "--epochs", "0"], "--epochs: must be at least 1"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_before_training(arguments, message, call, configs):
    status, said = call(*arguments)
    assert (status, said.err.count("\n")) == (2, 1), said.err
    assert re.search(message, said.err), said.err
    assert not (configs.parent / "runs").exists()


def test_the_cost_is_told(configs):
    command = reproduce.parse(["cifar100", "--stand-in", "--configs", str(configs)])
    (recipe,) = reproduce.recipes_of(command)
    dataset = reproduce.load_dataset(recipe.config.data, 0)
    images = 300 * dataset.train.count
    told = reproduce.cost_of(recipe, dataset)
    assert told == (
        f"cifar100_tiny, seed 0: 300 epochs, {images:,} images; "
        f"estimate: {images / 36000 / 3600:.2g} hours on a made-up device, by the 36,000 images a second that its "
        "comments state"
    )
    assert "no estimate of hours" in reproduce.cost_of(replace(recipe, speed=None), dataset)


def test_settings_of_the_command_replace_those_of_the_recipes(configs, tmp_path):
    given = ["cifar100", "--configs", str(configs), "--workdir", str(tmp_path), "--seeds", "1", "2"]
    recipes = reproduce.recipes_of(reproduce.parse([*given, "--data-dir", "data"]))
    of = [each.config for each in recipes]
    assert [(each.training.seed, each.data.name) for each in of] == [(1, "cifar100"), (2, "cifar100")]
    assert {each.config.data.directory for each in recipes} == {"data"}
    assert [each.workdir.name for each in recipes] == ["cifar100_tiny-seed1", "cifar100_tiny-seed2"]
    stand_in = reproduce.recipes_of(reproduce.parse([*given, "--stand-in", "--epochs", "2"]))
    assert stand_in[0].workdir.name == "cifar100_tiny-stand-in-2-epochs-seed1"
    assert stand_in[0].config.data.name == "digits"
    assert (stand_in[0].config.training.epochs, stand_in[0].config.model.levels) == (2, 2)


@pytest.mark.slow
def test_every_recipe_of_the_repository_can_be_tried_on_the_stand_in():
    for name in PROBE_STEPS:
        command = reproduce.parse([name, "--stand-in", "--configs", str(ROOT / "configs")])
        for recipe in reproduce.recipes_of(command):
            dataset = reproduce.load_dataset(recipe.config.data, 0)
            reproduce.check_experiment(recipe.config, dataset)


@pytest.mark.slow
def test_a_stopped_recipe_goes_on_and_a_finished_one_is_not_trained_again(call, configs, monkeypatch):
    monkeypatch.setattr(reproduce, "STAND_IN", replace(reproduce.STAND_IN, image_size=4, crop_padding=1))
    command = ["cifar100", "--stand-in", "--epochs", "1"]
    run = configs.parent / "runs" / "reproduce" / "cifar100_tiny-stand-in-1-epochs-seed0"
    train = reproduce.run_experiment

    def stopped(*given):
        raise Interrupted("as by a signal", signal.SIGTERM)

    monkeypatch.setattr(reproduce, "run_experiment", stopped)
    status, said = call(*command)
    assert status == 128 + signal.SIGTERM
    assert "to go on: python -m gnsnn_jax.report.reproduce cifar100 --stand-in --epochs 1" in said.err
    assert (run / "config.toml").is_file()
    monkeypatch.setattr(reproduce, "run_experiment", train)
    status, said = call(*command)
    assert status == 0, said.err
    first = said.out.splitlines()[:3]
    assert "not comparable with published figures: trained on a stand-in, the digits" in first[0]
    assert "cifar100_tiny, seed 0: goes on: at most 1 epochs" in first[2]
    table = Path("runs/reproduce/cifar100-stand-in.json")
    found = Reproduction.from_json(json.loads(table.read_text()))
    assert [(each.method, each.steps) for each in found.figures][:2] == [("ANN", None), ("IF", 1)]
    assert len(found.figures) == 1 + len(METHODS) * len(STEPS)
    assert "Not comparable" in table.with_suffix(".md").read_text()
    monkeypatch.setattr(reproduce, "compare_methods", None)  # which a second call must not need
    before = (run / "metrics.jsonl").stat().st_mtime_ns
    shutil.rmtree(run / "converted")
    status, said = call(*command)
    assert status == 0, said.err
    assert "cifar100_tiny, seed 0: done, is not trained again" in said.out
    assert (run / "metrics.jsonl").stat().st_mtime_ns == before
    again = Reproduction.from_json(json.loads(table.read_text()))
    assert again.figures == found.figures


def test_a_run_with_other_settings_is_not_taken_for_this_one(call, configs):
    command = reproduce.parse(["cifar100", "--stand-in", "--configs", str(configs), "--workdir", str(configs.parent)])
    (recipe,) = reproduce.recipes_of(command)
    reproduce.create_run(recipe.workdir, replace(recipe.config, model=replace(recipe.config.model, levels=7)), False)
    with pytest.raises(gs.InputError, match="was started with other settings"):
        reproduce.trained(recipe, reproduce.load_dataset(recipe.config.data, 0))
