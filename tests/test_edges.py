"""Values at the edge of what can be written: each is taken or refused in one short sentence, and nothing else."""

import logging
import runpy
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.errors import LISTED, LONGEST_NAME, InputError, at_least_one, listed, nearest, printable, shown
from gnsnn_jax.models import build
from gnsnn_jax.runs import checkpoints
from gnsnn_jax.runs.directories import load_run
from gnsnn_jax.runtime.command_line import integer, run_script
from gnsnn_jax.runtime.config import Config, Training, decode, load_config, save_config, settings
from gnsnn_jax.training.loop import make_schedule

ROOT = Path(__file__).parent.parent
NESTED = []
for _ in range(5000):
    NESTED = [NESTED]
HOLDS_ITSELF = {}
HOLDS_ITSELF["itself"] = HOLDS_ITSELF


def is_plain(text):
    """On one line, short, and without anything that moves the cursor of a terminal."""
    return text.isprintable() and len(text) <= 10 * LONGEST_NAME


# Foreign names in sentences.


@given(st.text() | st.integers() | st.floats() | st.binary() | st.lists(st.text()))
@example("\x1b[31m\x07\r\n")
@example("a" * 5000)
@example("\udc80\u202e")
def test_any_value_is_shown_on_one_short_line(value):
    assert is_plain(shown(value))
    assert is_plain(printable(value))
    if isinstance(value, str):
        assert is_plain(nearest(value, [value]))
        assert printable(value) == value or len(value) > LONGEST_NAME or not value.isprintable()


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), NESTED, HOLDS_ITSELF, np.zeros((100, 100))],
    ids=["above", "below", "nested", "holds itself", "array"],
)
def test_values_that_python_cannot_show_are_shown_too(value):
    assert is_plain(shown(value))
    assert is_plain(printable(value))


@pytest.mark.parametrize("value", ["conv1.0.weight", 4, -1.5, None, True, [1, 2], ("a",), {"a": 1}])
def test_what_is_short_and_plain_is_shown_as_python_writes_it(value):
    assert shown(value) == repr(value)


@given(st.lists(st.text(st.characters(exclude_characters=",")), max_size=3 * LISTED))
@example([f"left{n}" for n in range(1000)])
def test_long_lists_count_what_they_leave_out(names):
    found = listed(names)
    assert is_plain(found)
    kept, _, rest = found.partition(f" and {len(names) - LISTED} more") if len(names) > LISTED else (found, "", "")
    assert len(kept.split(", ")) == max(1, min(len(names), LISTED)) or any(" " in name for name in names)
    assert rest == ""


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["above", "below"])
def test_counts_of_any_length_are_refused(value):
    with pytest.raises(InputError, match=r"steps must be at (most 1000000|least 1), got an integer of 16610 bits"):
        at_least_one("steps", value)


# Settings.

NUMBERS = ["0", "-1", "9" * 30, "-" + "9" * 30, "9" * 5000, "2147483648", "1e400", "-1e400", "1e300", "1e-300", "1.5"]
NO_NUMBERS = ["nan", "inf", "-inf", "true", "'1'", "1979-05-27", "1_000", "1__000", "0x10", "\u0663", " 4 ", "4 # four"]
TEXTS = ["", " ", "x" * 5000, "\x1b[31m", "\udc80", "\u202e", "4\nother = 5", "4\n[data]\nname = 'other'", "\0", "a:b"]
LISTS = ["[", "[1", "[[1]]", "[1e300]", "['a']", "[true]", "{a = 1}", "[" * 5000, "[" * 5000 + "]" * 5000, "[nan]"]
LISTS += ["[" + "1," * 5000 + "]", "{a = " * 3000 + "1" + "}" * 3000]
EXTREMES = NUMBERS + NO_NUMBERS + TEXTS + LISTS
SETTINGS = list(settings())


def outcome(call):
    """What a call returns, or the sentence it refuses with."""
    try:
        return call()
    except InputError as error:
        sentence = str(error)
    assert is_plain(sentence), sentence[:500]
    return sentence


def assert_usable(config):
    """Nothing of it overflows where it is used, and it can be stored."""
    for name, kind, _ in SETTINGS:
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, str):
                number.encode("utf-8")
            else:
                assert np.isfinite(np.float32(number))
                assert -(2**31) <= number < 2**32 or kind is not int


