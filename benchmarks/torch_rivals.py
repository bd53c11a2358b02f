"""The networks of the benchmark in PyTorch, as ANN and as multi-step IF network of SpikingJelly.

Batch norms are folded into the convolutions, as ours are. As a user of SpikingJelly builds it, time and
batch share an axis between the neurons, and the first layer sees the constant image once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # which has the published networks in PyTorch
import torch_networks

LEARNING_RATE = 0.01
MOMENTUM = 0.9
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class StraightThrough(nn.Module):
    """QCFS with the gradient that it is trained with; forward it takes the same four operations."""

    def __init__(self, levels: int, threshold: float):
        super().__init__()
        self.levels, self.threshold = levels, nn.Parameter(torch.tensor(threshold))

    def forward(self, x):
        steps = torch.clamp(x / self.threshold * self.levels + 0.5, 0, self.levels)
        whole = torch.floor(steps)
        if torch.is_grad_enabled():
            whole = steps + (whole - steps).detach()
        return whole * (self.threshold / self.levels)


class Neurons(nn.Module):
    """IF neurons for [T B, ...]; the first of a network get [B, ...], their current at each time-step."""

    def __init__(self, steps: int, threshold: float, first: bool):
        super().__init__()
        self.steps, self.first = steps, first
        self.neuron = neuron.HalfThresholdIFNode(v_threshold=threshold, step_mode="m")

    def forward(self, x):
        x = x.expand(self.steps, *x.shape) if self.first else x.unflatten(0, (self.steps, -1))
        return self.neuron(x).flatten(0, 1)


def network(name: str, classes: int, levels: int) -> nn.Module:
    """As the published code builds it; its activations are modules of the class `torch_networks.QCFS`."""
    return torch_networks.build(name, classes, levels)


def folded(module: nn.Module) -> nn.Module:
    """Each batch norm that follows a convolution in a sequence becomes nothing."""
    for sequence in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            if isinstance(sequence[index], nn.Conv2d) and isinstance(sequence[index + 1], nn.BatchNorm2d):
                sequence[index] = fuse_conv_bn_eval(sequence[index], sequence[index + 1])
                sequence[index + 1] = nn.Identity()
    return module


def with_activations(module: nn.Module, make: Callable[[bool], nn.Module]) -> nn.Module:
    """Puts `make(first)` in the place of every activation, in their order."""
    first = True
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch_networks.QCFS):
                setattr(parent, name, make(first))
                first = False
    return module


def cases(name: str, batch: int, steps: int, classes: int, levels: int, threshold: float, training: bool):
    """What takes part in the benchmark, by name; every case returns when it is done."""
    images = torch.randn(batch, 3, 32, 32, device=DEVICE)
    labels = torch.randint(0, classes, (batch,), device=DEVICE)
    build = lambda: network(name, classes, levels).to(DEVICE)
    activation = lambda first: StraightThrough(levels, threshold).to(DEVICE)
    neurons = lambda first: Neurons(steps, threshold, first).to(DEVICE)
    ann = with_activations(folded(build()), activation).eval()
    spiking = with_activations(folded(build()), neurons).eval()
    over_time = lambda module: module(images).unflatten(0, (steps, -1)).mean(0)
    found = {
        "PyTorch ANN, T times": inference(lambda: [ann(images) for _ in range(steps)]),
        "SpikingJelly IF": inference(lambda: over_time(spiking), spiking),
    }
    if training:
        trained = with_activations(build(), activation).train()
        spiking_trained = with_activations(build(), neurons).train()
        found["PyTorch ANN, training step"] = training_step(trained, lambda: trained(images), labels)
        found["SpikingJelly IF, training step"] = training_step(
            spiking_trained, lambda: over_time(spiking_trained), labels
        )
    return found


def inference(run: Callable, spiking: nn.Module | None = None) -> Callable[[], None]:
    @torch.no_grad()
    def timed():
        if spiking is not None:
            functional.reset_net(spiking)
        run()
        finish()

    return timed


def training_step(module: nn.Module, run: Callable, labels) -> Callable[[], None]:
    optimizer = torch.optim.SGD(module.parameters(), LEARNING_RATE, MOMENTUM)

    def timed():
        functional.reset_net(module)
        optimizer.zero_grad()
        nn.functional.cross_entropy(run(), labels).backward()
        optimizer.step()
        finish()

    return timed


def finish() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
