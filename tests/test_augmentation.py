"""Augmentation against Pillow, its distribution and its independence."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

import gnsnn_jax as gs
from gnsnn_jax.data import augmentation
from gnsnn_jax.data.augmentation import (
    CIFAR10_POLICY,
    OPERATIONS,
    apply,
    augment,
    auto_augment_cifar10,
    colour_jitter,
    cutout,
    flip,
    random_crop,
)
from gnsnn_jax.data.sets import Split, Statistics, load_dataset, normalise, statistics
from gnsnn_jax.runtime.config import Config, Data
from gnsnn_jax.training.loop import check_experiment

KEY = jax.random.key(0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def same_image(count, *shape):
    return jnp.asarray(np.broadcast_to(noise(*shape), (count, *shape)))


# Crops, flips, holes.


def test_crops_are_windows_of_the_padded_image():
    images = jnp.arange(1.0, 1 + 40 * 16).reshape(40, 4, 4, 1)
    cropped = random_crop(images, KEY, 1)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.stack([padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)])
    matches = (windows == np.asarray(cropped)).all((2, 3, 4))
    assert matches.any(0).all()
    assert matches.any(1).all()  # every corner


def test_flips_mirror_half_of_the_images():
    images = jnp.asarray(noise(400, 4, 4, 1))
    flipped = flip(images, KEY)
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert 150 < mirrored.sum() < 250
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])


@pytest.mark.parametrize(("size", "channels"), [(4, 3), (3, 1), (20, 1)])
def test_cutout_hides_a_square_about_any_pixel(size, channels):
    height, width = 7, 9
    found = np.asarray(cutout(jnp.ones((2000, height, width, channels)), KEY, size))
    assert (found == found[..., :1]).all()
    expected = set()
    for centre in itertools.product(range(height), range(width)):
        rows, columns = (slice(max(0, at - size // 2), max(0, at - size // 2 + size)) for at in centre)
        image = np.ones((height, width), np.float32)
        image[rows, columns] = 0
        expected.add(image.tobytes())
    assert {image.tobytes() for image in np.ascontiguousarray(found[..., 0])} == expected


# AutoAugment.


def affine(image, matrix):
    fill = 128 if image.mode == "L" else (128, 128, 128)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


PILLOW = {
    "ShearX": lambda image, v: affine(image, (1, v, 0, 0, 1, 0)),
    "ShearY": lambda image, v: affine(image, (1, 0, 0, v, 1, 0)),
    "TranslateX": lambda image, v: affine(image, (1, 0, v * image.size[0], 0, 1, 0)),
    "TranslateY": lambda image, v: affine(image, (1, 0, 0, 0, 1, v * image.size[1])),
    "Rotate": lambda image, v: image.rotate(v, fillcolor=128 if image.mode == "L" else (128, 128, 128)),
    "Invert": lambda image, v: ImageOps.invert(image),
    "Solarize": ImageOps.solarize,
    "Posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "AutoContrast": lambda image, v: ImageOps.autocontrast(image),
    "Equalize": lambda image, v: ImageOps.equalize(image),
    "Contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "Color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "Brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "Sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
}


def with_pillow(image, *steps):
    """`steps`: pairs of name and value."""
    found = Image.fromarray(np.asarray(image).squeeze(-1) if image.shape[-1] == 1 else np.asarray(image))
    for name, value in steps:
        found = PILLOW[name](found, value)
    return np.asarray(found).reshape(image.shape)


def examples(*shape):
    """Noise, noise of few and of dark levels, a slope and one level alone."""
    slope = np.broadcast_to(np.linspace(30, 200, shape[0], dtype=np.uint8)[:, None, None], shape)
    return np.stack([noise(*shape), noise(*shape) // 40 * 10 + 3, noise(*shape) // 9, slope, np.full_like(slope, 77)])


# Grey levels away from Pillow, and the share of pixels. The compiler may round a blend once where
# Pillow rounds its product and its sum; Pillow stretches in double precision, which can fall just
# below a level that the division of integers meets: on a few pixels of few levels this is common.
CLOSE = {"Contrast": (1, 0.01), "Color": (1, 0.01), "Sharpness": (1, 0.01), "AutoContrast": (1, 0.1)}

apply_all = jax.jit(jax.vmap(jax.vmap(apply, (0, None)), (None, 0)))


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (40, 24, 3), (2, 5, 3)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pillow(name, shape):
    images, values = examples(*shape), np.unique(OPERATIONS[name].values)
    values = np.resize(values, 19)  # one shape for all, so that one compilation serves
    operations = [OPERATIONS[name].at(value, *shape[:2]) for value in values]
    found = apply_all(images, jax.tree.map(lambda *leaves: np.stack(leaves), *operations))
    expected = np.stack([[with_pillow(image, (name, value)) for image in images] for value in values])
    away = np.abs(np.asarray(found).astype(int) - expected.astype(int))
    away_at_most, share = CLOSE.get(name, (0, 0))
    assert away.max() <= away_at_most
    assert (away > 0).mean() <= share


def test_magnitudes_span_the_published_ranges():
    ends = {name: kind.values[[0, 9]].tolist() for name, kind in OPERATIONS.items()}
    share = 150 / 331
    geometric = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": share, "TranslateY": share, "Rotate": 30}
    for name, largest in geometric.items():
        np.testing.assert_allclose(ends[name], [[0, 0], [largest, -largest]])
    for name in ("Contrast", "Color", "Brightness", "Sharpness"):
        np.testing.assert_allclose(ends[name], [[1, 1], [1.9, 0.1]])
    assert ends["Solarize"] == [[256, 256], [0, 0]]
    assert OPERATIONS["Posterize"].values[:, 0].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]


def test_the_policy_is_the_published_one():
    """Times that each operation stands in the table, and the sums of its probabilities and magnitudes."""
    found = collections.defaultdict(lambda: np.zeros(3))
    for name, probability, magnitude in itertools.chain(*CIFAR10_POLICY):
        found[name] += 1, probability, magnitude
    assert {name: tuple(total.round(1).tolist()) for name, total in found.items()} == {
        "Invert": (3, 0.2, 13),
        "Contrast": (2, 0.8, 13),
        "Rotate": (1, 0.7, 2),
        "TranslateX": (2, 0.8, 17),
        "Sharpness": (5, 2.8, 24),
        "ShearY": (2, 0.7, 15),
        "TranslateY": (5, 3.4, 39),
        "AutoContrast": (7, 5.0, 26),
        "Equalize": (9, 4.7, 41),
        "Posterize": (1, 0.3, 7),
        "Color": (5, 2.9, 27),
        "Brightness": (4, 2.3, 25),
        "Solarize": (4, 1.9, 18),
    }


def outcomes_of_policy(image):
    """Every image that the policy can make of this one with Pillow's operations, and its probability."""
    found = collections.Counter()
    for pair in CIFAR10_POLICY:
        choices = [
            [((), 1 - probability), *((((name, v),), probability / 2) for v in OPERATIONS[name].values[magnitude])]
            for name, probability, magnitude in pair
        ]
        for (first, p), (second, q) in itertools.product(*choices):
            found[with_pillow(image, *first, *second).tobytes()] += p * q / len(CIFAR10_POLICY)
    images, probabilities = zip(*found.items(), strict=True)
    return np.stack([np.frombuffer(i, np.uint8).reshape(image.shape) for i in images]), np.asarray(probabilities)


