"""Files of a run that are damaged or of something else: one sentence says so, whatever they hold."""

import copy
import json
import math
import re
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_script
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.data.sets import load_dataset
from gnsnn_jax.errors import LONGEST_NAME
from gnsnn_jax.method.methods import Method, parse_method
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.converted import convert
from gnsnn_jax.runs.directories import create_run, load_run
from gnsnn_jax.runtime.config import Config, Data, Model, Training
from gnsnn_jax.training.experiment import run_experiment
from gnsnn_jax.training.records import read_metrics

pytestmark = pytest.mark.slow

DEEP = "[" * 3000 + "]" * 3000
FOREIGN = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    math.nan,
    math.inf,
    "text",
    "\x1b[31m",
    [],
    [1],
    {},
    {"a": 1},
    json.loads(DEEP[2100:-2100]),
]
BYTES = [
    b"",
    b"\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b"NaN\n",
    b"\x93NUMPY\x01\x00\xff\xfe",
    DEEP.encode(),
    b'{"a": ' * 3000,
    b"9" * 5000,
]


def places(tree, path=()):
    """The paths of all values within a tree of dictionaries and lists."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


@st.composite
def damaged(draw, tree):
    """The tree with one value missing or replaced by a foreign one."""
    *path, last = draw(st.sampled_from(list(places(tree))))
    tree = copy.deepcopy(tree)
    parent = tree
    for key in path:
        parent = parent[key]
    if draw(st.booleans()):
        del parent[last]
    else:
        parent[last] = draw(st.sampled_from(FOREIGN))
    return tree


@st.composite
def damaged_file(draw, content):
    """What is left of a file: cut, with foreign bytes in it, or of something else."""
    place = draw(st.integers(0, len(content) - 1))
    flipped = content[:place] + bytes([content[place] ^ draw(st.integers(1, 255))]) + content[place + 1 :]
    return draw(st.sampled_from([content[:place], flipped, content[:place] + DEEP.encode(), *BYTES]))


def outcome(call):
    """What a call returns, or None where it refuses in one sentence; anything else is raised."""
    try:
        return call()
    except gs.InputError as error:
        sentence = str(error)
    assert sentence.isprintable()
    assert len(sentence) < 10 * LONGEST_NAME
    return None


# Methods.

METHODS = [parse_method(name, members=4, probe_steps=3, passes=2) for name in ("if", "gn", "gn+cos")]
EARLIER = {"name": "GN+COS", "neuron": "gn", "members": 4, "calibration": "cos", "probe_steps": 3, "passes": 2}


@given(st.sampled_from([*(method.to_json() for method in METHODS), EARLIER]).flatmap(damaged))
def test_a_stored_method_is_sound_or_refused(about):
    method = outcome(lambda: Method.from_json(about))
    if method is not None:
        assert isinstance(method.neuron, gs.Neuron)
        assert isinstance(method.calibration, gs.Calibration | None)
        assert isinstance(method.name, str)
        assert outcome(lambda: method.levels(4)) is not None
        assert Method.from_json(method.to_json()) == method


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("about", FOREIGN, ids=range(len(FOREIGN)))
def test_what_is_no_method_is_refused(about):
    with pytest.raises(gs.InputError, match="a method is stored as"):
        Method.from_json(about)
    with pytest.raises(gs.InputError):
        Method.from_json({"name": "GN", "neuron": about})


def test_a_method_that_an_earlier_version_stored_is_read():
    assert Method.from_json(EARLIER) == parse_method("gn+cos", members=4, probe_steps=3, passes=2)


# Runs.

CONFIG = Config(model=Model(levels=2), training=Training(epochs=2, batch_size=256, save_seconds=0.0))


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(Data(), 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset):
    """A run of two epochs, with a converted network in it."""
    run = tmp_path_factory.mktemp("run") / "run"
    create_run(run, CONFIG, overwrite=False)
    resume(run, dataset)
    convert(CONFIG.model, jax.tree.map(jnp.asarray, load_run(run).variables), dataset, METHODS[2], 2).save(
        run / "converted" / "gn+cos"
    )
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(finished, tmp_path / "run")


def resume(run, dataset):
    return run_experiment(run, CONFIG, dataset, time.perf_counter())


def best_of(run):
    """The checkpoint of the best epoch."""
    (path,) = (run / "checkpoints").iterdir()
    return path


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
def test_any_damage_to_a_file_of_json_is_harmless_or_refused(name, finished, tmp_path_factory, dataset):
    run = shutil.copytree(finished, tmp_path_factory.mktemp("copy") / "run")
    whole = (run / name).read_bytes()
    lines = whole.splitlines() if name == "metrics.jsonl" else [whole]
    trees = damaged(json.loads(lines[0])).map(lambda tree: b"\n".join([json.dumps(tree).encode(), *lines[1:]]) + b"\n")

    @given(damaged_file(whole) | trees)
    def check(content):
        (run / name).write_bytes(content)
        outcome(lambda: (resume(run, dataset), read_metrics(run)))

    check()


def test_a_line_that_a_killed_run_left_unfinished_is_left_out_and_one_before_it_refused(run):
    path = run / "metrics.jsonl"
    line = path.read_text().splitlines()[0] + "\n"
    path.write_text(line + line[:50])
    assert [each["epoch"] for each in read_metrics(run)] == [1]
    path.write_text(line + line[:50] + "\n" + line)
    with pytest.raises(gs.InputError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        read_metrics(run)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b"{", r"summary\.json is damaged or of something else \(.*\); remove it"),
        ("summary.json", b'{"best_epoch": 3}', r"summary\.json .*dataset: field required"),
        ("metrics.jsonl", b"[1]\n", r"line 1 of .*metrics\.jsonl is damaged"),
        ("metrics.jsonl", b'{"epoch": 1}\n', r"line 1 of .*train_loss: field required"),
        ("config.toml", b"\xff\xfe", r"config\.toml is not valid TOML"),
        ("config.toml", b"[model]\nlevels = 'many'", r"model\.levels: input should be a valid integer"),
        ("config.toml", b"[model]\nlevels = 2\n[optimizer]\naverage_decay = 0.5\n", "no state under .* is whole"),
    ],
)
def test_train_resumes_no_damaged_run_and_says_why(name, content, message, run, refused):
    if b"average" in content:
        (run / "summary.json").unlink()
    (run / name).write_bytes(content)
    assert re.search(message, refused("train.py", "--workdir", run, "--resume"))


def test_a_finished_run_without_metrics_shows_its_result(run, monkeypatch, capsys, tmp_path, unchecked):
    (run / "metrics.jsonl").unlink()
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train.py", "--workdir", run, "--resume") == 0
    assert f"best epoch {best_of(run).name}" in capsys.readouterr().out


def test_a_run_whose_best_weights_are_gone_is_refused(run, dataset):
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(gs.InputError, match="has no checkpoint"):
        resume(run, dataset)


# Checkpoints that are whole, but hold something else.


def stored_again(path, change):
    """Writes a checkpoint again with other words about it or other arrays."""
    arrays, about = checkpoints.load(path)
    checkpoints.save(path, *change(arrays, about))


def test_a_converted_network_is_sound_or_refused(finished, tmp_path, dataset):
    arrays, about = checkpoints.load(finished / "converted" / "gn+cos")
    images = dataset.test.images[:1]

    @given(damaged(about))
    def check(about):
        checkpoints.save(tmp_path / "network", arrays, about)
        outcome(lambda: gs.load_converted(tmp_path / "network"))

    check()
    checkpoints.save(tmp_path / "network", arrays, about)
    assert gs.load_converted(tmp_path / "network")(images).shape == (2, 1, 10)


SPOILED = {
    "missing": lambda arrays: {"params": arrays["params"]},
    "another network": lambda arrays: {"params": {"dense": {"kernel": np.ones((3, 3), np.float32)}}},
    "integers": lambda arrays: jax.tree.map(lambda leaf: leaf.astype(np.int32), arrays),
    "one array": lambda arrays: {"a": np.ones(3, np.float32)},
}


@pytest.mark.parametrize("kind", SPOILED)
def test_arrays_of_another_network_are_refused_wherever_they_are_read(kind, run, refused, dataset):
    change = lambda arrays, about: (SPOILED[kind](arrays), about)
    stored_again(run / "converted" / "gn+cos", change)
    with pytest.raises(gs.InputError):
        gs.load_converted(run / "converted" / "gn+cos")
    stored_again(best_of(run), change)
    assert "error: the " in refused("convert.py", run, "--quick", "--steps", "1")
    (run / "summary.json").unlink()
    with pytest.raises(gs.InputError):
        resume(run, dataset)


@pytest.mark.parametrize(
    "about", [{}, {"epoch": 1}, {"epoch": "1", "validation_accuracy": [], "validation_loss": None}]
)
def test_best_weights_with_foreign_words_about_them_are_no_best_weights(about, run, dataset, capsys):
    (run / "summary.json").unlink()
    stored_again(best_of(run), lambda arrays, _: (arrays, about))
    with pytest.raises(gs.InputError, match="has no checkpoint"):
        resume(run, dataset)
    assert "is damaged or of something else" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("content", [b"{}", b"[]", b"3", b"null", DEEP.encode(), b"\xff"])
def test_fingerprints_that_prove_nothing_are_damage(content, run):
    (best_of(run) / "fingerprints.json").write_bytes(content)
    with pytest.raises(gs.InputError, match=r"is damaged in fingerprints\.json"):
        checkpoints.load(best_of(run))
