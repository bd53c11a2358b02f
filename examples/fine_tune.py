"""Fine-tunes a converted network through time: integrate-and-fire neurons learn to answer at T = 1.

The network is trained with ReLU and converted without retraining. What comes out is differentiable, spikes
included, by their surrogate gradient; so weights and thresholds go on learning as spiking ones.
"""

import jax
import jax.numpy as jnp
import optax
from digits import batches, cross_entropy, epochs_from_command_line, load, make_optimizer, unaugmented

import gnsnn_jax as gs

NETWORK = gs.build("resnet10", num_classes=10, levels=16, activation="relu")
STEPS = 2  # the loss counts the answers after 1..STEPS steps
LEARNING_RATE, LONGEST_GRADIENT = 0.02, 1.0


def train(samples, epochs):
    """Trains the ReLU network as anyone would."""
    images, _ = samples
    variables = jax.jit(NETWORK.init)(jax.random.key(0), images[:1])
    optimizer = make_optimizer(samples, epochs)

    def loss(params, statistics, images, labels):
        variables = {"params": params, "batch_stats": statistics}
        outputs, changed = NETWORK.apply(variables, images, train=True, mutable="batch_stats")
        return cross_entropy(outputs, labels), changed["batch_stats"]

    @jax.jit
    def step(params, statistics, moments, images, labels):
        gradients, statistics = jax.grad(loss, has_aux=True)(params, statistics, images, labels)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), statistics, moments

    params, statistics = variables["params"], variables["batch_stats"]
    moments = optimizer.init(params)
    for images, labels in batches(samples, epochs):
        params, statistics, moments = step(params, statistics, moments, images, labels)
    return {"params": params, "batch_stats": statistics}


def spiking_outputs(params, statistics, thresholds, images):
    """After 1..STEPS steps, the mean outputs [STEPS, batch, classes]."""
    snn = gs.to_spiking(NETWORK.apply, gs.integrate_and_fire(), steps=STEPS, thresholds=thresholds)
    outputs = snn({"params": params, "batch_stats": statistics}, images)
    return jnp.cumsum(outputs, 0) / jnp.arange(1.0, 1 + STEPS).reshape(-1, 1, 1)


def fine_tune(variables, thresholds, samples, epochs):
    """Weights and thresholds that answer early; logarithms keep the thresholds positive while they learn."""
    statistics = variables["batch_stats"]
    descent = make_optimizer(samples, epochs, LEARNING_RATE)
    optimizer = optax.chain(optax.clip_by_global_norm(LONGEST_GRADIENT), descent)

    def loss(trained, images, labels):
        params, logarithms = trained
        thresholds = jax.tree.map(jnp.exp, logarithms)
        outputs = spiking_outputs(params, statistics, thresholds, images)
        return cross_entropy(outputs, jnp.broadcast_to(labels, outputs.shape[:2]))

    @jax.jit
    def step(trained, moments, images, labels):
        updates, moments = optimizer.update(jax.grad(loss)(trained, images, labels), moments, trained)
        return optax.apply_updates(trained, updates), moments

    trained = variables["params"], jax.tree.map(jnp.log, thresholds)
    moments = optimizer.init(trained)
    for images, labels in batches(samples, epochs, seed=1):
        trained, moments = step(trained, moments, images, labels)
    params, logarithms = trained
    return {"params": params, "batch_stats": statistics}, jax.tree.map(jnp.exp, logarithms)


def accuracy(variables, thresholds, test):
    """In %, after 1..STEPS steps."""
    images, labels = test
    outputs = jax.jit(spiking_outputs)(variables["params"], variables["batch_stats"], thresholds, images)
    return 100 * (outputs.argmax(-1) == labels[None]).mean(-1)


def main():
    epochs = epochs_from_command_line(__doc__, default=20)
    samples, test = load()
    variables = gs.fold_batch_norm(train(samples, epochs))
    thresholds = gs.find_thresholds(NETWORK.apply, unaugmented(samples), STEPS, method="balance", variables=variables)
    before = accuracy(variables, thresholds, test)
    after = accuracy(*fine_tune(variables, thresholds, samples, epochs), test)
    print("IF".ljust(18), *(f"T = {t}".rjust(7) for t in range(1, 1 + STEPS)))
    print("converted".ljust(18), *(f"{value:7.2f}" for value in before))
    print("and fine-tuned".ljust(18), *(f"{value:7.2f}" for value in after))


if __name__ == "__main__":
    main()
