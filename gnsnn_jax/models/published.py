"""Where the parts of a network are in the published PyTorch code, stated beside each architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """What reading and writing PyTorch weights must know of a network; `network.published()` returns it.

    names               the PyTorch name of each layer by its path here: "stage2/norm1" is "layer2.1"
    first_convolution   path of the layer that reads the images, which tells how many channels they have
    side                height and width of an image that the network takes
    flattened           path of a linear layer that reads a map as one row, where there is one
    map_channels        channels of that map, which an image of `side` pixels leaves with one pixel
    """

    names: Mapping[str, str]
    first_convolution: str
    side: int
    flattened: str | None = None
    map_channels: int = 1
