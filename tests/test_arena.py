"""The arena: the quantised network beside each method, the front, the files and the command."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import NAMED, TwoLayers, seeds
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from pictures import is_drawn

import gnsnn_jax as gs
from gnsnn_jax.conversion.quantised import depth, quantised
from gnsnn_jax.method.methods import parse_method
from gnsnn_jax.report import arena as command
from gnsnn_jax.report import arena_pages, arena_picture
from gnsnn_jax.report.arena_measures import parts_of
from gnsnn_jax.report.arena_pages import MARK, collect, page_of
from gnsnn_jax.report.arena_results import Arena, Quantised, Row, front, read_arena
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.directories import ARENA, create_run
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime.command_line import run_script
from gnsnn_jax.runtime.config import Config, Data, Model

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 6, 2)), jnp.float32)
NETWORK = TwoLayers(levels=4)
VARIABLES = jax.jit(NETWORK.init)(jax.random.key(0), IMAGES)


def gelu(x):
    """A network whose second layer reads an encoder."""
    weights = jnp.linspace(-1, 1, 2 * 5).reshape(2, 5)
    return jax.nn.gelu(gs.qcfs(x @ weights, 1.0, 3), approximate=False) @ weights.T


# The quantised network.


@pytest.mark.parametrize("neuron", [gs.group_neuron(4), gs.integrate_and_fire(), gs.multi_threshold_neuron(3)])
def test_with_the_levels_of_qcfs_it_is_the_network_whatever_the_neuron(neuron):
    ann = quantised(gs.to_spiking(NETWORK.apply, neuron, steps=1), 4)
    np.testing.assert_array_equal(ann(VARIABLES, IMAGES), NETWORK.apply(VARIABLES, IMAGES))
    np.testing.assert_array_equal(ann(VARIABLES, IMAGES, train=False), NETWORK.apply(VARIABLES, IMAGES))


@given(st.sampled_from([1, 3, 8]), seeds)
def test_it_is_a_group_neuron_of_as_many_members_after_one_step(levels, seed):
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(3, 2)), jnp.float32)
    thresholds = {each.name: 0.75 for each in gs.sites(gelu, x)}
    snn = gs.to_spiking(gelu, gs.group_neuron(levels), steps=1, thresholds=thresholds)
    np.testing.assert_allclose(quantised(snn, levels)(x), snn(x)[0], atol=1e-6)


def test_encoders_have_as_many_levels_below_0():
    eye = jnp.eye(2, dtype=jnp.float32)
    network = lambda x: -jnp.tanh(gs.qcfs(x @ eye, 1.0, 1000)) @ eye
    x = jnp.asarray([[0.1, 0.4]], jnp.float32)
    assert [each.kind for each in gs.sites(network, x)] == ["qcfs", "encoder"]
    thresholds = {gs.sites(network, x)[1].name: 1.0}
    snn = gs.to_spiking(network, gs.group_neuron(2), steps=1, thresholds=thresholds)
    np.testing.assert_array_equal(quantised(snn, 2)(x), [[0.0, -0.5]])


def test_many_levels_are_the_network_itself_within_its_thresholds():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2)), jnp.float32)
    relu = lambda x: jax.nn.relu(x @ jnp.linspace(-1, 1, 10, dtype=jnp.float32).reshape(2, 5)) @ jnp.ones((5, 1))
    (site,) = gs.sites(relu, x)
    snn = gs.to_spiking(relu, gs.integrate_and_fire(), steps=1, thresholds={site.name: 50.0})
    np.testing.assert_allclose(jax.jit(quantised(snn, 10**5))(x), relu(x), atol=5e-3)


def test_the_quantised_network_refuses():
    with pytest.raises(gs.InputError, match="levels must be at least 1"):
        quantised(gs.to_spiking(NETWORK.apply, gs.group_neuron(4), steps=1), 0)
    with pytest.raises(TypeError, match="to_spiking"):
        quantised(NETWORK.apply, 4)


def test_depth_counts_populations_one_after_the_other():
    snn = gs.to_spiking(NETWORK.apply, gs.group_neuron(4), steps=1)
    assert depth(snn, VARIABLES, jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)) == 3
    side_by_side = lambda x: gs.qcfs(x, 1.0, 2) + gs.qcfs(-x, 1.0, 2)
    assert depth(gs.to_spiking(side_by_side, gs.group_neuron(4), steps=1), IMAGES) == 1


@pytest.mark.parametrize("name", NAMED)
def test_values_a_step_are_all_that_a_step_sends(name):
    neuron = NAMED[name]
    if not neuron.sends_its_value:
        assert neuron.values_a_step == neuron.neuron.signed_form().values_a_step
        return
    currents = np.random.default_rng(0).uniform(-1.5, 1.5, (40, 500)).astype(np.float32)
    outputs, _ = gs.run(neuron, jnp.asarray(currents), 1.0)
    sent = set(np.unique(neuron.units(outputs, 1.0)).tolist()) - {0}
    assert len(sent) == neuron.values_a_step


# The front.

QUANTISED = Quantised(levels=8, accuracy=0.5, nanojoules=100.0)
ROW = Row(
    method="GN", steps=1, accuracy=0.5, levels_a_step=8, members=8, probe_steps=0, latency=1, layerwise=None,
    spikes=10.0, accumulates=100.0, multiply_accumulates=50, mean_operations=0, nanojoules=3.25,
    calibration_samples=1024, thresholds="mse", quantised=QUANTISED,
)  # fmt: skip
OTHER = replace(ROW, method="GN+COS", accuracy=1.0, accumulates=900.5, probe_steps=4, latency=5, layerwise=15)
FOUND = Arena(
    run="digits", command="python -m gnsnn_jax.report.arena runs/digits", date="2026-01-02",
    machine={"processor": "one", "jax": "0.9"}, dataset="digits", model="resnet10", activations="ReLU", seed=0,
    test_samples=450, examined_samples=450, neurons=20, depth=3, ann_accuracy=0.75, ann_multiply_accumulates=2000,
    ann_nanojoules=9.2, energy_model="45 nm", rows=(ROW, OTHER), left_out={"SNM": "does not convert"},
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_row_beats(points):
    rows = [
        replace(ROW, method=str(n), accumulates=float(x), accuracy=y / 6, multiply_accumulates=0)
        for n, (x, y) in enumerate(points)
    ]
    found = front(rows)
    at_least = lambda one, other: (
        one.synaptic_operations <= other.synaptic_operations and one.accuracy >= other.accuracy
    )
    for row in rows:
        assert any(at_least(best, row) for best in found)
    for best in found:
        assert not any(at_least(row, best) and not at_least(best, row) for row in rows)
    assert found == sorted(found, key=lambda row: row.synaptic_operations)
    assert len({row.synaptic_operations for row in found}) == len(found) == len({row.accuracy for row in found})


# Files and pages.


def test_an_arena_reads_back(tmp_path):
    assert Arena.from_json(json.loads(json.dumps(FOUND.to_json()))) == FOUND
    (tmp_path / "arena.json").write_text(json.dumps(FOUND.to_json() | {"later": 1}))
    assert read_arena(tmp_path) == FOUND


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"rows": []}', '{"run": 1}'])
def test_a_damaged_arena_is_one_sentence(damage, tmp_path):
    with pytest.raises(gs.InputError, match=r"holds no arena\.json; run"):
        read_arena(tmp_path)
    (tmp_path / "arena.json").write_text(damage)
    with pytest.raises(gs.InputError, match=r"arena\.json is damaged or of something else .*; run") as refused:
        read_arena(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_page_says_what_was_found():
    page = page_of(FOUND, "arena.png")
    assert "75.00 % of 450 test samples" in page
    assert "| **GN** | 1 | 50.00 | 50.00 | 8 | 8 | 1 | – | 10 | 100 | 50 | 0 | 3 | 100 | 1,024 |" in page
    assert "| **GN+COS** | 1 | 100.00 | 50.00 | 8 | 8 | 5 | 15 |" in page
    assert "| GN | 50.00 (50.00) |" in page
    assert "- SNM is left out: does not convert" in page
    assert "2026-01-02, seed 0; processor one, jax 0.9." in page


def test_pages_of_several_runs_keep_what_stands_above_the_mark(tmp_path, monkeypatch):
    monkeypatch.setattr(arena_picture, "DOTS", 20)
    page = tmp_path / "all.md"
    page.write_text(f"# A title\n\nWords.\n\n{MARK}\n\nwhat was there", encoding="utf-8")
    collect([FOUND, replace(FOUND, run="other", model="vgg16")], page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# A title\n\nWords.\n\n{MARK}\n\n## resnet10, ReLU, on digits")
    assert "what was there" not in text
    assert "## vgg16, ReLU, on digits" in text
    assert text.count("## What the columns mean") == 1
    assert all(is_drawn(tmp_path / f"all_{run}.png") for run in ("digits", "other"))
    collect([FOUND], page)
    assert page.read_text(encoding="utf-8").startswith(f"# A title\n\nWords.\n\n{MARK}")


def test_the_page_of_the_documentation_is_made_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(arena_pages, "draw_arena", lambda arena, path: None)
    written = (ROOT / "docs" / "arena.md").read_text(encoding="utf-8")
    names = re.findall(r"\((arena_\w+)\.png\)", written)
    page = tmp_path / "arena.md"
    page.write_text(written, encoding="utf-8")
    collect([read_arena(ROOT / "docs" / f"{name}.json") for name in names], page)
    assert page.read_text(encoding="utf-8") == written
    assert all(is_drawn(ROOT / "docs" / f"{name}.png") for name in names)


@pytest.mark.parametrize(("name", "parts"), [("gn", [[1, 2]]), ("ftbc", [[1, 2]]), ("light", [[1], [2]])])
def test_a_correction_that_is_for_one_t_is_found_for_each(name, parts):
    assert parts_of(parse_method(name, members=4, probe_steps=4), [1, 2]) == parts


# The command.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a network of ReLUs that was never trained."""
    run = tmp_path_factory.mktemp("runs") / "run"
    config = Config(Data(image_size=4), Model("resnet10", levels=2, activation="relu"))
    create_run(run, config, overwrite=False)
    init = jax.jit(build_network(config.model, 10).init)
    checkpoints.save(run / "checkpoints" / "1", init(jax.random.key(0), jnp.zeros((1, 4, 4, 1))), {})
    return run


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def arena(monkeypatch, capsys, unchecked):
    def call(*arguments):
        monkeypatch.setattr(arena_picture, "DOTS", 20)
        monkeypatch.setattr(sys, "argv", ["arena", *map(str, arguments)])
        status = run_script("arena", command.main)
        return status, capsys.readouterr()

    return call


