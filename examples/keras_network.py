"""A ReLU network in Keras, trained on the digits and converted without retraining. Needs the extra `keras`."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # which Keras reads when it is imported

import keras
from digits import epochs_from_command_line, load, report, unaugmented

import gnsnn_jax as gs


def build():
    layers = keras.layers
    unit = lambda channels: [layers.Conv2D(channels, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    stages = [*unit(16), layers.MaxPooling2D(), *unit(32), layers.Flatten(), layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *stages])


def train(model, samples, epochs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(*samples, batch_size=64, epochs=epochs, verbose=0)


def as_function(model):
    """The network in inference mode as a function of its variables and images, and these variables."""

    def apply(variables, images):
        outputs, _ = model.stateless_call(*variables, images, training=False)
        return outputs

    parts = model.trainable_variables, model.non_trainable_variables
    return apply, tuple([variable.value for variable in part] for part in parts)


def main():
    epochs = epochs_from_command_line(__doc__, default=20)
    keras.utils.set_random_seed(0)
    samples, test = load()
    model = build()
    train(model, samples, epochs)
    apply, variables = as_function(model)
    report(apply, variables, samples, test)
    thresholds = gs.find_thresholds(apply, unaugmented(samples), 16, variables=variables)
    snn = gs.to_spiking(apply, gs.group_neuron(16), steps=4, thresholds=thresholds)
    print(gs.verify(apply, snn, [test[0]], variables=variables))


if __name__ == "__main__":
    main()