def test_the_policy_makes_each_image_as_often_as_it_should():
    count, image = 10000, noise(20, 20, 3)
    possible, probabilities = outcomes_of_policy(image)
    many = np.asarray(jax.jit(auto_augment_cifar10)(same_image(count, 20, 20, 3), KEY))
    found, times = np.unique(many.reshape(count, -1), axis=0, return_counts=True)
    distance = np.abs(found[:, None].astype(np.int16) - possible.reshape(len(possible), -1)).mean(-1)
    assert distance.min(1).max() < 0.1  # a few pixels are a grey level away from Pillow
    counted = np.zeros(len(possible))
    np.add.at(counted, distance.argmin(1), times)
    deviation = np.sqrt(count * probabilities * (1 - probabilities))
    assert (np.abs(counted - count * probabilities) <= 4.5 * deviation).all()


def test_auto_augment_follows_from_the_key_and_treats_images_alone():
    images, function = same_image(64, 8, 8, 3), jax.jit(auto_augment_cifar10)
    found = function(images, KEY)
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, function(images, KEY))
    assert (found != function(images, jax.random.key(1))).any()
    assert len(np.unique(found.reshape(64, -1), axis=0)) > 15
    np.testing.assert_array_equal(function(images.at[0].set(0), KEY)[1:], found[1:])


