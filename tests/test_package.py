"""What the package needs, what it brings, and what it says where something is missing."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import gnsnn_jax
from gnsnn_jax.errors import InputError, MissingPackage, extra, imports_of

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gnsnn_jax"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALONE = {"jax", "numpy"}  # what the package itself needs
WITH_JAX = {*ALONE, "jaxlib", "ml_dtypes", "opt_einsum", "scipy"}  # and what comes with it
FOR_TESTS = {"jaxtyping"}  # annotations work without
COMES_WITH = {"absl": "absl-py", "requests": "requests"}  # with tensorflow-datasets and grain

# Runs the code that follows where none of the installed packages but those in the arguments is there.
BLOCK = """
import sys
from importlib.metadata import packages_distributions

missing = packages_distributions().keys() - {*sys.argv[1].split(), "gnsnn_jax"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def requirements(name: str) -> set[str]:
    """The distributions that an extra brings, those of the extras within it included."""
    found = set()
    for requirement in PROJECT["optional-dependencies"][name]:
        distribution, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if distribution == "gnsnn_jax":
            found |= set().union(*map(requirements, extras.split(",")))
        else:
            found.add(normal(distribution))
    return found


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


installed = cache(packages_distributions)


def distributions(module: str) -> set[str]:
    """The distributions that may bring a module; by its own name where it is not installed."""
    return {normal(name) for name in installed().get(module, [module])}


def extra_of(node: ast.With) -> str | None:
    """The extra that a `with` statement names."""
    calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
    return next((call.args[0].value for call in calls if ast.unparse(call.func) == "extra"), None)


def foreign_imports(tree: ast.AST, within: str | None = None):
    """Each module of a third party that is imported, and the extra that the import names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            roots = {name.split(".")[0] for name in names}
            yield from ((root, within) for root in roots - sys.stdlib_module_names - WITH_JAX - {"gnsnn_jax"})
        yield from foreign_imports(node, (extra_of(node) or within) if isinstance(node, ast.With) else within)


def blocked(code: str, *allowed: str, names: Iterable[str] = ()) -> subprocess.CompletedProcess:
    """Runs code in a process of its own, where no other third-party packages are to be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, " ".join(allowed), *names], capture_output=True, text=True, cwd=ROOT
    )


# What is needed.


def test_the_package_itself_needs_jax_and_numpy_alone():
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["dependencies"]} == ALONE


@pytest.mark.parametrize(
    "path", [*sorted(PACKAGE.rglob("*.py")), ROOT / "train.py", ROOT / "convert.py"], ids=lambda path: path.stem
)
def test_every_import_of_a_third_party_names_an_extra_that_brings_it(path):
    for module, named in foreign_imports(ast.parse(path.read_text(encoding="utf-8"))):
        if module in FOR_TESTS:
            continue
        assert named, f"{module} is imported outside of `with extra(...)`"
        if module not in COMES_WITH:
            assert distributions(module) & requirements(named), f"the extra {named} does not bring {module}"


def test_all_brings_what_every_extra_of_users_does_but_pytorch():
    others = {
        "all",
        "test",
        "lint",
        "dev",
        "docs",
        "torch",
        "rivals",
        "cuda12",
        "cuda13",
        "tpu",
        "prepare",
        "benchmark",
        "onnx-export",
    }
    wanted = set().union(*map(requirements, PROJECT["optional-dependencies"].keys() - others))
    assert requirements("all") == wanted
    assert "torch" not in requirements("dev") | requirements("all")


METHOD = """
import jax, jax.numpy as jnp, numpy as np
import gnsnn_jax as gs

weights = {"in": jnp.full((4, 8), 0.3), "out": jnp.full((8, 3), 0.1)}
quantised = lambda weights, x: gs.qcfs(x @ weights["in"], 1.0, 4) @ weights["out"]
plain = lambda weights, x: jax.nn.relu(x @ weights["in"]) @ weights["out"]
x = jnp.linspace(0.0, 1.0, 24).reshape(6, 4)
labels = jnp.zeros(6, jnp.int32)

neuron = gs.group_neuron(4)
outputs, _ = gs.run(neuron, jnp.ones((3, 2)), 1.0)
assert outputs.shape == (3, 2)
snn = gs.to_spiking(quantised, neuron, steps=2)
cos = gs.to_spiking(quantised, gs.integrate_and_fire(), calibration=gs.offset_spikes(4), steps=2)
assert snn(weights, x).shape == cos(weights, x).shape == (2, 6, 3)
assert len(gs.sites(quantised, weights, x)) == 1
thresholds = gs.find_thresholds(plain, [x], levels=4, variables=weights)
converted = gs.to_spiking(plain, neuron, steps=2, thresholds=thresholds)
assert gs.verify(plain, converted, [x], variables=weights)
outputs, latencies = gs.stop_when(0.5)(snn)(weights, x)
gs.accuracy_over_time(snn(weights, x), labels)
behaviour = gs.observe(snn, [x], variables=weights)
gs.operations(behaviour, 2)
gs.neurobench(behaviour, 2)
gs.fold_batch_norm({"params": {}})
"""


