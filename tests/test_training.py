import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.training.config import Data, load_config, save_config, settings
from gnsnn_jax.training.data import check_finite, load_dataset, normalise, statistics


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


# Data.


def test_splits_follow_from_the_seed_and_share_no_sample():
    one, same, other = (load_dataset(Data(), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.test.images, same.test.images)
    assert (one.test.images != other.test.images).any()
    assert sum(len(split.labels) for split in (one.train, one.validation, one.test)) == 1797
    assert (one.num_classes, one.image_shape) == (10, (8, 8, 1))
    shares = [np.bincount(split.labels) / len(split.labels) for split in (one.train, one.validation, one.test)]
    np.testing.assert_allclose(shares[1:], [shares[0]] * 2, atol=0.01)


def test_normalised_images_have_mean_0_and_deviation_1():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    found = normalise(jnp.asarray(images), statistics(images))
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), 1, atol=1e-5)
    constant = np.full((2, 2, 2, 1), 7, np.uint8)
    np.testing.assert_array_equal(normalise(jnp.asarray(constant), statistics(constant)), 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data(name="digit"), "unknown data set 'digit': built in are digits; did you mean 'digits'.*names no place"),
        (Data(test_fraction=0.001), r"data\.test_fraction = 0\.001 cannot split 1797 samples"),
    ],
)
def test_data_that_cannot_be_had_is_explained(data, message):
    with pytest.raises(gs.InputError, match=message):
        load_dataset(data, 0)


def arrays_of(count=40, classes=4, side=5):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return {"images": images, "labels": np.arange(count) % classes}


def test_data_sets_of_the_users_own_come_from_npz_files(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays_of())
    dataset = load_dataset(Data(name="mine", directory=str(tmp_path), image_size=8), 0)
    assert (dataset.num_classes, dataset.image_shape, len(dataset.test.labels)) == (4, (8, 8, 3), 10)
    own = arrays_of(12)
    np.savez(tmp_path / "mine.npz", **arrays_of(), test_images=own["images"], test_labels=own["labels"])
    dataset = load_dataset(Data(name="mine", directory=str(tmp_path)), 0)
    np.testing.assert_array_equal(dataset.test.images, own["images"])
    assert len(dataset.train.labels) + len(dataset.validation.labels) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "holds images, but images and labels are wanted"),
        ({"labels": np.arange(3)}, r"must be \[N, H, W, C\] in uint8 .* got uint8\[40, 5, 5, 3\] and int64\[3\]"),
        ({"labels": np.zeros(40)}, "integers from 0, got .* float64"),
        ({"images": np.full((40, 5, 5, 3), np.nan)}, "NaN or infinite"),
        ({"images": np.zeros((40, 5, 5), np.uint8)}, r"must be \[N, H, W, C\]"),
    ],
)
def test_npz_files_of_another_form_are_refused(change, message, tmp_path):
    arrays = {name: array for name, array in (arrays_of() | change).items() if array is not None}
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(gs.InputError, match=message):
        load_dataset(Data(name="mine", directory=str(tmp_path)), 0)


def test_npz_files_that_are_missing_or_damaged_are_refused(tmp_path):
    with pytest.raises(gs.InputError, match=r"there is no .*mine\.npz"):
        load_dataset(Data(name="mine", directory=str(tmp_path)), 0)
    (tmp_path / "mine.npz").write_bytes(b"PK nonsense")
    with pytest.raises(gs.InputError, match=r"mine\.npz cannot be read"):
        load_dataset(Data(name="mine", directory=str(tmp_path)), 0)


def test_images_with_nan_are_refused():
    with pytest.raises(gs.InputError, match="the images hold 2 values that are NaN or infinite"):
        check_finite(np.asarray([1.0, np.nan, np.inf]), "the images")


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
