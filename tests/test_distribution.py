"""What is handed out: the files beside the code say what is there, and wheel and source archive work elsewhere."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import test_architecture
import test_package

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What pip would bring for the package alone; here it is linked, which takes no download.
WITH_JAX = ["jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy"]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


# Files beside the code.


def test_the_changelog_has_this_version_in_the_usual_sections():
    text = text_of("CHANGELOG.md")
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\]", text, re.MULTILINE)
    sections = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {*re.findall(r"^### (.*)$", text, re.MULTILINE)} <= sections


def test_the_citation_names_software_and_papers():
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load(text_of("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert str(cited["version"]) == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    for paper in cited["references"]:
        assert {"type", "title", "authors", "year", "url"} <= paper.keys()
        assert all({"family-names", "given-names"} == author.keys() for author in paper["authors"])
    papers = {paper["url"] for paper in cited["references"]}
    assert papers == set(PROJECT["urls"].values())
    assert all(url in text_of("README.md") for url in papers)


def rows_of(text, title):
    """The cells of the table under a title, without its head."""
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")][
        2:
    ]


def test_contributors_are_told_the_rooms_and_what_each_may_import():
    names = lambda cell: set(re.findall(r"`(\w+)`", cell))
    rows = rows_of(text_of("CONTRIBUTING.md"), "The rooms of the package")
    told = {names(room).pop(): names(imports) for room, _, imports in rows}
    assert told == test_architecture.ROOMS


def test_contributors_are_sent_to_files_and_names_that_exist():
    for _, *cells in rows_of(text_of("CONTRIBUTING.md"), "To add something"):
        for cell in cells:
            paths = re.findall(r"`((?:gnsnn_jax|tests|docs)/[\w./]*)`", cell)
            assert all((ROOT / path).exists() for path in paths), paths
            places = [each for path in paths for each in ([ROOT / path] if "." in path else (ROOT / path).glob("*.py"))]
            text = "".join(place.read_text(encoding="utf-8") for place in places)
            assert all(name in text for name in re.findall(r"`([A-Z]{3,})`", cell)), cell


def test_what_is_supported_is_what_the_package_asks_for():
    rows = rows_of(text_of("docs/how_to/install.md"), "Versions")
    tested = {version for what, version, how in rows if what == "Python" and "not tested" not in how}
    classifiers = PROJECT["classifiers"]
    assert tested == {each.split(" :: ")[-1] for each in classifiers if re.fullmatch(r".*Python :: 3\.\d+", each)}
    assert PROJECT["requires-python"] == f">={min(tested, key=lambda each: int(each.split('.')[1]))}"


OPENS = {"open", "read_text", "write_text"}
SCRIPTS = [ROOT / "train.py", ROOT / "convert.py"]
FOLDERS = ["gnsnn_jax", "benchmarks", "docs", "examples"]
OURS = [*SCRIPTS, *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]


def text_without_encoding(tree):
    """The lines of calls that open a text file in whatever encoding the machine has."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        given = {keyword.arg for keyword in call.keywords}
        modes = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        is_binary = name == "open" and any(re.fullmatch("[rwax+]*b[rwax+]*", mode) for mode in modes)
        of_pillow = ast.unparse(call.func) == "Image.open"
        if name in OPENS and "encoding" not in given and not is_binary and not of_pillow:
            yield call.lineno


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_read_and_written_as_utf_8_on_every_system(path):
    assert not list(text_without_encoding(ast.parse(path.read_text(encoding="utf-8"))))


# Wheel and source archive.

USE = """
import sys
import gnsnn_jax as gs
assert not {"flax", "torch", "keras", "matplotlib", "orbax", "pydantic"} & {*sys.modules}, "imported too much"

import json
from importlib.metadata import metadata
from pathlib import Path
import jax
import jax.numpy as jnp

weights = {"in": jnp.full((4, 8), 0.25), "out": jnp.full((8, 3), 0.5)}
network = lambda weights, x: gs.qcfs(x @ weights["in"], 1.0, 4) @ weights["out"]
x = jnp.linspace(0.0, 1.0, 8).reshape(2, 4)
outputs = gs.to_spiking(network, gs.group_neuron(4), steps=1)(weights, x)
assert (outputs[0] == network(weights, x)).all()
found = metadata("gnsnn_jax")
print(json.dumps({
    "place": gs.__file__,
    "typed": (Path(gs.__file__).parent / "py.typed").is_file(),
    "version": found["Version"],
    "needs": [each for each in found.get_all("Requires-Dist") if "extra ==" not in each],
}))
"""


def run(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the sources, and the folder with what is built from it."""
    pytest.importorskip("build")
    pytest.importorskip("twine")
    place = tmp_path_factory.mktemp("distribution")
    left_out = shutil.ignore_patterns(".*", "runs", "build", "dist", "_build", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, place / "sources", ignore=left_out)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", place / "sources", cwd=place)
    return place / "dist"


@pytest.mark.slow
def test_wheel_and_source_archive_are_what_an_index_takes(built):
    files = sorted(built.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"] or [path.suffix for path in files] == [".gz", ".whl"]
    run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=built)


@pytest.mark.slow
def test_the_source_archive_has_all_that_tests_and_scripts_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")}
    configs = {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")}
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "how_to").glob("*.md")}
    files = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "train.py", "convert.py"}
    assert files | tests | configs | pages | {"docs/accuracy.png", "gnsnn_jax/py.typed"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("runs")]


def linked(names, folder):
    """Links to installed distributions in another folder of packages."""
    for name in names:
        found = distribution(name)
        for top in {path.parts[0] for path in found.files if path.parts[0] not in ("..", "__pycache__")}:
            (folder / top).symlink_to(Path(found.locate_file(top)).resolve())


@pytest.mark.slow
def test_the_wheel_works_where_there_is_nothing_but_jax_and_numpy(built, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    linked(WITH_JAX, packages)
    wheel = next(built.glob("*.whl"))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    run(*install, wheel, cwd=tmp_path)
    found = json.loads(run(python, "-I", "-c", USE, cwd=tmp_path))
    assert Path(found["place"]).is_relative_to(packages.resolve())
    assert found["typed"]
    assert found["version"] == PROJECT["version"]
    assert {re.match(r"[\w-]+", each)[0] for each in found["needs"]} == test_package.ALONE
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"gnsnn_jax", f"gnsnn_jax-{PROJECT['version']}.dist-info"}