@pytest.mark.slow
def test_the_method_works_with_jax_and_numpy_alone():
    done = blocked(METHOD, *WITH_JAX)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


# What is said where something is missing.


def test_a_missing_package_is_named_with_its_extra():
    said = r'^nowhere is not installed; pip install "gnsnn_jax\[train\]" brings it$'
    with pytest.raises(MissingPackage, match=said), extra("train"):
        import nowhere.inside
    said = r"^reading it needs nowhere, which is not installed; .* brings it, or wait$"
    with pytest.raises(ImportError, match=said), extra("data", "reading it", "or wait"):
        import nowhere  # noqa: F401
    assert issubclass(MissingPackage, InputError)


def test_faults_that_are_not_missing_packages_stay_what_they_are():
    with pytest.raises(ModuleNotFoundError, match="nowhere"), extra("train"):
        import gnsnn_jax.nowhere  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), extra("train"):
        from json import nowhere  # noqa: F401


def test_imports_of_a_script_end_it_only_where_it_runs(capsys):
    with pytest.raises(MissingPackage), imports_of("train.py", "train"), extra("train"):
        import nowhere
    with pytest.raises(SystemExit) as ended, imports_of("train.py", "__main__"), extra("train"):
        import nowhere  # noqa: F401
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("train.py: error: nowhere is not installed")


# Runs a script in this process with one package after the other missing, and prints how each run ended.
SCRIPT = """
import contextlib, io, runpy, sys
import jax

script, *packages = sys.argv[1:]
before = dict(sys.modules)
for package in packages:
    sys.modules.clear()
    sys.modules.update(before)
    sys.modules[package] = None
    sys.argv = [script, "--help"]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            (runpy.run_path if script.endswith(".py") else runpy.run_module)(script, run_name="__main__")
        except SystemExit as ended:
            status = ended.code
    print(status, said.getvalue(), end="")
"""
SHARED = ["flax", "orbax", "pydantic", "rich", "tomli_w"]
SCRIPTS = {
    "train.py": [*SHARED, "matplotlib", "optax"],
    "convert.py": [*SHARED, "matplotlib"],
    "gnsnn_jax.report.compare_runs": ["matplotlib", "rich"],
    "gnsnn_jax.report.arena": [*SHARED, "matplotlib"],
    "gnsnn_jax.report.reproduce": [*SHARED, "matplotlib", "optax"],
    "gnsnn_jax.data.prepare": ["rich"],
}


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_name_what_is_missing_in_one_sentence(script):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, script, *SCRIPTS[script]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(SCRIPTS[script]), done.stdout
    for line, package in zip(lines, SCRIPTS[script], strict=True):
        assert re.fullmatch(
            rf'2 \S+: error: {package} is not installed; pip install "gnsnn_jax\[(\w+)\]" brings it', line
        )


NAMES = {
    "build": "train",
    "from_onnx": "onnx",
    "from_torch": "torch",
    "load_converted": "train",
    "load_weights": "weights",
    "save_weights": "weights",
}
USE_NAMES = """
import gnsnn_jax as gs

for name in sys.argv[2:]:
    try:
        getattr(gs, name)(None)  # some are there, and need it when they are called
    except gs.InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_names_that_need_an_extra_say_so_when_they_are_used():
    assert NAMES.keys() == gnsnn_jax._LAZY.keys()
    done = blocked(USE_NAMES, *WITH_JAX, names=NAMES)
    assert done.returncode == 0, done.stderr
    for line, named in zip(done.stdout.splitlines(), NAMES.values(), strict=True):
        assert f'is not installed; pip install "gnsnn_jax[{named}]" brings it' in line


# What it brings.


def declared() -> dict[str, str]:
    """The public names that only type checkers import, and their modules."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {alias.name: node.module for block in blocks for node in block.body for alias in node.names}


def test_names_that_load_late_are_those_that_type_checkers_see():
    assert declared() == gnsnn_jax._LAZY
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    seen = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "__getattr__" not in seen, "with it, every misspelt name has a type"
    assert len(gnsnn_jax.__all__) == len(set(gnsnn_jax.__all__))
    assert set(gnsnn_jax.__all__) <= set(dir(gnsnn_jax))


def test_every_folder_is_packaged_and_typed():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.slow
def test_an_editable_install_adds_the_clone_to_the_path(tmp_path):
    # By setuptools' other way, a finder, Python next to a clone takes the folder of the clone for the package.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "gnsnn_jax", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_editable('dist')"]
    subprocess.run(build, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith(".pth"))
    assert path.strip() == str(tmp_path)
