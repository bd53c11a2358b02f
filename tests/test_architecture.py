"""Imports point one way, and the method needs jax alone."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gnsnn_jax"
# The rooms of the package, and which of the others each may import. What stands at the top serves all.
ROOMS = {
    "xla": set(),
    "method": {"xla"},
    "engine": {"method", "xla"},
    "conversion": {"engine", "method", "xla"},
    "models": {"method", "xla"},
    "interop": {"models", "conversion", "method", "engine", "xla"},
    "runtime": set(),
    "data": {"runtime"},
    "runs": {"data", "interop", "models", "conversion", "method", "runtime"},
    "training": {"runs", "data", "models", "runtime"},
    "analysis": {"conversion", "engine", "method", "data", "runtime"},
    "report": {"analysis", "training", "runs", "data", "conversion", "method", "interop", "runtime"},
}
NEED_JAX_ALONE = {"xla", "method", "engine", "conversion", "errors", "dtypes", "_types"}
MOVED = {"analysis/compare.py", "training/prepare.py"}  # names of commands that earlier versions had


def room_of(module: str) -> str:
    """The room that a module such as gnsnn_jax.models.resnet belongs to; of one at the top its own name."""
    return module.split(".")[1]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def test_every_folder_is_a_room():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    if path.relative_to(PACKAGE).as_posix() in MOVED:
        return
    room = room_of(".".join(["gnsnn_jax", *path.relative_to(PACKAGE).with_suffix("").parts]))
    ours = {room_of(name) for name in imported(path) if name.startswith("gnsnn_jax.")}
    assert ours & set(ROOMS) <= ROOMS.get(room, set()) | {room}
    if room in NEED_JAX_ALONE:
        foreign = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
        assert foreign <= {"jax", "numpy", "gnsnn_jax", "jaxtyping"}


def test_public_names_exist_and_say_what_they_are():
    import gnsnn_jax

    for name in gnsnn_jax.__all__:
        own = getattr(gnsnn_jax, name).__doc__ or ""
        assert own, f"{name} has no docstring"
        assert not own.startswith(f"{name}("), f"the docstring of {name} is its list of fields"
