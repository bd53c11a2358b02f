"""A ReLU network in Flax NNX, trained on the digits and converted without retraining."""

from digits import batches, cross_entropy, epochs_from_command_line, load, make_optimizer, report
from flax import nnx


class Unit(nnx.Module):
    """A convolution and its batch norm."""

    def __init__(self, inputs, outputs, kernel, stride, rngs):
        padding = (kernel - 1) // 2
        self.conv = nnx.Conv(inputs, outputs, (kernel, kernel), stride, padding=padding, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs, outputs, stride, rngs):
        self.first = Unit(inputs, outputs, 3, stride, rngs)
        self.second = Unit(outputs, outputs, 3, 1, rngs)
        self.shortcut = Unit(inputs, outputs, 1, stride, rngs) if inputs != outputs else None

    def __call__(self, x):
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu((self.shortcut(x) if self.shortcut else x) + y)


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = Unit(1, 16, 3, 1, rngs)
        shapes = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1)]
        self.blocks = nnx.List([Block(*shape, rngs) for shape in shapes])
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((-3, -2)))


def train(model, samples, epochs):
    optimizer = nnx.Optimizer(model, make_optimizer(samples, epochs), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, images, labels):
        loss = lambda model: cross_entropy(model(images), labels)
        optimizer.update(model, nnx.grad(loss)(model))

    for images, labels in batches(samples, epochs):
        step(model, optimizer, images, labels)


def as_function(model):
    """The network in inference mode as a function of its state and a batch of images, and this state."""
    model.eval()
    graph, state = nnx.split(model)
    return lambda state, images: nnx.merge(graph, state)(images), state


def main():
    epochs = epochs_from_command_line(__doc__, default=20)
    samples, test = load()
    model = ResNet(nnx.Rngs(0))
    train(model, samples, epochs)
    report(*as_function(model), samples, test)


if __name__ == "__main__":
    main()
