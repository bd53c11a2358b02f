"""What the README says can be done."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gnsnn_jax as gs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(number, **names):
    """Runs an example of the README with these names; returns them with its own, and what it prints."""
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 3
    assert len([line for line in examples[number].splitlines() if line.strip()]) <= 12
    printed = []
    names["print"] = lambda *values: printed.append(values if len(values) > 1 else values[0])
    exec(examples[number], names)
    return names, printed


def test_the_example_runs_and_group_neurons_answer_at_once_as_the_network_does():
    images = jax.random.normal(jax.random.key(0), (50, 20))
    train = lambda network, images, labels: network.init(jax.random.key(1), images)
    names, printed = example(0, images=images, labels=jnp.zeros(50, jnp.int32), train=train)
    outputs = names["Network"]().apply(names["variables"], images)
    assert printed[0].shape == (4,)
    assert printed[0][0] == (outputs.argmax(-1) == 0).mean()


def test_a_relu_network_converts_as_the_example_says():
    images = jax.random.normal(jax.random.key(0), (100, 20))
    network = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
    load = lambda: (network.apply, network.init(jax.random.key(1), images))
    labels = load()[0](load()[1], images).argmax(-1)
    _, (site, accuracy, verification) = example(1, images=images, labels=labels, load_network=load)
    assert site == ("relu", "relu", (100, 64))
    np.testing.assert_allclose(accuracy, verification.agreement, atol=1e-6)
    assert accuracy.min() > 0.8


def test_what_a_converted_network_does_is_found_as_the_example_says():
    model = nn.Sequential([nn.Dense(64), lambda x: gs.qcfs(x, 1.0, 4), nn.Dense(10)])
    images = jax.random.normal(jax.random.key(0), (50, 20))
    given = {"gs": gs, "model": model, "variables": model.init(jax.random.key(1), images), "batches": [images]}
    names, printed = example(2, **given)
    populations = names["found"].populations
    assert [name for name, *_ in printed[:-1]] == [site.name for site in populations]
    np.testing.assert_array_equal(printed[0][4], populations[0].firing_rate())
    operations, neurobench = printed[-1]
    assert operations.accumulates > 0
    assert neurobench.effective_acs > 0


def test_files_and_commands_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\w+)", README, re.MULTILINE))
    for name in re.findall(r"^\| `(gnsnn_jax/[\w/]+(?:\.py)?|tests|configs)/?`", README, re.MULTILINE):
        assert (ROOT / name).exists(), name
    assert all((ROOT / path).exists() for path in re.findall(r"!\[[^]]*\]\(([^)]*)\)", README))