@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 24, 3)])
def test_auto_augment_takes_images_of_any_size_gray_or_in_colour(shape):
    images = jnp.asarray(noise(30, *shape))
    found = jax.jit(auto_augment_cifar10)(images, KEY)
    assert found.shape == images.shape
    assert 10 < (found != images).any((1, 2, 3)).sum() < 30


# Colours.

with_jitter = jax.jit(jax.vmap(augmentation._jitter))
ORDERS = list(itertools.permutations(range(3)))
FACTORS = np.random.default_rng(0).uniform(0.5, 1.5, (6, 3)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_of_levels_is_that_of_pillow(channels):
    images = np.stack([noise(8, 8, channels, seed=i) for i in range(6)])
    found = with_jitter(images, FACTORS, np.asarray(ORDERS))
    names = ("Brightness", "Contrast", "Color")
    for image, factors, order, mine in zip(images, FACTORS, ORDERS, found, strict=True):
        expected = with_pillow(image, *((names[kind], float(factors[kind])) for kind in order))
        # Pillow rounds the greys, and later factors enlarge what that makes.
        assert np.abs(expected.astype(int) - np.asarray(mine)).max() <= 3


def test_jitter_of_floats_blends_and_does_not_cut():
    images = np.random.default_rng(0).normal(size=(6, 5, 5, 3)).astype(np.float32)
    for image, factors, order, mine in zip(
        images, FACTORS, ORDERS, with_jitter(images, FACTORS, np.asarray(ORDERS)), strict=True
    ):
        for kind in order:
            grey = image @ np.asarray([0.299, 0.587, 0.114], np.float32)
            partner = (0, grey.mean(), grey[..., None])[kind]
            image = factors[kind] * image + (1 - factors[kind]) * partner
        np.testing.assert_allclose(mine, image, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_jitter_stays_within_its_strength_and_differs_between_images(dtype):
    images = jnp.full((500, 2, 2, 1), 100, dtype)  # contrast and saturation leave a gray image of one level
    found = np.asarray(colour_jitter(images, KEY, 0.2)).astype(np.float32)
    assert 79 <= found.min() < 82
    assert 118 < found.max() <= 120.001
    assert len(np.unique(found)) > 35
    assert found.mean() == pytest.approx(100, abs=2)
    assert colour_jitter(images, KEY, 3.0).min() >= 0
    assert colour_jitter(images, KEY, 0.2).dtype == dtype


def test_orders_of_the_colours_vary():
    """Brightness, cut to 255, and contrast do not commute: each order of equal factors leaves its own image."""
    image = noise(6, 6, 3)
    orders = jnp.asarray(ORDERS)
    factors = jnp.broadcast_to(jnp.asarray([1.4, 1.5, 1.3]), (6, 3))
    assert len(np.unique(with_jitter(jnp.stack([image] * 6), factors, orders).reshape(6, -1), axis=0)) == 6


def test_each_image_has_an_order_of_its_own(monkeypatch):
    show = lambda image, factors, order: jnp.broadcast_to(order[None, None].astype(image.dtype), image.shape)
    monkeypatch.setattr(augmentation, "_jitter", show)
    orders = np.asarray(colour_jitter(jnp.zeros((600, 1, 1, 3), jnp.uint8), KEY, 0.1)).reshape(600, 3)
    found, times = np.unique(orders, axis=0, return_counts=True)
    assert found.tolist() == [list(order) for order in ORDERS]
    assert times.min() > 60


# All of it.

COLOUR = Statistics((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))


def test_without_settings_images_are_normalised_alone():
    images = jnp.asarray(noise(4, 6, 6, 3))
    np.testing.assert_array_equal(augment(images, COLOUR, KEY, Data()), normalise(images, COLOUR))


def test_crops_add_black_and_cutout_the_mean():
    images = jnp.full((50, 6, 6, 3), 255, jnp.uint8)
    black, white = (
        np.asarray(normalise(jnp.full((1, 1, 1, 3), level, jnp.uint8), COLOUR)).ravel() for level in (0, 255)
    )
    values = lambda settings: np.unique(augment(images, COLOUR, KEY, settings).reshape(-1, 3), axis=0)
    np.testing.assert_array_equal(values(Data(crop_padding=2)), [black, white])
    np.testing.assert_array_equal(values(Data(cutout=3)), [[0, 0, 0], white])


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint8, 16), (np.float32, 1)])
def test_augmentation_takes_images_as_they_were_stored(dtype, largest):
    images = (np.random.default_rng(0).random((20, 8, 8, 1)) * largest).astype(dtype)
    settings = Data(crop_padding=1, flip=True, colour_jitter=0.2, cutout=2, auto_augment=largest == 255)
    to = statistics(images)
    whole = jax.jit(lambda images, key: augment(images, to, key, settings))
    found = whole(jnp.asarray(images), KEY)
    assert found.dtype == jnp.float32
    assert found.shape == images.shape
    assert np.isfinite(found).all()
    assert (found != whole(jnp.asarray(images), jax.random.key(1))).any()


