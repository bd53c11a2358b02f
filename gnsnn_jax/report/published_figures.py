"""Accuracies that papers print, to compare with; none of them is ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COS_PAPER = "Hao et al. 2023, arXiv 2302.10685"
GN_PAPER = "Lv et al. 2024, arXiv 2402.19061"
QCFS_PAPER = "Bu et al. 2022, arXiv 2303.04347"


@dataclass(frozen=True)
class Published:
    """What a paper prints for one network and one method, in %.

    Attributes:
        recipe: The name of the configuration in configs/, without .toml.
        method: As `parse_method` reads it.
        ann: Of the network itself.
        at_steps: By number of time-steps T, behind those of the probe.
        source: The paper.
    """

    recipe: str
    method: str
    ann: float
    at_steps: Mapping[int, float]
    source: str


@dataclass(frozen=True)
class PublishedSet:
    """The size of a data set as it was published.

    Attributes:
        train: Images of its training split.
        test: Images that accuracies are published of.
        classes: How many.
        side: Height and width of its images; of ImageNet, of what the networks read.
        archives: Bytes of the files to download.
    """

    train: int
    test: int
    classes: int
    side: int
    archives: int


SETS = {
    "cifar10": PublishedSet(50_000, 10_000, 10, 32, 170_052_171),
    "cifar100": PublishedSet(50_000, 10_000, 100, 32, 168_513_733),
    "imagenet": PublishedSet(1_281_167, 50_000, 1000, 224, 147_897_477_120 + 6_744_924_160),
}
PUBLISHED = (
    Published("cifar10_vgg16", "if", 95.52, {2: 91.18, 4: 93.96, 8: 94.95}, QCFS_PAPER),
    Published("cifar100_vgg16", "cos", 76.28, {1: 74.24, 2: 76.03, 4: 76.26, 8: 76.52}, COS_PAPER),
    Published("cifar100_vgg16", "if", 76.28, {2: 63.79, 4: 69.62, 8: 73.96}, QCFS_PAPER),
    Published("cifar100_resnet20", "cos", 69.97, {1: 59.22, 2: 64.21, 4: 65.18, 8: 67.17}, COS_PAPER),
    Published("cifar100_resnet20", "if", 69.94, {2: 19.96, 4: 34.14, 8: 55.37}, QCFS_PAPER),
    Published("imagenet_vgg16", "cos", 74.19, {1: 63.84, 2: 70.59, 4: 72.94, 8: 73.82}, COS_PAPER),
    Published("imagenet_resnet34", "cos", 74.22, {1: 69.11, 2: 72.66, 4: 73.81, 8: 74.17}, COS_PAPER),
    Published("imagenet_resnet34", "gn", 74.35, {2: 73.61, 8: 73.57}, GN_PAPER),
)
METHODS = ("if", "gn", "cos")  # that are compared, whether or not a figure is published
STEPS = (1, 2, 4, 8)
PROBE_STEPS = {"cifar10": 4, "cifar100": 4, "imagenet": 8}  # ρ of COS, by the beginning of the recipes' names


def published(recipe: str, method: str) -> Published | None:
    """Returns what is published of a method on the network of a recipe, if we know of anything.

    Args:
        recipe: The name of the configuration.
        method: The name of the method, in any case of letters.
    """
    return next((each for each in PUBLISHED if (each.recipe, each.method) == (recipe, method.lower())), None)