@pytest.mark.parametrize("name", [name for name, *_ in SETTINGS])
def test_every_setting_takes_or_refuses_any_value_in_one_sentence(name, tmp_path):
    section, key = name.split(".")
    for value in EXTREMES:
        found = outcome(lambda value=value: decode({}, "command line", {name: value}))
        if isinstance(found, Config):
            assert_usable(found)
        path = tmp_path / "settings.toml"
        path.write_text(f"[{section}]\n{key} = {value}\n", encoding="utf-8", errors="surrogateescape")
        assert isinstance(outcome(lambda path=path: load_config(path)), Config | str)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind, _ in SETTINGS if kind is not bool])
def test_every_setting_has_an_upper_bound(name, kind):
    value = {str: "x" * 5000, int: "9" * 30, float: "1e30"}.get(kind, "[1e30]")
    assert name in outcome(lambda: decode({}, "command line", {name: value}))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        ".".join("a" * 5000) + " = 1",
        ".".join("a" * 300) + " = 1",
        "".join(f"left{n} = 1\n" for n in range(1000)),
        '"\\u001b[31m" = 1',
        "x" * 5000 + " = 1",
        "data = 1",
        "[[data]]",
        "data.name = [[[1]]]",
        "\0",
        "a = " + "9" * 5000,
    ],
    ids=range(11),
)
def test_any_tree_of_settings_is_refused_in_one_sentence(text, tmp_path):
    (tmp_path / "settings.toml").write_text(text)
    assert "settings.toml" in outcome(lambda: load_config(tmp_path / "settings.toml"))


def test_underscores_in_numbers_are_read_as_toml_has_them():
    assert decode({}, "command line", {"data.image_size": "1_000"}).data.image_size == 1000
    assert "valid integer" in outcome(lambda: decode({}, "command line", {"data.image_size": "1__000"}))


def test_steps_that_int32_cannot_count_are_refused():
    config = Config(training=Training(epochs=10**6))
    make_schedule(config, 2147)
    assert "of 2148 steps each are more than 2147483647" in outcome(lambda: make_schedule(config, 2148))


# Command lines.


def parser_of(script):
    return runpy.run_path(str(ROOT / script))["parse"]


def options_of(script):
    """Those that are not settings."""
    found = parser_of(script)([])
    command = found[0] if isinstance(found, tuple) else found
    return [f"--{name.replace('_', '-')}" for name in vars(command) if name not in ("run", "config")]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "convert.py"])
def test_every_option_takes_or_refuses_any_value_in_one_sentence(script):
    parse, options = parser_of(script), options_of(script)
    assert len(options) > 5
    for option in [*options, "", "--unknown"]:
        for value in EXTREMES:
            argument = f"{option}={value}" if option else value
            found = outcome(lambda argument=argument: parse([argument]))
            assert isinstance(found, Namespace | tuple | str)


@pytest.mark.parametrize("script", ["train.py", "convert.py"])
def test_no_option_and_no_path_may_be_empty(script):
    parse = parser_of(script)
    for option in options_of(script):
        assert option in outcome(lambda option=option: parse([f"{option}="]))
    assert "needs a name" in outcome(lambda: parse([""]))


@pytest.mark.parametrize("text", EXTREMES)
def test_integers_are_those_of_toml(text):
    try:
        found = str(integer(text))
    except ArgumentTypeError as error:
        found = str(error)
    assert is_plain(found)
    assert "is not an integer" in found or found == text.strip().replace("_", "")


