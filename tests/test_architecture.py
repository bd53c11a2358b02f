"""Imports point one way, and the method needs jax alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gnsnn_jax"
METHOD = {
    "_types", "errors", "activations", "barrier", "neurons", "calibration", "equations", "program", "linearity",
    "tracing", "sites", "thresholds", "conversion", "verification", "stopping", "convolution", "folding",
    "methods",
}  # fmt: skip
# Which parts of the package a part may import, besides itself.
ALLOWED = {
    "method": {"method"},
    "models": {"models", "method"},
    "command_line": {"method"},
    "training": {"training", "interop", "models", "method", "command_line"},
    "interop": {"interop", "models", "method"},
    "analysis": {"analysis", "training", "models", "method", "command_line"},
}


def part_of(module: str) -> str:
    """The part that a module such as gnsnn_jax.models.resnet belongs to."""
    name = module.split(".")[1]
    return "method" if name in METHOD else name


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    module = ".".join(["gnsnn_jax", *path.relative_to(PACKAGE).with_suffix("").parts])
    allowed = ALLOWED[part_of(module)]
    ours = {name for name in imported(path) if name.startswith("gnsnn_jax.")}
    assert {part_of(name) for name in ours} <= allowed
    if part_of(module) == "models":
        activations = {"gnsnn_jax._types", "gnsnn_jax.errors", "gnsnn_jax.activations"}
        assert {name for name in ours if part_of(name) == "method"} <= activations
    if part_of(module) == "method":
        foreign = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
        assert foreign <= {"jax", "numpy", "gnsnn_jax", "jaxtyping"}


def test_the_method_loads_with_jax_alone():
    code = (
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'flax', 'optax', 'orbax', 'jaxtyping', 'pydantic', 'rich', 'sklearn'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "import jax.numpy as jnp, gnsnn_jax as gs\n"
        "snn = gs.to_spiking(lambda x: gs.qcfs(x, 1.0, 4), gs.group_neuron(4), steps=2)\n"
        "assert snn(jnp.ones(3)).shape == (2, 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


def test_public_names_exist():
    import gnsnn_jax

    for name in gnsnn_jax.__all__:
        assert getattr(gnsnn_jax, name).__doc__
