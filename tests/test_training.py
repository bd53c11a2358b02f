import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gnsnn_jax as gs
from gnsnn_jax.training import checkpoints, loop
from gnsnn_jax.training.config import Config, Data, Model, load_config, save_config, settings
from gnsnn_jax.training.data import Split, load_dataset
from gnsnn_jax.training.network import network_of
from gnsnn_jax.training.runs import check_numbers, set_aside


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "experiment.toml"
        path.write_text(text)
        return path

    return write


# Configuration.


def test_settings_come_from_the_file_and_the_command_line(toml):
    path = toml("[model]\nlevels = 4\n[optimizer]\nlearning_rate = 1\n")
    config = load_config(path, {"training.epochs": "3", "data.flip": "true", "model.name": "resnet20"})
    assert (config.model.levels, config.model.name, config.training.epochs, config.data.flip) == (
        4,
        "resnet20",
        3,
        True,
    )
    assert config.optimizer.learning_rate == 1.0
    assert hash(config) == hash(
        load_config(path, {"training.epochs": "3", "data.flip": "true", "model.name": "resnet20"})
    )


def test_a_saved_configuration_reads_back(tmp_path):
    config = load_config("configs/digits.toml")
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


def test_every_setting_is_explained():
    for name, kind, text in settings():
        assert text, name
        assert kind in (str, int, float, bool, tuple[float, ...])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[model]\nlevls = 4",
            "unknown setting model.levls, known there are name, levels, .*; did you mean 'levels'",
        ),
        ("[modl]\nlevels = 4", "unknown setting modl, known there are data, model, optimizer, training"),
        ("levels = 4", "unknown setting levels"),
        ("[model]\nlevels = 0", "model.levels: input should be greater than or equal to 1, got 0"),
        ("[model]\nlevels = 4.5", "model.levels: input should be a valid integer, got 4.5"),
        ("[model]\nlevels = '4'", "model.levels: input should be a valid integer, got '4'"),
        ("[optimizer]\nlearning_rate = nan", "optimizer.learning_rate: input should be a finite number"),
        ("[training]\nepochs = 0\nbatch_size = -1", "training.epochs: .*; training.batch_size: "),
        ("model = 3", "model: input should be"),
        ("[model\nlevels = 4", "is not valid TOML"),
    ],
)
def test_mistakes_in_a_configuration_are_named(toml, text, message):
    with pytest.raises(gs.InputError, match=message):
        load_config(toml(text))


def test_a_missing_configuration_is_named():
    with pytest.raises(gs.InputError, match=r"cannot read the configuration nowhere\.toml: No such file"):
        load_config("nowhere.toml")


def test_a_setting_inside_a_value_is_refused(toml):
    with pytest.raises(gs.InputError, match="model is a value"):
        load_config(toml("model = 3"), {"model.levels": "4"})


# The loop.


@pytest.fixture
def small():
    dataset = load_dataset(Data(), 0)
    few = Split(dataset.train.images[:40], dataset.train.labels[:40])
    return dataset._replace(train=few, validation=few)


def config_of(**training):
    return Config(training=Config().training.__class__(epochs=2, batch_size=16, **training))


def test_training_is_decided_by_its_seed(small):
    last = lambda seed: list(loop.train(config_of(seed=seed), small))[-1].variables
    one, same, other = last(0), last(0), last(1)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), one, other)))


def test_decay_is_added_to_the_gradient_before_the_momentum_thresholds_included():
    config = Config()
    rate, momentum, decay = 0.1, config.optimizer.momentum, config.optimizer.weight_decay
    params = {"layer": {"kernel": jnp.asarray(2.0)}, "act": {"threshold": jnp.asarray(3.0)}}
    gradient = jax.tree.map(lambda _: jnp.asarray(0.5), params)
    optimizer = loop.make_optimizer(config, optax.constant_schedule(rate))
    state, expected, velocity = optimizer.init(params), params, jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        velocity = jax.tree.map(lambda v, g, p: momentum * v + g + decay * p, velocity, gradient, expected)
        expected = jax.tree.map(lambda p, v: p - rate * v, expected, velocity)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)


def test_thresholds_stay_positive():
    keep = loop.keep_thresholds_positive(1e-3)
    params = {"kernel": jnp.asarray(1.0), "threshold": jnp.asarray(1.0)}
    updates, _ = keep.update(jax.tree.map(lambda p: -5.0 * p, params), keep.init(params), params)
    moved = optax.apply_updates(params, updates)
    assert moved["kernel"] == -4
    np.testing.assert_allclose(moved["threshold"], 1e-3, rtol=1e-4)


def test_an_epoch_visits_samples_once_in_an_order_of_its_own():
    epochs = [np.concatenate(list(loop.batches_of_epoch(50, 8, 0, epoch))) for epoch in (1, 2)]
    assert all(len(np.unique(order)) == len(order) == 48 for order in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_evaluation_counts_the_last_partial_batch(small):
    network = network_of(Model(), 10)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    whole = loop.evaluate(network, variables, small.train, small.statistics, batch_size=40)
    parts = loop.evaluate(network, variables, small.train, small.statistics, batch_size=17)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_a_batch_larger_than_the_split_is_refused(small):
    config = Config(training=Config().training.__class__(batch_size=41))
    with pytest.raises(gs.InputError, match=r"training\.batch_size = 41 is more than the 40 training samples"):
        next(loop.train(config, small))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet21"}, "unknown model 'resnet21'; .*did you mean 'resnet20'"),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"threshold": -1.0}, "threshold must be positive"),
    ],
)
def test_models_that_cannot_be_built_are_explained(options, message):
    with pytest.raises(gs.InputError, match=message):
        gs.build(**{"name": "resnet20", "num_classes": 10, "levels": 4} | options)


# Checkpoints and run directories.


def test_checkpoints_read_back(tmp_path):
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.asarray(2.5)}
    checkpoints.save(tmp_path / "one", arrays, {"epoch": 3})
    found, about = checkpoints.load(tmp_path / "one")
    jax.tree.map(np.testing.assert_array_equal, found, arrays)
    assert about == {"epoch": 3}


def test_damage_to_any_file_of_a_checkpoint_is_noticed(tmp_path):
    arrays = {"kernel": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}
    checkpoints.save(tmp_path / "good", arrays, {"epoch": 3})
    files = [path for path in (tmp_path / "good").rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        flipped = bytearray(content)
        if content:
            flipped[len(content) // 2] ^= 0xFF
        for damaged in (content[: len(content) // 2], bytes(flipped), None):
            if damaged == content:
                continue  # an empty file stays one
            path.write_bytes(damaged) if damaged is not None else path.unlink()
            with pytest.raises(gs.InputError, match="is damaged in"):
                checkpoints.load(tmp_path / "good")
            path.write_bytes(content)


def test_numbers_that_are_nan_are_named():
    with pytest.raises(gs.InputError, match="the checkpoint holds NaN or infinity in params/kernel"):
        check_numbers({"params": {"kernel": np.asarray([np.nan]), "bias": np.zeros(1)}}, "the checkpoint")


def test_files_are_set_aside_under_new_numbers(tmp_path):
    for content in ("1", "2"):
        (tmp_path / "report.json").write_text(content)
        set_aside(tmp_path, ("report.json", "accuracy.png"))
    assert [(tmp_path / f"previous-{n}" / "report.json").read_text() for n in (1, 2)] == ["1", "2"]
    assert set_aside(tmp_path, ("report.json",)) is None
