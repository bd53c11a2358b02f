"""The two scripts as a user runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_script
from pictures import is_drawn
from rich.console import Console

import gnsnn_jax as gs
from gnsnn_jax.data.sets import Data, load_dataset
from gnsnn_jax.report.compare_runs import main as compare_runs
from gnsnn_jax.report.files import read_report
from gnsnn_jax.report.terminal import print_report
from gnsnn_jax.runs.directories import load_run
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime import command_line

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STEPS = ["1", "2", "4", "8", "16", "32"]


def script(name, *arguments, cwd):
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder in which both scripts ran without arguments."""
    place = tmp_path_factory.mktemp("place")
    for name in ("train.py", "convert.py"):
        done = script(name, cwd=place)
        assert done.returncode == 0, done.stdout + done.stderr
        (place / f"{name}.out").write_text(done.stdout)
    return place


@pytest.fixture(scope="module")
def run(place):
    (run,) = (place / "runs").iterdir()
    return run


@pytest.fixture
def copy(run, tmp_path):
    """A run that a test may damage."""
    return shutil.copytree(run, tmp_path / "copy")


def test_training_leaves_a_run(place, run):
    assert run.name.startswith("digits-")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] >= 0.975
    assert summary["test_samples"] == 450
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == list(range(1, 101))
    best = max(metrics, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    assert summary["best_epoch"] == best["epoch"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == [str(best["epoch"])]
    assert str(run.name) in (place / "train.py.out").read_text().replace("\n", "")


def test_conversion_leaves_a_report(run):
    report = json.loads((run / "report.json").read_text())
    assert list(report) == [
        "dataset",
        "model",
        "levels",
        "ann_accuracy",
        "samples",
        "methods",
        "analysis",
        "activation",
    ]
    assert [report[name] for name in ("dataset", "levels", "samples", "activation")] == ["digits", 8, 450, "qcfs"]
    methods = {method["name"]: method for method in report["methods"]}
    assert list(methods) == ["IF", "GN", "COS", "GN+COS"]
    assert [(m["neuron"], m["members"], m["probe_steps"]) for m in report["methods"]] == [
        ("if", 1, 0), ("gn", 8, 0), ("if", 1, 8), ("gn", 8, 8),
    ]  # fmt: skip
    for method in report["methods"]:
        for key in ("accuracy", "agreement", "latency_steps", "spikes_per_neuron"):
            assert list(method[key]) == STEPS
        assert method["latency_steps"] == {t: method["probe_steps"] + int(t) for t in STEPS}
        assert method["accuracy"]["32"] >= report["ann_accuracy"] - 0.01
    assert methods["GN"]["agreement"]["1"] == 1.0
    assert methods["GN"]["accuracy"]["1"] == report["ann_accuracy"]
    assert all(methods["COS"]["accuracy"][t] > methods["IF"]["accuracy"][t] for t in ("1", "2", "4"))
    assert is_drawn(run / "accuracy.png")


def test_the_report_says_what_the_networks_do(run):
    report = json.loads((run / "report.json").read_text())
    analysis, models = report["analysis"], [model["name"] for model in report["analysis"]["energy_models"]]
    assert (analysis["samples"], analysis["activation_bits"]) == (450, 4)
    for method in report["methods"]:
        found, sites = method["behaviour"], [each["name"] for each in method["behaviour"]["populations"]]
        assert (len(sites), sites[0], sites[-1]) == (9, "act1", "stage2_block1/act2")
        rates, neurons = (np.asarray([of(each) for each in found["populations"]]) for of in (
            lambda each: each["firing_rate"], lambda each: np.prod(each["shape"]),
        ))  # fmt: skip
        for t in STEPS:
            spikes = (rates[:, : int(t)].sum(1) * neurons).sum() / neurons.sum()
            assert spikes == pytest.approx(method["spikes_per_neuron"][t], rel=1e-5)
            assert all(sum(each["offsets"][t]) == pytest.approx(1) for each in found["populations"])
        assert list(found["energy_nanojoules"]) == list(analysis["energy_nanojoules"]) == models
        if method["neuron"] == "gn" and not method["probe_steps"]:
            assert all(each["squared_error"]["1"] == 0 for each in found["populations"])
        if method["probe_steps"]:
            of = lambda calibration, when: [each["own_offsets"][2] for each in calibration[when].values()]
            exact = [of(found["calibration"], when) for when in ("before", "after")]
            assert np.mean(exact[0]) < np.mean(exact[1])
            assert min(exact[1]) > 0.99


def test_the_document_shows_the_pictures_and_the_constants(run):
    shown = (run / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", shown)
    assert len(pictures) == 6
    for picture in pictures:
        assert is_drawn(run / picture)
    assert "45 nm, float32, compute and memory | 0.9 | 3.7 | 24 | 0.3125 | 32" in shown
    assert "stage2_block1/act2" in shown


@pytest.mark.usefixtures("unchecked")
def test_runs_are_compared_side_by_side(run, copy, tmp_path, capsys, monkeypatch):
    def compare(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        return command_line.run_script("compare", compare_runs)

    picture = tmp_path / "both.png"
    assert compare(run, copy, "--output", picture) == 0
    shown = capsys.readouterr().out
    assert run.name in shown
    assert copy.name in shown
    assert shown.count("99.56") >= 2
    assert is_drawn(picture)
    for arguments, message in [
        ((run, run), "a run is given twice"),
        ((run, tmp_path), "holds no report.json"),
        ((run, "--output", tmp_path / "no" / "a.png"), "there is no directory"),
    ]:
        assert compare(*arguments) == 2
        assert message in capsys.readouterr().err
    for damage in ("{", "[]", '{"methods": [{}]}'):
        (copy / "report.json").write_text(damage)
        assert compare(run, copy) == 2
        error = capsys.readouterr().err
        assert "is no report of convert.py or damaged" in error
        assert error.count("\n") == 1


def test_the_table_shows_what_the_report_says(place, run):
    shown = (place / "convert.py.out").read_text()
    report = json.loads((run / "report.json").read_text())
    assert f"ANN {100 * report['ann_accuracy']:.2f} %" in shown
    for method in report["methods"]:
        assert method["name"] in shown
        assert all(f"{100 * value:.2f}" in shown for value in method["accuracy"].values())
        assert all(f"{value:.3f}" in shown for value in method["spikes_per_neuron"].values())


@pytest.mark.parametrize("name", ["IF", "GN", "COS", "GN+COS"])
def test_converted_networks_load_into_something_callable(run, name):
    report = json.loads((run / "report.json").read_text())
    (method,) = (method for method in report["methods"] if method["name"] == name)
    network = gs.load_converted(run / "converted" / name.lower())
    test = load_dataset(Data(test_fraction=0.25, validation_fraction=0.2), 0).test
    found = gs.accuracy_over_time(network(test.images, steps=4), jnp.asarray(test.labels))
    np.testing.assert_allclose(
        found[np.asarray([0, 1, 3])], [method["accuracy"][t] for t in ("1", "2", "4")], atol=1e-6
    )


@pytest.mark.usefixtures("unchecked")
def test_converted_networks_refuse_what_they_cannot_take(run):
    network = gs.load_converted(run / "converted" / "gn")
    with pytest.raises(gs.InputError, match=r"takes images of shape \[batch, 8, 8, 1\], got \(2, 8, 8, 3\)"):
        network(np.zeros((2, 8, 8, 3)))
    with pytest.raises(gs.InputError, match="the images hold 1 values that are NaN"):
        network(np.where(np.arange(64).reshape(1, 8, 8, 1) == 5, np.nan, 0.0))
    with pytest.raises(gs.InputError, match="steps must be at least 1, got 0"):
        network(np.zeros((1, 8, 8, 1)), steps=0)


def test_a_narrow_terminal_cuts_no_number(run, capsys):
    print_report(read_report(run), Console(width=50))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "99" in shown


def test_converted_networks_work_under_jit(run):
    network = gs.load_converted(run / "converted" / "gn")
    images = jnp.ones((2, 8, 8, 1))
    np.testing.assert_allclose(jax.jit(network)(images), network(images), atol=1e-5)


def test_methods_and_numbers_can_be_chosen_and_nothing_is_lost(copy, tmp_path):
    before = (copy / "report.json").read_text()
    arguments = ["--methods", "GN", "cos", "--steps", "3,1", "--members", "4", "--probe-steps", "2", "--quick"]
    done = script("convert.py", copy, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "analysis" not in json.loads((copy / "report.json").read_text())
    assert not (copy / "figures").exists()
    assert "## Accuracy" in (copy / "report.md").read_text(encoding="utf-8")
    assert (copy / "previous-1" / "figures").is_dir()
    report = json.loads((copy / "report.json").read_text())
    assert [(m["name"], m["members"], m["probe_steps"]) for m in report["methods"]] == [("GN", 4, 0), ("COS", 1, 2)]
    assert report["methods"][1]["latency_steps"] == {"1": 3, "3": 5}
    assert (copy / "previous-1" / "report.json").read_text() == before
    assert sorted(path.name for path in (copy / "converted").iterdir()) == ["cos", "gn"]


@pytest.fixture(scope="module")
def weights(run, tmp_path_factory):
    """The weights of the run as another framework would hand them over."""
    path = tmp_path_factory.mktemp("weights") / "digits.npz"
    trained = load_run(run)
    gs.save_weights(path, trained.variables, build_network(trained.config.model, 10), names="cos")
    return path


def test_weights_from_pytorch_give_the_files_of_a_run(run, weights, tmp_path):
    statistics = load_dataset(Data(test_fraction=0.25, validation_fraction=0.2), 0).statistics
    arguments = ["--model", "resnet10", "--levels", 8, "--classes", 10, "--dataset", "digits", "--workdir", "imported"]
    arguments += ["--mean", list(statistics.mean), "--deviation", list(statistics.deviation)]
    done = script("convert.py", "--weights", weights, *arguments, *QUICK, "--steps", "1,4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, trained = (json.loads((path / "report.json").read_text()) for path in (tmp_path / "imported", run))
    assert found["ann_accuracy"] == trained["ann_accuracy"]
    assert found["methods"][0]["accuracy"]["4"] == trained["methods"][1]["accuracy"]["4"]
    again = script("convert.py", "imported", *QUICK, "--steps", "4", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "imported" / "previous-1" / "report.json").exists()


QUICK = ["--methods", "gn", "--quick"]
NETWORK = ["--model", "resnet10", "--levels", "8", "--dataset", "digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "FILE"], "--weights also needs --model, --levels, --dataset"),
        (["RUN", "--weights", "FILE", *NETWORK], "not both"),
        (["--levels", "4"], "--levels only means something beside a file of weights"),
        (["--weights", "nowhere.npz", *NETWORK], "there is no file nowhere.npz"),
        (["--weights", "FILE", *NETWORK, "--levels", "0"], "model.levels: input should be greater than or equal to 1"),
        (["--weights", "FILE", *NETWORK, "--dataset", "digitz"], "unknown data set 'digitz'"),
        (["--weights", "FILE", *NETWORK, "--model", "resnet11"], "unknown model 'resnet11'"),
        (["--weights", "FILE", *NETWORK, "--classes", "3"], "a network of 3 classes cannot tell the 10 classes"),
        (
            ["--weights", "FILE", *NETWORK, "--mean", "[1, 2]"],
            "data.mean = [1.0, 2.0] does not fit images of 1 channels",
        ),
        (["--weights", "FILE", *NETWORK, "--workdir", "RUN"], "already holds a run"),
    ],
)
def test_imports_are_refused_in_one_sentence_and_leave_nothing(arguments, message, run, weights, refused, tmp_path):
    arguments = [{"RUN": run, "FILE": weights}.get(argument, argument) for argument in arguments]
    assert message in refused("convert.py", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_refused_with_a_list(weights, tmp_path):
    done = script("convert.py", "--weights", weights, *NETWORK, "--model", "resnet20", cwd=tmp_path)
    assert done.returncode == 2
    assert "missing: conv2_x.2.relu." in done.stderr
    assert "Traceback" not in done.stderr


def test_one_setting_after_another_from_the_command_line(tmp_path, refused):
    config = tmp_path / "mine.toml"
    config.write_text("[training]\nepochs = 9\n")
    arguments = [config, "--workdir", "here", "--training.epochs", "1", "--model.levels", "2", "--training.seed=5"]
    done = script("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "here" / "config.toml").read_text()
    assert "epochs = 1\n" in kept
    assert "seed = 5\n" in kept
    assert json.loads((tmp_path / "here" / "summary.json").read_text())["levels"] == 2

    (tmp_path / "here" / "notes.txt").write_text("mine")
    message = refused("train.py", *arguments)
    assert "already holds a run" in message
    assert "--overwrite" in message
    done = script("train.py", *arguments, "--overwrite", "--training.seed", "6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed = 6\n" in (tmp_path / "here" / "config.toml").read_text()
    assert (tmp_path / "here" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "here" / "previous-1" / "config.toml").read_text() == kept


def test_a_refusal_is_one_sentence_for_the_user_too(tmp_path):
    done = script("convert.py", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "convert.py: error: no run directory at nowhere; give one that train.py wrote\n"


@pytest.mark.parametrize("name", ["train.py", "convert.py"])
def test_help_explains_each_option(name, monkeypatch, capsys, unchecked):
    assert not run_script(monkeypatch, name, "--help")
    shown = capsys.readouterr().out
    wanted = ["--model.levels", "--optimizer.learning_rate", "--overwrite"] if name == "train.py" else ["--methods"]
    assert all(option in shown for option in wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.toml"], "cannot read the configuration missing.toml"),
        (["broken.toml"], "is not valid TOML"),
        (["--model.name", "resnet11"], "unknown model 'resnet11'"),
        (["--data.name", "digitz"], "unknown data set 'digitz'"),
        (["--model.levels", "0"], "model.levels: input should be greater than or equal to 1, got 0"),
        (["--model.levels", "9" * 20], "model.levels: input should be less than or equal to 1000000"),
        (["--workdir", ""], "a directory needs a name"),
        (["--model.levels", "many"], "model.levels: input should be a valid integer, got 'many'"),
        (["--model.levls", "4"], "unknown option --model.levls; did you mean '--model.levels'"),
        (["--workdir", "broken.toml"], "broken.toml is a file"),
        (["--training.batch_size", "5000"], "training.batch_size = 5000 is more than"),
        (["one.toml", "two.toml"], "one argument too many: 'two.toml'"),
    ],
)
def test_train_refuses_in_one_sentence_and_leaves_nothing(arguments, message, tmp_path, refused):
    (tmp_path / "broken.toml").write_text("[model")
    assert message in refused("train.py", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.toml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run with a checkpoint under runs/"),
        (["nowhere"], "no run directory at nowhere"),
        (["."], "holds no config.toml"),
        (["RUN", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["RUN", "--steps", "two"], "--steps takes integers"),
        (["RUN", "--members", "0"], "--members: must be at least 1, got 0"),
        (["RUN", "--probe-steps", "-3"], "--probe-steps: must be at least 1, got -3"),
        (["RUN", "--methods", "lif"], "unknown neuron, calibration or correction 'lif'"),
        (["RUN", "--methods", "gn+if"], "at most one neuron"),
        (["RUN", "--methods", ","], "no method is given"),
        (["RUN", "--steps", "9" * 20], "--steps must be at most 1000000"),
        (["RUN", "--members", "9" * 20], "must be at most 1000000"),
    ],
)
def test_convert_refuses_in_one_sentence(arguments, message, run, refused):
    arguments = [run if argument == "RUN" else argument for argument in arguments]
    assert message in refused("convert.py", *arguments)


def test_convert_refuses_a_run_without_checkpoint(copy, refused):
    shutil.rmtree(copy / "checkpoints")
    assert "has no checkpoint" in refused("convert.py", copy)


def test_convert_refuses_a_damaged_checkpoint_and_keeps_the_report(copy, refused):
    for path in (copy / "checkpoints").rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)
    before = (copy / "report.json").read_text()
    assert "is damaged" in refused("convert.py", copy)
    assert (copy / "report.json").read_text() == before


def test_convert_refuses_a_run_of_another_network(copy, refused):
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace('"resnet10"', '"resnet20"'))
    assert "do not belong to resnet20" in refused("convert.py", copy)
