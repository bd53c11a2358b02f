"""What the README says can be done."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
EXAMPLES = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [code for language, code in BLOCKS if language == ""]
CHARACTERS = 7500  # what a newcomer reads in three minutes


def example(number, **names):
    """Runs an example of the README with these names; returns them with its own, and what it prints."""
    printed = []
    names["print"] = lambda *values: printed.append(values if len(values) > 1 else values[0])
    exec(EXAMPLES[number], names)
    return names, printed


def test_it_is_short_and_each_block_is_an_example_or_commands_of_make():
    assert len(README) <= CHARACTERS
    assert len(BLOCKS) == len(EXAMPLES) + len(COMMANDS) == 3
    for code in EXAMPLES:
        assert len([line for line in code.splitlines() if line.strip()]) <= 10
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in COMMANDS[0].splitlines() if line.startswith("make ")]
    assert len(targets) == len(COMMANDS[0].splitlines())
    assert all(f"\n{target}:" in makefile for target in targets)


def test_a_relu_network_converts_as_the_example_says():
    images = jax.random.normal(jax.random.key(0), (100, 20))
    network = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
    load = lambda: (network.apply, network.init(jax.random.key(1), images))
    labels = load()[0](load()[1], images).argmax(-1)
    _, (accuracy, verification) = example(0, images=images, labels=labels, load_network=load)
    np.testing.assert_allclose(accuracy, verification.agreement, atol=1e-6)
    assert accuracy.min() > 0.8


@pytest.mark.slow
def test_a_network_of_pytorch_converts_as_the_example_says(unchecked):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    images = torch.randn(100, 20)
    labels = module(images).argmax(-1)
    _, (accuracy,) = example(1, module=module, images=images, labels=labels)
    assert accuracy.shape == (4,)
    assert jnp.min(accuracy) > 0.8


def test_what_it_links_to_exists():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert all(link.startswith("https://arxiv.org/") or (ROOT / link).exists() for link in links), links
    for name in re.findall(r"`((?:configs|docs|examples)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
