"""What the README says can be done."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_and_group_neurons_answer_at_once_as_the_network_does():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    images = jax.random.normal(jax.random.key(0), (50, 20))
    printed = []
    names = {
        "images": images,
        "labels": jnp.zeros(50, jnp.int32),
        "train": lambda network, images, labels: network.init(jax.random.key(1), images),
        "print": printed.append,
    }
    exec(example, names)
    outputs = names["Network"]().apply(names["variables"], images)
    assert printed[0].shape == (4,)
    assert printed[0][0] == (outputs.argmax(-1) == 0).mean()


def test_files_and_commands_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\w+)", README, re.MULTILINE))
    for name in re.findall(r"^\| `(gnsnn_jax/[\w/]+(?:\.py)?|tests|configs)/?`", README, re.MULTILINE):
        assert (ROOT / name).exists(), name
    assert (ROOT / "docs" / "accuracy.png").exists()
