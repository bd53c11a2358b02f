import pytest

import gnsnn_jax as gs
from gnsnn_jax.runtime.config import load_config, save_config, settings

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
