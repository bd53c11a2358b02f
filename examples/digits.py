"""What the examples share: the digits of scikit-learn, a loop over batches, and what becomes of a network without
retraining."""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gnsnn_jax as gs

BATCH_SIZE, MEMBERS = 64, 16
NEURONS = {"IF": (gs.integrate_and_fire(), "balance"), f"GN, m = {MEMBERS}": (gs.group_neuron(MEMBERS), "mse")}
STEPS = (1, 2, 4, 8, 16, 32)


def epochs_from_command_line(description, default):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=default, help=f"passes over the training samples ({default})")
    return parser.parse_args().epochs


def load():
    """Images [N, 8, 8, 1], normalised, and labels [N]: training and test samples."""
    images, labels = load_digits(return_X_y=True)
    images = ((images - images.mean()) / images.std()).astype(np.float32).reshape(-1, 8, 8, 1)
    train, test, *labels = train_test_split(images, labels.astype(np.int32), random_state=0, stratify=labels)
    return (jnp.asarray(train), jnp.asarray(labels[0])), (jnp.asarray(test), jnp.asarray(labels[1]))


def batches(samples, epochs, seed=0):
    """Full batches of images, each moved by up to a pixel, and labels."""
    images, labels = map(np.asarray, samples)
    random = np.random.default_rng(seed)
    for _ in range(epochs):
        order = random.permutation(len(labels))
        for start in range(0, len(labels) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            yield np.roll(images[batch], random.integers(-1, 2, 2), (1, 2)), labels[batch]


def make_optimizer(samples, epochs, learning_rate=0.1):
    """SGD with momentum and weight decay, a cosine to 0."""
    steps = epochs * (len(samples[1]) // BATCH_SIZE)
    rate = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9))


def cross_entropy(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def unaugmented(samples):
    """The training images as thresholds should see them."""
    images, _ = samples
    return [images[start : start + 256] for start in range(0, len(images) - 255, 256)]


def report(apply, variables, train, test, channel_axis=-1):
    """Prints the test accuracy of the network, and of its conversions with thresholds by channel."""
    images, labels = test
    find = partial(gs.find_thresholds, apply, variables=variables, per_channel=True, channel_axis=channel_axis)
    right = jax.jit(apply)(variables, images).argmax(-1) == labels
    print(f"ANN {100 * right.mean():.2f} %")
    print("T".ljust(12), *(f"{t:6}" for t in STEPS))
    for name, (neuron, method) in NEURONS.items():
        thresholds = find(unaugmented(train), MEMBERS, method=method)
        snn = jax.jit(gs.to_spiking(apply, neuron, steps=STEPS[-1], thresholds=thresholds))
        accuracy = gs.accuracy_over_time(snn(variables, images), labels)
        print(name.ljust(12), *(f"{100 * accuracy[t - 1]:6.2f}" for t in STEPS))
