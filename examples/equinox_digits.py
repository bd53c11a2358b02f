"""A ReLU network in Equinox, trained on the digits and converted without retraining."""

import equinox as eqx
import jax
from digits import batches, cross_entropy, epochs_from_command_line, load, make_optimizer, report


class Unit(eqx.Module):
    """A convolution and its batch norm; images are [C, H, W]."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, inputs, outputs, kernel, stride, key):
        padding = (kernel - 1) // 2
        self.conv = eqx.nn.Conv2d(inputs, outputs, kernel, stride, padding, use_bias=False, key=key)
        self.norm = eqx.nn.BatchNorm(outputs, axis_name="batch", momentum=0.9, mode="ema")

    def __call__(self, x, state):
        return self.norm(self.conv(x), state)


class Block(eqx.Module):
    """Two convolutions beside a shortcut."""

    first: Unit
    second: Unit
    shortcut: Unit | None

    def __init__(self, inputs, outputs, stride, key):
        keys = jax.random.split(key, 3)
        self.first = Unit(inputs, outputs, 3, stride, keys[0])
        self.second = Unit(outputs, outputs, 3, 1, keys[1])
        self.shortcut = Unit(inputs, outputs, 1, stride, keys[2]) if inputs != outputs else None

    def __call__(self, x, state):
        y, state = self.first(x, state)
        y, state = self.second(jax.nn.relu(y), state)
        if self.shortcut:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    stem: Unit
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 6)
        self.stem = Unit(1, 16, 3, 1, keys[0])
        shapes = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1)]
        self.blocks = [Block(*shape, block_key) for shape, block_key in zip(shapes, keys[1:5], strict=True)]
        self.head = eqx.nn.Linear(32, 10, key=keys[5])

    def __call__(self, image, state):
        x, state = self.stem(image.transpose(2, 0, 1), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((-2, -1))), state


def train(model, state, samples, epochs):
    optimizer = make_optimizer(samples, epochs)
    moments = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def loss(model, state, images, labels):
        batch = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        outputs, state = batch(images, state)
        return cross_entropy(outputs, labels), state

    @eqx.filter_jit
    def step(model, state, moments, images, labels):
        gradients, state = eqx.filter_grad(loss, has_aux=True)(model, state, images, labels)
        updates, moments = optimizer.update(gradients, moments, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, moments

    for images, labels in batches(samples, epochs):
        model, state, moments = step(model, state, moments, images, labels)
    return model, state


def as_function(model, state):
    """The network in inference mode as a function of its arrays and a batch of images, and these arrays."""
    arrays, rest = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)

    def apply(variables, images):
        arrays, state = variables
        model = eqx.combine(arrays, rest)
        return jax.vmap(lambda image: model(image, state)[0])(images)

    return apply, (arrays, state)


def main():
    epochs = epochs_from_command_line(__doc__, default=40)
    samples, test = load()
    model, state = train(*eqx.nn.make_with_state(ResNet)(jax.random.key(0)), samples, epochs)
    report(*as_function(model, state), samples, test, channel_axis=-3)


if __name__ == "__main__":
    main()