def test_each_operation_has_a_key_of_its_own():
    images = jnp.asarray(noise(50, 6, 6, 3))
    flipped = augment(images, COLOUR, KEY, Data(flip=True))
    both = augment(images, COLOUR, KEY, Data(flip=True, cutout=2))
    np.testing.assert_array_equal(both, jnp.where(both == 0, 0, flipped))


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (jnp.ones((2, 4, 4, 3)), Data(auto_augment=True), r"auto_augment needs images in uint8 .*, got float32"),
        (jnp.ones((2, 4, 4, 2), jnp.uint8), Data(auto_augment=True), r"auto_augment takes images of 1 or 3 channels"),
        (jnp.ones((2, 4, 4, 2), jnp.uint8), Data(colour_jitter=0.1), r"colour_jitter takes images of 1 or 3 channels"),
        (
            jnp.ones((2, 4, 4, 3), jnp.int32),
            Data(colour_jitter=0.1),
            r"colour_jitter takes images in uint8 or floating",
        ),
    ],
)
def test_images_that_an_operation_cannot_take_are_refused(images, settings, message):
    with pytest.raises(gs.InputError, match=message):
        jax.eval_shape(lambda images: augment(images, COLOUR, KEY, settings), images)


def test_images_are_refused_before_training_starts():
    dataset = load_dataset(Data(), 0)
    floats = Split(dataset.train.images.astype(np.float32), dataset.train.labels)
    config = Config(data=Data(auto_augment=True))
    check_experiment(config, dataset)
    with pytest.raises(gs.InputError, match="auto_augment needs images in uint8"):
        check_experiment(config, dataset._replace(train=floats))


def test_resized_crops_are_parts_at_full_size():
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None, None] * 6, (200, 40, 40, 3))
    found = np.asarray(augmentation.resized_crop(jnp.asarray(ramp), jax.random.key(0)))
    assert found.shape == ramp.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, found[:, :, :1, :1] + np.zeros_like(ramp))  # rows stay rows
    rows = found[:, :, 0, 0].astype(int)
    assert (np.diff(rows, axis=1) >= 0).all()
    shares = (rows[:, -1] - rows[:, 0]) / 234  # of the height that is seen
    assert shares.min() < 0.4
    assert shares.max() > 0.95
    assert len(np.unique(rows[:, 0])) > 20


def test_a_resized_crop_of_everything_changes_nothing(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, minval=0.0, maxval=1.0: jnp.full(shape, maxval) * 1.0)
    monkeypatch.setattr(augmentation.math, "log", lambda _: 0.0)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 9, 9, 1)), jnp.uint8)
    np.testing.assert_array_equal(augmentation.resized_crop(images, jax.random.key(0)), images)
