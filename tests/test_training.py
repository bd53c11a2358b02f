import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gnsnn_jax as gs
from gnsnn_jax.runtime.config import Config, Optimizer, load_config, save_config, settings
from gnsnn_jax.training import loop

pytestmark = pytest.mark.slow


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
        ("[optimizer]\nname = 'adam'", "optimizer.name: input should be 'sgd' or 'adamw', got 'adam'"),
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


# Networks.


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


# Optimizers.


def moved_by(optimizer, params, gradients):
    """The parameters after a step on each of the gradients; AdamW promotes types within."""
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            updates, state = optimizer.update(jax.tree.map(lambda _, g=gradient: jnp.asarray(g), params), state, params)
            params = optax.apply_updates(params, updates)
    return params


def test_adamw_is_that_of_its_paper_and_decays_weights_alone():
    settings = Optimizer(name="adamw", momentum=0.8, second_momentum=0.95, weight_decay=0.25)
    names = {"dense": "kernel", "embedding": "embedding", "bias": "bias", "norm": "scale", "act": "threshold"}
    params = {layer: {name: jnp.asarray(2.0)} for layer, name in names.items()} | {"positions": jnp.asarray(2.0)}
    gradients, rate = [0.5, -0.25, 1.0], 0.1
    optimizer = loop.make_optimizer(Config(optimizer=settings), optax.constant_schedule(rate))
    found = moved_by(optimizer, params, gradients)

    def expected(decay):
        value, mean, square = 2.0, 0.0, 0.0
        for step, gradient in enumerate(gradients, start=1):
            mean = 0.8 * mean + 0.2 * gradient
            square = 0.95 * square + 0.05 * gradient**2
            root = np.sqrt(square / (1 - 0.95**step)) + 1e-8
            value -= rate * (mean / (1 - 0.8**step) / root + decay * value)
        return value

    for layer in ("dense", "embedding"):
        np.testing.assert_allclose(found[layer][names[layer]], expected(0.25), rtol=1e-5)
    for value in (found["bias"]["bias"], found["norm"]["scale"], found["act"]["threshold"], found["positions"]):
        np.testing.assert_allclose(value, expected(0.0), rtol=1e-5)


def test_adamw_keeps_thresholds_positive_and_cuts_gradients():
    settings = Optimizer(name="adamw", learning_rate=10.0, gradient_norm=1.0)
    optimizer = loop.make_optimizer(Config(optimizer=settings), optax.constant_schedule(10.0))
    found = moved_by(optimizer, {"threshold": jnp.asarray(1.0)}, [5.0])
    np.testing.assert_allclose(found["threshold"], loop.SMALLEST_THRESHOLD, rtol=1e-3)


def test_the_state_of_sgd_has_the_names_that_earlier_runs_stored():
    state = loop.make_optimizer(Config(), optax.constant_schedule(0.1)).init({"kernel": jnp.zeros(2)})
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(state)]
    assert names == ["2.0.trace.kernel", "2.1.count"]


def test_the_weights_of_a_transformer_decay_and_nothing_else_does():
    model = gs.build("vit_digits", num_classes=10, levels=4, pool="token", positions="learned", activation="qcfs")
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    decayed = jax.tree.leaves_with_path(loop.decayed_by_adamw(params))
    assert {path[-1].key for path, decays in decayed if decays} == {"kernel"}
    left = {path[-1].key for path, decays in decayed if not decays}
    assert left == {"bias", "scale", "positions", "class_token", "threshold"}