@pytest.mark.parametrize(
    "error",
    [
        InputError("\x1b[31m\n" + "x" * 10**6),
        OSError(36, "File name too long", "\x1b" + "x" * 10**5),
        MemoryError(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_reaches_a_terminal_moves_no_cursor_and_floods_nothing(error, capsys):
    def fail():
        raise error

    assert run_script("script", fail) in (2, 130)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 2
    assert all(line.isprintable() and len(line) < 4000 for line in lines)


def test_an_option_without_a_value_takes_nothing_else(refused):
    assert "--network: it must not be empty" in refused("convert.py", "--network", "")
    assert "a directory needs a name" in refused("convert.py", "")
    assert "File name too long" in refused("convert.py", "x" * 5000)
    assert "unknown data set" in refused("train.py", "--data.name", "x" * 4000)
    assert "File name too long" in refused("train.py", "--data.name", "x" * 4000, "--data.directory", ".")
    assert "nested too deeply" in refused("train.py", "--data.mean", "[" * 5000 + "]" * 5000)
    assert "less than 8" in refused("train.py", "--data.crop_padding", "8")
    assert "less than 16" in refused("train.py", "--data.cutout", "16")


# Stored weights.


@pytest.fixture(scope="module")
def weights():
    """Sound ones of the default network, and their paths."""
    model = build("resnet10", num_classes=10, levels=8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        (np.nan, ("kernel", "threshold", "mean", "var", "bias")),
        (-np.inf, ("scale", "threshold", "var")),
        (0.0, ("threshold",)),
        (-1.0, ("threshold", "var")),
        (1e-45, ("threshold",)),
    ],
)
def test_weights_of_a_run_that_no_network_can_have_are_refused_by_name(value, kinds, weights, tmp_path):
    for kind in kinds:
        spoil = lambda path, leaf, kind=kind: np.full_like(leaf, value) if path[-1].key == kind else leaf
        directory = tmp_path / kind
        checkpoints.save(directory / "checkpoints" / "1", jax.tree_util.tree_map_with_path(spoil, weights), {})
        save_config(Config(), directory / "config.toml")
        with pytest.raises(InputError, match=f"/{kind}.*; train again or use another") as caught:
            load_run(directory)
        assert is_plain(str(caught.value))


# Numbers of passes.


@pytest.mark.slow
@pytest.mark.parametrize(("members", "probe_steps"), [(1, 4), (4, 4), (8, 3)])
def test_passes_end_where_they_change_nothing(members, probe_steps):
    currents = jnp.asarray(np.random.default_rng(members).normal(0.3, 0.6, (probe_steps, 500)), jnp.float32)
    after = lambda passes: gs.offset_spikes(probe_steps, passes).initial(gs.group_neuron(members), currents, 1.0)
    np.testing.assert_array_equal(after(10**6), after(members * probe_steps))
    assert (after(1) != after(2)).any() or members == 1


# Imports.

IMPORT_ALL = """
import importlib, logging, os, pkgutil, signal, sys, warnings
import jax, flax, optax, orbax.checkpoint, absl.logging, rich, sklearn, matplotlib

LACKING = {"resource", "fcntl", "termios", "pwd", "grp"}  # on Windows

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in LACKING:
            raise ModuleNotFoundError(name)

for name in LACKING:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Lacking())
for name in ("pthread_sigmask", "SIGKILL", "SIGHUP"):
    delattr(signal, name)
for name in ("sched_getaffinity", "sysconf", "fork"):
    delattr(os, name)

def state():
    loggers = {name: logging.getLogger(name) for name in logging.root.manager.loggerDict}
    logs = {name: (log.level, log.disabled, *log.filters, *log.handlers) for name, log in loggers.items()}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return logs, handlers, list(warnings.filters), dict(os.environ), sys.excepthook, sys.unraisablehook, sys.path[:]

before = state()
import gnsnn_jax
found = list(pkgutil.walk_packages(gnsnn_jax.__path__, "gnsnn_jax."))
for module in found:
    importlib.import_module(module.name)
for before, after in zip(before, state()):
    changed = {name for name in before if before[name] != after[name]} if isinstance(before, dict) else before != after
    assert not changed, changed
from gnsnn_jax.data.prepared_folders import allow_many_files
from gnsnn_jax.data.streaming import FOR_PARENT, _held_back, usable_cores
allow_many_files()
assert usable_cores() >= 1
with _held_back(FOR_PARENT):
    print(len(found))
"""


@pytest.mark.slow
def test_importing_changes_nothing_and_takes_no_module_that_one_platform_lacks():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_our_own_writing_silences_nobody_else(tmp_path, caplog):
    hooks, log = (sys.excepthook, sys.unraisablehook), logging.getLogger("absl")
    before = log.level, list(log.filters)
    with checkpoints.Checkpoints(tmp_path / "state") as states:
        states.save(1, {"a": np.zeros(2)}, {})
        log.warning("of a user")
        states.wait()
    assert [record.getMessage() for record in caplog.records if record.name == "absl"] == ["of a user"]
    assert (sys.excepthook, sys.unraisablehook) == hooks
    assert (log.level, log.filters) == before
