"""The how-to pages: their code runs from top to bottom, and the messages that they explain are those of the library."""

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (ROOT / "docs" / "how_to").glob("*.md") if path.name != "index.md")
NEEDED = {"export": ["flatbuffers"], "keras": ["h5py"], "save": ["flatbuffers"], "simulators": ["nir", "h5py"]}
SAID = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)  # what a page says that a line prints
MESSAGE = re.compile(r"^- `([^`]+)`", re.MULTILINE)  # under "What goes wrong", a part of a message
# Pages without code to run: installation, and scripts that train or convert for minutes.
OF_COMMANDS = {"devices", "install", "report", "scripts", "train"}


def code_of(page):
    """The Python of a page with its lines where the page has them, so that an error names the right one."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        inside = line == "```python" if fence else inside
    return "\n".join(lines)


def packages_of(code):
    """The packages that some code imports, but those of Python itself."""
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in OF_COMMANDS], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, capsys, unchecked):
    code = code_of(page)
    for package in sorted({*packages_of(code), *NEEDED.get(page.stem, [])}):
        pytest.importorskip(package, exc_type=ImportError)
    module = ModuleType(f"how_to_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as users have it
        exec(compile(code, page, "exec"), module.__dict__)
    printed = capsys.readouterr().out.splitlines()
    said = SAID.findall(code)
    assert said, "the page says nowhere what it prints"
    assert [line for line in said if line not in printed] == [], printed


def test_pages_without_code_are_those_of_commands():
    assert {page.stem for page in PAGES if not code_of(page).strip()} == OF_COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_goes_wrong_in_words_of_the_library(page):
    text = page.read_text(encoding="utf-8")
    assert "\n## What goes wrong\n" in text
    messages = MESSAGE.findall(text.split("\n## What goes wrong\n")[1])
    assert messages
    for message in messages:
        assert any(plain(message) in source for source in SOURCES), message


def plain(text):
    """Without line breaks between the parts of a text in code, so that a message is found as it is printed."""
    return re.sub(r'["\']\s*\n\s*f?["\']', "", text)


SOURCES = [plain(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "gnsnn_jax").rglob("*.py"))]
COMMAND = re.compile(r"^python (train|convert)\.py(.*)$", re.MULTILINE)


@pytest.mark.parametrize("script", ["train", "convert"])
def test_commands_of_pages_are_those_of_the_scripts(script):
    pytest.importorskip("pydantic")
    parse = runpy.run_path(str(ROOT / f"{script}.py"))["parse"]
    lines = [found for page in PAGES for found in COMMAND.findall(page.read_text(encoding="utf-8"))]
    given = [shlex.split(arguments, comments=True) for name, arguments in lines if name == script]
    assert given
    for arguments in given:
        parse(arguments)