@pytest.mark.slow
def test_the_arena_measures_a_run(run, arena):
    status, said = arena(run, "--methods", "gn", "cos", "dc+cos", "--steps", "1,2", "--thresholds", "max")
    assert status == 0, said.err
    found = read_arena(run)
    assert [(row.method, row.steps) for row in found.rows] == [("GN", 1), ("GN", 2), ("COS", 1), ("COS", 2)]
    assert "leave the calibration out" in found.left_out["DC+COS"]
    assert [row.quantised.levels for row in found.rows] == [2, 4, 1, 2]
    assert [(row.latency, row.layerwise) for row in found.rows] == [(1, None), (2, None), (3, 27), (4, 36)]
    first = found.rows[0]
    assert first.accuracy == first.quantised.accuracy
    assert (first.thresholds, found.depth, found.test_samples) == ("max", 9, 450)
    train = found.test_samples * 3 * 0.85
    assert 0 < first.calibration_samples <= train
    assert found.rows[1].synaptic_operations > first.synaptic_operations > first.multiply_accumulates
    assert (run / "arena.md").read_text(encoding="utf-8") == page_of(found, "arena.png")
    assert is_drawn(run / "arena.png")
    other = shutil.copytree(run, run.with_name("other"))
    assert arena(run, other, "--methods", "gn", "--steps", "1")[0] == 0
    assert [row.method for row in read_arena(other).rows] == ["GN"]
    assert sorted(path.name for path in (run / "previous-1").iterdir()) == sorted(ARENA)
    assert arena(run, "--collect", run / "all.md")[0] == 0
    assert (run / "all.md").read_text(encoding="utf-8").count("| GN |") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no run directory at nowhere"),
        (["RUN", "--methods", "gn", "gnn"], "did you mean 'gn'"),
        (["RUN", "--steps", "0"], "--steps must be at least 1"),
        (["RUN", "nowhere"], "no run directory at nowhere"),
        (["--collect", "page.md"], "--collect takes at least one run"),
        (["RUN", "--collect", "page.md"], "holds no arena.json"),
        (["RUN", "--collect", "nowhere/page.md"], "there is no directory"),
        pytest.param(
            ["RUN", "--methods", "dc+cos", "--steps", "1"],
            "none of the methods converts this network; DC+COS: ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_arena_refuses_in_one_sentence(arguments, message, run, arena, monkeypatch):
    monkeypatch.chdir(run.parent)
    status, said = arena(*(run if argument == "RUN" else argument for argument in arguments))
    assert (status, said.err.count("\n")) == (2, 1), said.err
    assert said.err.startswith("arena: error: ")
    assert message in said.err
    assert not Path(run / "arena.json").exists()
