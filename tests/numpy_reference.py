"""A spiking residual network in plain numpy: loops over time, layers, pixels, neurons and members.

Slow and literal on purpose, and independent of the library: it takes the trained numbers of a
network whose norms are folded, and shares nothing else with it.
"""

import math

import numpy as np

MARGIN = 1e-3


def simulate(params, images, steps, members=1, probe_steps=None):
    """Outputs [steps, B, K] of a residual network of two stages of one block, and the spikes of each layer.

    `images` [B, H, W, C] are constant currents. Without `probe_steps` every neuron starts from half
    a unit, with it from the potential that calibrating offset spikes gives it.
    """
    computed = max(steps, probe_steps or 0)
    layers = []

    def spike(currents, layer):
        layers.append(fire(currents, float(layer["threshold"]), members, probe_steps))
        return layers[-1]

    def block(inputs, numbers, stride):
        inner = spike([normed_conv(x, numbers, "conv1", "norm1", stride) for x in inputs], numbers["act1"])
        outer = [normed_conv(x, numbers, "conv2", "norm2", 1) for x in inner]
        if "shortcut_conv" in numbers:
            inputs = [normed_conv(x, numbers, "shortcut_conv", "shortcut_norm", stride) for x in inputs]
        return spike([x + y for x, y in zip(inputs, outer, strict=True)], numbers["act2"])

    x = spike([normed_conv(images, params, "conv1", "norm1", 1)] * computed, params["act1"])
    x = block(x, params["stage1_block0"], 1)
    x = block(x, params["stage2_block0"], 2)
    outputs = []
    for x_t in x:
        mean = x_t.sum((1, 2)) / (x_t.shape[1] * x_t.shape[2])
        outputs.append(mean @ params["head"]["kernel"] + params["head"]["bias"])
    return np.stack(outputs)[:steps], [np.stack(layer)[:steps] for layer in layers]


def normed_conv(images, numbers, conv, norm, stride):
    """A convolution, then the bias that is left of a folded norm."""
    return convolve(images, numbers[conv]["kernel"], stride) + numbers[norm]["bias"]


def convolve(images, kernel, stride):
    """Zeros around, one window after the other."""
    size, margin = kernel.shape[0], kernel.shape[0] // 2
    batch, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    result = np.zeros((batch, math.ceil(height / stride), math.ceil(width / stride), kernel.shape[3]))
    for sample, row, column, channel in np.ndindex(result.shape):
        top, left = row * stride, column * stride
        window = padded[sample, top : top + size, left : left + size]
        result[sample, row, column, channel] = (window * kernel[..., channel]).sum()
    return result


def fire(currents, threshold, members, probe_steps):
    """The outputs of a population over time, neuron after neuron."""
    outputs = [np.zeros(current.shape) for current in currents]
    for index in np.ndindex(currents[0].shape):
        own = [float(current[index]) for current in currents]
        start = 0.5 if probe_steps is None else offset_start(own[:probe_steps], threshold, members)
        counts, _ = run_group(own, threshold, members, start)
        for output, count in zip(outputs, counts, strict=True):
            output[index] = count * threshold / members
    return outputs


def run_group(currents, threshold, members, start, signed=False):
    """Spike counts, and charged potentials in units, of a group of separate members.

    Each integrates the same current, the k-th fires at k units, and every spike of the group takes
    one unit from each; the k-th of a signed group fires negatively below 1 - k units. `start` is in units.
    """
    unit = threshold / members
    potentials = [start * unit for _ in range(members)]
    counts, charged = [], []
    for current in currents:
        potentials = [potential + current for potential in potentials]
        charged.append(potentials[0] / unit)
        fired = sum(potential >= (k + 1) * unit for k, potential in enumerate(potentials))
        if signed:
            fired -= sum(potential < -k * unit for k, potential in enumerate(potentials))
        counts.append(fired)
        potentials = [potential - fired * unit for potential in potentials]
    return counts, charged


def run_signed_memory(currents, threshold, start):
    """Spike counts of a signed neuron with memory, and its potential and memory after each step.

    `start` is in thresholds.
    """
    potential, memory = start * threshold, 0
    counts, potentials, memories = [], [], []
    for current in currents:
        potential += current
        count = 1 if potential >= threshold else -1 if potential <= -threshold and memory > 0 else 0
        potential -= count * threshold
        memory += count
        counts.append(count)
        potentials.append(potential)
        memories.append(memory)
    return counts, potentials, memories


def offset_start(currents, threshold, members, signed=False):
    """The initial potential in units after one pass of calibrating offset spikes over these currents."""
    counts, charged = run_group(currents, threshold, members, 0.5, signed)
    left, lowest = charged[-1] - counts[-1], -members if signed else 0
    could_fire_less = [c - k + 1 for c, k in zip(charged, counts, strict=True) if k > lowest]
    could_fire_more = [c - k for c, k in zip(charged, counts, strict=True) if k < members]
    if left < 0 and could_fire_less:
        return 0.5 - max(1, min(could_fire_less) - 1 + MARGIN)
    if left >= 1 and could_fire_more:
        return 0.5 + max(1, 1 + MARGIN - max(could_fire_more))
    return 0.5
