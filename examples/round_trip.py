"""A residual network of PyTorch becomes a spiking one and runs in another simulator: its accuracy at each station.

pip install '.[nir,report]' torch ; pip install --no-deps spikingjelly nirtorch loguru
python examples/round_trip.py
"""

import argparse
import importlib.util
import sys
import tempfile
import warnings
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import gnsnn_jax as gs

MEMBERS, STEPS, BATCH_SIZE = 16, 32, 64
NO_DEPENDENCIES = "spikingjelly nirtorch loguru"


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut: the identity, or a strided 1x1 convolution where the map shrinks."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        within = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(within + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2))
        self.pool, self.head = nn.AvgPool2d(4), nn.Linear(2 * width, 10)

    def forward(self, x):
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


def digits():
    """Images [N, 1, 8, 8] in [0, 1] and labels [N]: for training and for testing."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train, test, *labels = train_test_split(images, labels, random_state=0, stratify=labels)
    return (train, labels[0]), (test, labels[1])


def trained(samples, epochs, width=16):
    """The network of PyTorch after that many epochs, in eval mode."""
    torch.manual_seed(0)
    module, (images, labels) = ResNet(width), map(torch.from_numpy, samples)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return module.eval()


def missing():
    """The packages of the last stations that are not installed, which would else be missed after the training."""
    return [name for name in ("nir", *NO_DEPENDENCIES.split()) if importlib.util.find_spec(name) is None]


def in_spikingjelly(path, images, steps, *, soft_reset):
    """The outputs of a NIR file in SpikingJelly, summed over time."""
    with warnings.catch_warnings(action="ignore"):
        from spikingjelly.activation_based import neuron
        from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir

        module = import_from_nir(str(path), dt=1.0)
    for each in module.modules():
        if soft_reset and isinstance(each, neuron.IFNode):
            each.v_reset = None  # subtracts its threshold
    total, state = 0, None
    with torch.no_grad():
        for _ in range(steps):
            output, state = module(torch.from_numpy(images), state)
            total = total + output.reshape(len(images), -1)
    return total.numpy()


def stations(train, test, epochs, steps=STEPS, width=16):
    """The outputs for the test images at each station, by its name."""
    module, images = trained(train, epochs, width), test[0]
    with torch.no_grad():
        found = {"PyTorch": module(torch.from_numpy(images)).numpy()}
    apply, variables = gs.from_torch(module, torch.from_numpy(images[:2]))
    found["JAX"] = jax.jit(apply)(variables, images)

    batches = [jnp.asarray(part) for part in np.array_split(train[0], 4)]
    thresholds = cache(partial(gs.find_thresholds, apply, batches, variables=variables))
    groups = gs.to_spiking(apply, gs.group_neuron(MEMBERS), steps=1, thresholds=thresholds(levels=MEMBERS))
    found[f"GN, m = {MEMBERS}, T = 1"] = jax.jit(groups)(variables, images)[0]

    fire = gs.to_spiking(apply, gs.integrate_and_fire(), steps=steps, thresholds=thresholds(levels=steps))
    found[f"IF, T = {steps}"] = jax.jit(fire)(variables, images).sum(0)

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.nir"
        gs.to_nir(fire, variables, images[:8], path=path)
        currents = jnp.broadcast_to(images, (steps, *images.shape))
        outputs = jax.jit(gs.from_nir(path))(currents).sum(0)
        found["the file, gs.from_nir"] = outputs.reshape(len(images), -1)
        found["the file, SpikingJelly with v_reset = None"] = in_spikingjelly(path, images, steps, soft_reset=True)
        found["the file, SpikingJelly as imported"] = in_spikingjelly(path, images, steps, soft_reset=False)
    return {name: np.asarray(each) for name, each in found.items()}


def accuracy(outputs, labels):
    return 100 * np.mean(outputs.argmax(-1) == labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training samples (15)")
    epochs = parser.parse_args().epochs
    if names := missing():
        sys.exit(f"round_trip.py needs {', '.join(names)}: pip install nir ; pip install --no-deps {NO_DEPENDENCIES}")
    train, test = digits()
    print("| station | accuracy in % |\n|---|---|")
    for name, outputs in stations(train, test, epochs).items():
        print(f"| {name} | {accuracy(outputs, test[1]):.2f} |")


if __name__ == "__main__":
    main()
