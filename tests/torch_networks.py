"""The published networks in PyTorch, with the published names of their parameters, as independent references.

Their random numbers are multiples of powers of two, few enough bits each that every sum is exact in
float32, in any order: so a value on the edge of a step is on it in both frameworks, and the logits of
deep networks can be compared to the last bit.
"""

import math

import numpy as np
import torch
from torch import nn

# threshold, its shape, and the activation after a residual sum, as the repositories name them
NAMES = {
    "gn": ("v_threshold", (), "relu"),
    "cos": ("up", (1,), "relu"),
    "qcfs": ("thresh", (1,), "act"),
    "qcfs_old": ("up", (1,), "relu"),
}
RESNETS = {
    "resnet10": (2, (2, 2), (16, 32)),
    "resnet18": (2, (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet20": (2, (3, 3, 3), (16, 32, 64)),
    "resnet34": (2, (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": (3, (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet101": (3, (3, 4, 23, 3), (64, 128, 256, 512)),
    "resnet152": (3, (3, 8, 36, 3), (64, 128, 256, 512)),
}
VGGS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class QCFS(nn.Module):
    def __init__(self, levels, names):
        super().__init__()
        self.levels, (self.name, shape, _) = levels, NAMES[names]
        self.register_parameter(self.name, nn.Parameter(torch.ones(shape)))

    def forward(self, x):
        unit = getattr(self, self.name) / self.levels
        return unit * torch.clamp(torch.floor(x / unit + 0.5), 0, self.levels)


class Block(nn.Module):
    """A residual block of two convolutions, or a bottleneck of three."""

    def __init__(self, convolutions, inputs, width, stride, levels, names):
        super().__init__()
        outputs = width if convolutions == 2 else 4 * width
        if convolutions == 2:
            shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        else:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        layers = []
        for fan_in, fan_out, kernel, step in shapes:
            layers += [nn.Conv2d(fan_in, fan_out, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(fan_out)]
            layers += [QCFS(levels, names)]
        self.residual_function = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.after_sum = NAMES[names][2]
        self.add_module(self.after_sum, QCFS(levels, names))

    def forward(self, x):
        return getattr(self, self.after_sum)(self.residual_function(x) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, convolutions, blocks, widths, num_classes, levels, names, channels=3):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), QCFS(levels, names)
        )
        self.stages, inputs = [], widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            made = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                made.append(Block(convolutions, inputs, width, stride, levels, names))
                inputs = width if convolutions == 2 else 4 * width
            self.stages.append(f"conv{stage + 2}_x")
            self.add_module(self.stages[-1], nn.Sequential(*made))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    def __init__(
        self,
        convolutions,
        num_classes,
        levels,
        names,
        widths=(64, 128, 256, 512, 512),
        hidden=4096,
        side=32,
        channels=3,
    ):
        super().__init__()
        self.stages, inputs = [], channels
        for stage, (count, width) in enumerate(zip(convolutions, widths, strict=True)):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width)]
                layers += [QCFS(levels, names), nn.Dropout(0.5)]
                inputs = width
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*layers, nn.AvgPool2d(2)))
        pixels = (side // 2 ** len(widths)) ** 2
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs * pixels, hidden), QCFS(levels, names), nn.Dropout(0.5),
            nn.Linear(hidden, hidden), QCFS(levels, names), nn.Dropout(0.5),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip

    def forward(self, x):
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.classifier(x)


def build(name, num_classes=10, levels=4, names="gn", **options):
    if name in VGGS:
        return VGG(VGGS[name], num_classes, levels, names, **options).eval()
    convolutions, blocks, widths = RESNETS[name]
    widths = options.pop("widths", widths)
    return ResNet(convolutions, blocks, widths, num_classes, levels, names, **options).eval()


def images(seed, batch=2, side=32, channels=3):
    """Images [B, C, H, W] of multiples of 1/16 in [-2, 2]."""
    return np.random.default_rng(seed).integers(-32, 33, (batch, channels, side, side)).astype(np.float32) / 16


@torch.no_grad()
def randomise(network, seed=0):
    """Random weights, statistics and thresholds whose sums are exact."""
    random = np.random.default_rng(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            _set(module.weight, _grains(random, module.weight.shape, math.sqrt(2 / module.weight[0].numel())))
            if module.bias is not None:
                _set(module.bias, _grains(random, module.bias.shape, 0.25))
        elif isinstance(module, nn.BatchNorm2d):
            shape = module.weight.shape
            _set(module.weight, random.integers(4, 13, shape) / 8)
            _set(module.bias, random.integers(-4, 9, shape) / 16)
            _set(module.running_mean, random.integers(-4, 5, shape) / 16)
            # var + eps is a power of four in float32, so that its root is exact
            _set(module.running_var, random.choice(np.float32([0.25, 1, 4]), shape) - np.float32(module.eps))
        elif isinstance(module, QCFS):
            parameter = getattr(module, module.name)
            _set(parameter, random.integers(4, 13, parameter.shape) / 4)
    return network


def _grains(random, shape, deviation):
    """About normal, in multiples of a power of two that is about a quarter of the deviation."""
    grain = 2.0 ** math.floor(math.log2(deviation) - 2)
    return np.round(random.standard_normal(shape, np.float32) * np.float32(deviation / grain)) * grain


def _set(parameter, values):
    parameter.copy_(torch.as_tensor(np.asarray(values, np.float32)))
