"""Reproduction in one command: what it costs, what it trains once, and what it compares."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import ROOT
from killed import stop
from prepared_sets import encoded, write_set

import gnsnn_jax as gs
from gnsnn_jax.report import recipes, reproduce
from gnsnn_jax.report.published_figures import METHODS, PROBE_STEPS, PUBLISHED, SETS, STEPS, published
from gnsnn_jax.report.report import MethodResult, Report
from gnsnn_jax.report.reproduction import DataRead, Reproduction, figures_of, page_of, rows_of
from gnsnn_jax.report.training_costs import cost_of, in_bytes, in_hours, unread
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.directories import write_json
from gnsnn_jax.runtime.command_line import Interrupted, run_script
from gnsnn_jax.runtime.config import Data, load_config

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
    assert page_of(found).startswith("# A trial of the command, no reproduction: cifar100, trained on a stand-in\n")
    assert "**Not comparable with published figures**: trained on a stand-in." in page_of(found)


def test_a_page_tells_what_is_missing():
    page = page_of(replace(FOUND, missing=("cifar100_resnet20, seed 0: not trained yet",)))
    assert "Not in the table:\n\n- cifar100_resnet20, seed 0: not trained yet\n\n| recipe |" in page
    assert "| recipe |" not in page_of(replace(FOUND, figures=()))


def test_a_reproduction_reads_back():
    found = replace(FOUND, missing=("one", "other"))
    assert Reproduction.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert Reproduction.from_json(FOUND.to_json()) == FOUND


# The command.


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cifar100_tiny.toml").write_text(TINY)
    return tmp_path / "configs"


@pytest.fixture
def two_recipes(configs):
    (configs / "cifar100_other.toml").write_text(TINY)
    return configs


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


def test_the_cost_is_the_passes_of_all_images(configs):
    command = reproduce.parse(["cifar100", "--configs", str(configs)])
    (recipe,) = recipes.recipes_of(command)
    cost = cost_of(recipe.config, unread(SETS["cifar100"], recipe.config.data), probe_steps=4)
    train, validation = 42_500, 7_500  # by data.validation_fraction = 0.15
    assert cost.images == 300 * train
    assert cost.passes == 300 * (3 * train + validation) + 10_000 * (1 + 3 * 8 + 4)
    assert cost.hours(10) == pytest.approx(2 * cost.multiply_accumulates * cost.passes / 1e13 / 3600)
    told = reproduce.takes(recipe, cost, 10)
    assert told.startswith(f"300 epochs, 12,750,000 images, {cost.multiply_accumulates:,} multiply-accumulates each; ")
    assert told.endswith("; 5.9 minutes on a made-up device, by the 36,000 images a second that its comments state")
    assert "made-up" not in reproduce.takes(replace(recipe, speed=None), cost, 10)


def test_the_disk_that_is_told_is_that_of_states_best_weights_and_networks():
    """Three states of parameters and momentum, the best weights twice, and three converted networks."""
    config = load_config(ROOT / "configs" / "cifar10_resnet20.toml")
    parameters = 272_493
    disk = cost_of(config, unread(SETS["cifar10"], config.data), 4).disk
    assert 1 < disk / (4 * parameters * (3 * 2 + 2 + 3)) < 1.01  # and the statistics of norms


@pytest.mark.parametrize(("name", "gigabytes"), [("cifar10", 0.17), ("cifar100", 0.17), ("imagenet", 154.6)])
def test_published_sets_have_these_sizes(name, gigabytes):
    known = SETS[name]
    assert round(known.archives / 1e9, 2 - (gigabytes > 1)) == gigabytes
    unseen = unread(known, Data(name, validation_fraction=0.1))
    assert DataRead.of(unseen).difference(name) is None
    assert DataRead.of(unseen._replace(test=unseen.validation)).difference(name)


def test_the_first_lines_tell_the_cost_before_the_data_are_there(call, two_recipes):
    status, said = call("cifar100", "--data-dir", "data", "--teraflops", "20")
    lines = said.out.splitlines()
    assert status == 2
    assert "gnsnn_jax.data.prepare cifar100" in said.err
    assert lines[0].startswith("estimates, not measurements: ")
    assert lines[0].endswith("at 20 TFLOP/s, by --teraflops")
    assert lines[1].startswith("cifar100: 50,000 training images and 10,000 test images of 100 classes, 168.5 MB")
    assert [line.split(":")[0] for line in lines[2:]] == ["cifar100_other, seed 0", "cifar100_tiny, seed 0", "in all"]


def test_hours_and_bytes_in_words():
    assert [in_hours(hours) for hours in (0.01, 0.05, 1.26, 12.0, 1441.4)] == [
        "less than a minute",
        "3 minutes",
        "1.3 hours",
        "12 hours",
        "1,441 hours",
    ]
    assert [in_bytes(count) for count in (12_340_000, 6_100_000_000)] == ["12.3 MB", "6.1 GB"]


def test_settings_of_the_command_replace_those_of_the_recipes(configs, tmp_path):
    given = ["cifar100", "--configs", str(configs), "--workdir", str(tmp_path), "--seeds", "1", "2"]
    found = recipes.recipes_of(reproduce.parse([*given, "--data-dir", "data"]))
    of = [each.config for each in found]
    assert [(each.training.seed, each.data.name) for each in of] == [(1, "cifar100"), (2, "cifar100")]
    assert {each.config.data.directory for each in found} == {"data"}
    assert [each.workdir.name for each in found] == ["cifar100_tiny-seed1", "cifar100_tiny-seed2"]
    stand_in = recipes.recipes_of(reproduce.parse([*given, "--stand-in", "--epochs", "2"]))
    assert stand_in[0].workdir.name == "cifar100_tiny-stand-in-2-epochs-seed1"
    assert stand_in[0].config.data.name == "digits"
    assert (stand_in[0].config.training.epochs, stand_in[0].config.model.levels) == (2, 2)
    in_parts = recipes.recipes_of(reproduce.parse([*given, "--micro-batches", "4"]))
    assert [each.config.optimizer.micro_batches for each in (*found, *in_parts)] == [1, 1, 4, 4]


@pytest.mark.slow
def test_every_recipe_of_the_repository_can_be_tried_on_the_stand_in():
    for name in PROBE_STEPS:
        command = reproduce.parse([name, "--stand-in", "--configs", str(ROOT / "configs")])
        for recipe in recipes.recipes_of(command):
            dataset = reproduce.load_dataset(recipe.config.data, 0)
            reproduce.check_experiment(recipe.config, dataset)


@pytest.mark.slow
def test_a_stopped_recipe_goes_on_and_a_finished_one_is_not_trained_again(call, configs, monkeypatch):
    monkeypatch.setattr(recipes, "STAND_IN", replace(recipes.STAND_IN, image_size=4, crop_padding=1))
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
    first = said.out.splitlines()[:4]
    assert "not comparable with published figures: trained on a stand-in, the digits" in first[0]
    assert "cifar100_tiny, seed 0: goes on: at most 1 epoch, " in first[3]
    table = Path("runs/reproduce/cifar100-stand-in-1-epochs.json")
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


# Several recipes, with training and conversion in a moment.


@pytest.fixture
def at_once(monkeypatch):
    """The recipes that were trained; where an exception stands for the name of one, its training raises that."""
    done, raised = [], {}
    of_all = dict.fromkeys(STEPS, 0.5)
    report = replace(REPORT, methods=tuple(result(name.upper(), of_all, probe_steps=4) for name in METHODS))

    def train(workdir, config, dataset, started):
        name = workdir.name.split("-")[0]
        done.append(name)
        if name in raised:
            raise raised[name]
        (workdir / "summary.json").write_text("{}")
        return SimpleNamespace(best_epoch=1, test_accuracy=0.5)

    monkeypatch.setattr(reproduce, "run_experiment", train)
    monkeypatch.setattr(reproduce, "load_run", lambda workdir: None)
    monkeypatch.setattr(reproduce, "compare_methods", lambda *given: (report, {}))
    monkeypatch.setattr(reproduce, "keep_report", lambda at, found, _: write_json(at / "report.json", found.to_json()))
    monkeypatch.setattr(reproduce, "check_experiment", lambda config, dataset: None)
    return SimpleNamespace(done=done, raised=raised)


def table_of(configs, name="cifar100-stand-in"):
    page = configs.parent / "runs" / "reproduce" / f"{name}.json"
    found = Reproduction.from_json(json.loads(page.read_text()))
    return sorted({each.recipe for each in found.figures}), found


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (gs.InputError("the loss or its gradient is NaN"), "the loss or its gradient is NaN"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"), "the memory of the device does not suffice"),
        (MemoryError(), "the memory of this machine does not suffice"),
    ],
)
def test_a_recipe_that_fails_does_not_stop_the_others(failure, reason, call, two_recipes, at_once):
    at_once.raised["cifar100_other"] = failure
    status, said = call("cifar100", "--stand-in")
    assert (status, said.err.count("\n")) == (2, 1)
    assert f"not in the table: cifar100_other, seed 0: {reason}" in said.err
    names, found = table_of(two_recipes)
    assert names == ["cifar100_tiny"]
    assert [each.startswith(f"cifar100_other, seed 0: {reason}") for each in found.missing] == [True]
    assert at_once.done == ["cifar100_other", "cifar100_tiny"]
    at_once.raised.clear()
    assert call("cifar100", "--stand-in")[0] == 0  # mended: it alone is trained
    assert at_once.done == ["cifar100_other", "cifar100_tiny", "cifar100_other"]
    names, found = table_of(two_recipes)
    assert (names, found.missing) == (["cifar100_other", "cifar100_tiny"], ())


def test_an_error_of_ours_is_not_taken_for_one_of_a_recipe(call, two_recipes, at_once):
    at_once.raised["cifar100_tiny"] = RuntimeError("of ours")
    with pytest.raises(RuntimeError, match="of ours"):
        call("cifar100", "--stand-in")
    names, found = table_of(two_recipes)
    assert (names, found.missing) == (["cifar100_other"], ("cifar100_tiny, seed 0: not trained yet",))


def test_a_table_is_there_after_each_recipe(call, two_recipes, at_once):
    at_once.raised["cifar100_tiny"] = Interrupted("as by a signal", signal.SIGTERM)
    assert call("cifar100", "--stand-in")[0] == 128 + signal.SIGTERM
    names, found = table_of(two_recipes)
    assert (names, found.missing) == (["cifar100_other"], ("cifar100_tiny, seed 0: not trained yet",))


def test_data_that_cannot_be_read_leave_the_table_of_what_is_done(call, two_recipes, at_once, monkeypatch):
    assert call("cifar100", "--stand-in", "--recipes", "cifar100_tiny")[0] == 0

    def damaged(*given):
        raise gs.InputError("record 3 cannot be read")

    monkeypatch.setattr(reproduce, "load_dataset", damaged)
    monkeypatch.setattr(reproduce, "tell_costs", lambda *given: None)  # which reads the stand-in
    status, said = call("cifar100", "--stand-in")
    assert status == 2
    assert "not in the table: cifar100_other, seed 0: record 3 cannot be read" in said.err
    assert table_of(two_recipes)[0] == ["cifar100_tiny"]
    assert at_once.done == ["cifar100_tiny"]


def test_when_all_is_done_nothing_is_read_trained_or_converted(call, two_recipes, at_once, monkeypatch):
    assert call("cifar100", "--stand-in")[0] == 0
    before = table_of(two_recipes)

    def never(*given):
        raise AssertionError(given)

    for name in ("load_dataset", "run_experiment", "load_run", "compare_methods", "cost_of"):
        monkeypatch.setattr(reproduce, name, never)
    status, said = call("cifar100", "--stand-in")
    assert status == 0, said.err
    assert said.out.splitlines()[1:3] == [
        f"cifar100_{name}, seed 0: done, is not trained again" for name in ("other", "tiny")
    ]
    assert table_of(two_recipes) == before


ANOTHER = (
    "the set named cifar100 has 1,347 training and 450 test images of 10 classes, where the published one has 50,000 "
    "and 10,000 of 100"
)
TRAINED = "cifar100_tiny, seed 0: best epoch 1, test 50.00 %"


def test_another_set_of_the_same_name_is_compared_with_nothing(call, configs, at_once, monkeypatch):
    digits = reproduce.load_dataset(Data("digits"), 0)
    monkeypatch.setattr(reproduce, "load_dataset", lambda *given: digits)
    for is_again in (False, True):  # also when it is not read again
        status, said = call("cifar100", "--data-dir", "data")
        assert status == 0
        lines = said.out.splitlines()
        assert is_again or lines.index(f"not comparable with published figures: {ANOTHER}") < lines.index(TRAINED)
        _, found = table_of(configs, "cifar100")
        assert found.trained_on == "another set of that name"
        assert found.deviations == (ANOTHER,)


def test_tables_of_trials_do_not_replace_those_of_reproductions(configs):
    pages = [["cifar100"], ["cifar100", "--epochs", "1"], ["cifar100", "--stand-in"]]
    names = [reproduce.page_path(reproduce.parse(given)).name for given in pages]
    assert names == ["cifar100.md", "cifar100-1-epochs.md", "cifar100-stand-in.md"]


# A real process.


def write_cifar10(directory):
    """Noise in the form of CIFAR-10 as it is prepared: few images of 8x8."""
    noise = np.random.default_rng(0)
    examples = lambda count: (
        {"image": encoded(noise.integers(0, 256, (8, 8, 3), np.uint8)), "label": number % 10} for number in range(count)
    )
    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=10)}
    write_set(directory, {"train": examples(160), "test": examples(32)}, features, name="cifar10", version="3.0.2")


SAVED_OFTEN = """
[data]
name = "cifar10"
flip = true
validation_fraction = 0.2
[model]
name = "resnet10"
levels = 2
[training]
epochs = 2
batch_size = 16
save_seconds = 0.0
"""


@pytest.mark.slow
def test_a_command_that_is_killed_while_it_trains_goes_on_to_the_same_table(tmp_path):
    write_cifar10(tmp_path / "data")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cifar10_tiny.toml").write_text(SAVED_OFTEN)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}  # so that each program compiles once

    def start(workdir):
        command = [sys.executable, "-m", "gnsnn_jax.report.reproduce", "cifar10", "--data-dir", "data"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, "--workdir", workdir], cwd=tmp_path, env=environment, **pipes)

    runs = [tmp_path / name / "cifar10_tiny-seed0" for name in ("killed", "undisturbed")]
    process = start("killed")
    stop(process, runs[0], signal.SIGKILL, 11, 0)
    assert process.returncode == -signal.SIGKILL
    assert not (runs[0] / "summary.json").exists()
    for name in ("killed", "undisturbed"):
        process = start(name)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert (name == "killed") == ("cifar10_tiny, seed 0: goes on: at most 2 epochs" in output)
        went_on = re.search(r"going on after step (\d+) of 16", output)
        assert (name == "killed") == (went_on is not None and 11 <= int(went_on[1]) < 16), output
    killed, undisturbed = (json.loads((tmp_path / run.parent.name / "cifar10.json").read_text()) for run in runs)
    assert killed["figures"] == undisturbed["figures"]
    assert killed["deviations"] == undisturbed["deviations"]
    weights = [(run / "checkpoints").iterdir() for run in runs]
    for one, other in zip(*map(sorted, weights), strict=True):
        jax.tree.map(np.testing.assert_array_equal, *(checkpoints.load(path)[0] for path in (one, other)))


def test_a_run_with_other_settings_is_not_taken_for_this_one(call, configs):
    command = reproduce.parse(["cifar100", "--stand-in", "--configs", str(configs), "--workdir", str(configs.parent)])
    (recipe,) = recipes.recipes_of(command)
    reproduce.create_run(recipe.workdir, replace(recipe.config, model=replace(recipe.config.model, levels=7)), False)
    with pytest.raises(gs.InputError, match="was started with other settings"):
        reproduce.trained(recipe, reproduce.load_dataset(recipe.config.data, 0))
