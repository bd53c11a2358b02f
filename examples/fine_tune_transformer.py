"""Fine-tunes a converted vision transformer through time: group neurons of four members learn to answer at T = 1.

The transformer of the digits is trained, and converted without retraining: signed neurons stand in front of its
weights and of both operands of attention. Four members tell nine values apart, too few for so many layers; so weights
and thresholds go on learning as spiking ones, by the surrogate gradient of their spikes.
"""

import jax
import jax.numpy as jnp
import optax
from digits import BATCH_SIZE, cross_entropy, epochs_from_command_line, load, unaugmented

import gnsnn_jax as gs

NETWORK = gs.build("vit_digits", num_classes=10, levels=16, dropout_rate=0.1)
NEURON = gs.group_neuron(4)
STEPS = (1, 2, 4)
LEARNING_RATE, WEIGHT_DECAY, FINE_RATE = 2e-3, 0.05, 5e-4
TUNING = 3  # epochs of training for one of fine-tuning


def moved(images, key):
    """Each image moved by up to a pixel."""
    padded = jnp.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    starts = jax.random.randint(key, (len(images), 2), 0, 3)
    return jax.vmap(lambda image, start: jax.lax.dynamic_slice(image, (*start, 0), images.shape[1:]))(padded, starts)


def descend(loss, trained, samples, epochs, rate, weight_decay=0.0):
    """What is trained after so many epochs of AdamW; `loss` takes it, images, labels and a random key."""
    images, labels = samples
    per_epoch = len(labels) // BATCH_SIZE
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, per_epoch, per_epoch * (1 + epochs))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay))

    def step(carry, chosen):
        trained, moments, key = carry
        key, for_moves, for_loss = jax.random.split(key, 3)
        gradient = jax.grad(loss)(trained, moved(images[chosen], for_moves), labels[chosen], for_loss)
        updates, moments = optimizer.update(gradient, moments, trained)
        return (optax.apply_updates(trained, updates), moments, key), None

    @jax.jit
    def epoch(carry, key):
        order = jax.random.permutation(key, len(labels))[: per_epoch * BATCH_SIZE]
        return jax.lax.scan(step, carry, order.reshape(per_epoch, BATCH_SIZE))[0]

    carry = trained, optimizer.init(trained), jax.random.key(1)
    for index in range(epochs):
        carry = epoch(carry, jax.random.key(index))
    return carry[0]


def train(samples, epochs):
    """Trains the transformer as anyone would."""

    def loss(variables, images, labels, key):
        return cross_entropy(NETWORK.apply(variables, images, train=True, rngs={"dropout": key}), labels)

    variables = jax.jit(NETWORK.init)(jax.random.key(0), samples[0][:1])
    return descend(loss, variables, samples, epochs, LEARNING_RATE, WEIGHT_DECAY)


def mean_outputs(variables, thresholds, images, steps):
    """The mean of the outputs of so many steps [batch, classes]."""
    snn = gs.to_spiking(NETWORK.apply, NEURON, steps=steps, thresholds=thresholds, reduce="mean")
    return snn(variables, images)


def fine_tune(variables, thresholds, samples, epochs):
    """Weights and thresholds that answer at T = 1; logarithms keep the thresholds positive while they learn."""

    def loss(trained, images, labels, key):
        variables, logarithms = trained
        return cross_entropy(mean_outputs(variables, jax.tree.map(jnp.exp, logarithms), images, 1), labels)

    trained = variables, jax.tree.map(jnp.log, thresholds)
    variables, logarithms = descend(loss, trained, samples, epochs, FINE_RATE)
    return variables, jax.tree.map(jnp.exp, logarithms)


def accuracy(outputs, labels):
    """In %."""
    return 100 * float((outputs.argmax(-1) == labels).mean())


def accuracies(variables, thresholds, test):
    """After each of STEPS."""
    images, labels = test
    outputs = jax.jit(mean_outputs, static_argnums=3)
    return [accuracy(outputs(variables, thresholds, images, steps), labels) for steps in STEPS]


def main():
    epochs = epochs_from_command_line(__doc__, default=60)
    samples, test = load()
    variables = train(samples, epochs)
    thresholds = gs.find_thresholds(NETWORK.apply, unaugmented(samples), NEURON.members, variables=variables)
    before = accuracies(variables, thresholds, test)
    after = accuracies(*fine_tune(variables, thresholds, samples, max(1, epochs // TUNING)), test)
    print("network".ljust(18), f"{accuracy(jax.jit(NETWORK.apply)(variables, test[0]), test[1]):7.2f}")
    print(f"GN, m = {NEURON.members}".ljust(18), *(f"T = {t}".rjust(7) for t in STEPS))
    print("converted".ljust(18), *(f"{value:7.2f}" for value in before))
    print("and fine-tuned".ljust(18), *(f"{value:7.2f}" for value in after))


if __name__ == "__main__":
    main()
