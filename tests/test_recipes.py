"""The recipes of the papers: each parses, builds and takes a training step on stand-ins for its data."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from gnsnn_jax.data.sets import Dataset, Split, statistics
from gnsnn_jax.runtime.config import load_config
from gnsnn_jax.training import loop

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = sorted(path for path in CONFIGS.glob("*.toml") if not path.stem.startswith("digits"))
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000}
PUBLISHED = {
    "cifar10_vgg16": (4, 0.1, 300, 5e-4),
    "cifar10_resnet18": (4, 0.1, 300, 5e-4),
    "cifar10_resnet20": (4, 0.1, 300, 5e-4),
    "cifar100_vgg16": (4, 0.02, 300, 5e-4),
    "cifar100_resnet18": (4, 0.02, 300, 5e-4),
    "cifar100_resnet20": (4, 0.05, 300, 5e-4),
    "imagenet_vgg16": (16, 0.1, 120, 1e-4),
    "imagenet_resnet34": (8, 0.1, 120, 1e-4),
}
# A step is taken once here and no number is compared, so the optimisation of its code does not pay.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def stand_in(name, side):
    """Random images of the shape and the classes of a data set."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    split = Split(images, random.integers(0, CLASSES[name], 4).astype(np.int32))
    return Dataset(name, CLASSES[name], split, split, split, statistics(images))


def test_every_published_recipe_is_there_with_its_numbers():
    found = {}
    for path in RECIPES:
        config = load_config(path)
        rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
        found[path.stem] = (config.model.levels, rate, config.training.epochs, decay)
    assert found == PUBLISHED


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_say_whose_they_are_and_that_they_have_not_been_run(path):
    head = re.match(r"(#.*\n)+", path.read_text()).group()
    assert "arXiv" in head
    assert "NOT RUN" in head


def with_stand_in(path):
    """The recipe with a batch of two, and its data, ImageNet's images at a sixteenth of their pixels."""
    config = load_config(path)
    config = replace(config, training=replace(config.training, batch_size=2))
    return config, stand_in(config.data.name, 32 if config.data.name.startswith("cifar") else 64)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_fit_their_data(path):
    loop.check_experiment(*with_stand_in(path))


# Compiling the step of a wide network takes long, and CIFAR-100 changes its number of classes alone.
@pytest.mark.parametrize("path", [path for path in RECIPES if "cifar100" not in path.stem], ids=lambda path: path.stem)
def test_recipes_take_a_training_step(path):
    config, dataset = with_stand_in(path)
    plan = loop.make_plan(config, dataset)
    images, labels = (array[None, [0, 3]] for array in dataset.train)
    with jax.default_prng_impl("rbg"):  # whose code is shorter
        state = loop.initial_state(plan)
        before = jax.tree.map(np.asarray, state.params)
        step = jax.jit(partial(loop.train_step, plan), compiler_options=QUICKLY)
        state = step(state, images, labels)
    metrics = state.metrics
    assert np.isfinite(metrics.loss)
    assert metrics.count == 2
    for old, new in zip(jax.tree.leaves(before), map(np.asarray, jax.tree.leaves(state.params)), strict=True):
        assert np.isfinite(new).all()
        assert (old != new).any()
