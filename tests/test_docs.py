"""The documentation site: nothing is missing from it, and its links lead somewhere. `make docs` builds it."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import gnsnn_jax

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
GROUPS = runpy.run_path(str(DOCS / "extensions" / "groups.py"))
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")


def without_listings(text):
    """A page without its listings and cells."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def entries(page):
    """The pages in the tables of contents of one."""
    for table in TOCTREE.findall(page.read_text(encoding="utf-8")):
        for line in table.splitlines():
            if line.strip() and not line.startswith(":"):
                yield from ((page.parent / found).resolve() for found in matching(page, line.strip()))


def matching(page, entry):
    if "*" not in entry:
        return [f"{entry}.md"]
    folder = (page.parent / entry).parent.resolve()
    return [path for path in folder.glob(f"{Path(entry).name}.md") if path != page.resolve()]


def test_the_site_has_its_settings_and_its_first_page():
    assert (DOCS / "conf.py").is_file()
    assert (DOCS / "index.md").is_file()


def test_every_page_is_in_exactly_one_table_of_contents():
    found = [entry for page in PAGES for entry in entries(page)]
    assert all(entry.is_file() for entry in found), [entry for entry in found if not entry.is_file()]
    assert sorted(found) == sorted(page.resolve() for page in PAGES if page != DOCS / "index.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_to_files_lead_to_some(page):
    for link in LINK.findall(without_listings(page.read_text(encoding="utf-8"))):
        assert "://" in link or (page.parent / link).exists(), link


def test_the_reference_has_every_public_name_once():
    groups = GROUPS["GROUPS"]
    found = [name for group in groups for name in GROUPS["names_of"](group)]
    assert sorted(found) == sorted(gnsnn_jax.__all__)
    for group in groups:
        text = (DOCS / "reference" / f"{group}.md").read_text(encoding="utf-8")
        assert f"```{{public-names}} {group}\n" in text


def test_names_are_where_readers_look_for_them():
    group_of = GROUPS["group_of"]
    wanted = {
        "group_neuron": "neurons",
        "qcfs": "neurons",
        "offset_spikes": "calibrations",
        "CorrectionRule": "calibrations",
        "find_corrections": "calibrations",
        "to_spiking": "conversion",
        "find_thresholds": "thresholds",
        "verify": "analysis",
        "from_torch": "interop",
        "load_converted": "runs",
        "InputError": "others",
    }
    assert {name: group_of(name) for name in wanted} == wanted


def test_classes_that_functions_return_are_documented_with_them():
    assert GROUPS["returned_class"]("offset_spikes").__name__ == "OffsetSpikes"
    assert GROUPS["returned_class"]("to_spiking").__name__ == "SpikingFunction"
    assert GROUPS["returned_class"]("group_neuron") is None, "GroupNeuron is public"


def test_classes_that_have_a_name_on_the_command_line_alone_are_documented_too():
    assert {"ForwardBias", "LightCalibration"} <= {
        each.__name__ for each in GROUPS["registered_classes"]("calibrations")
    }
    assert gnsnn_jax.GroupNeuron not in GROUPS["registered_classes"]("neurons")


DOCSTRING = """\
Fires at S_t or later, `run` tells it, for *all* inputs |x|.

    y_t = u * x_t

name    what it is
        called

Args:
    probe_steps: rho, a * b:
        more of `it`.

        "mse"   the least

Returns:
    apply: `apply(x)` is
        a function.
    state: v [T, *shape].
"""


def test_docstrings_become_restructuredtext(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS))
    for name in [name for name in sys.modules if name.split(".")[0] == "extensions"]:
        monkeypatch.delitem(sys.modules, name)
    from extensions.public_names import as_rest

    text = "\n".join(as_rest(DOCSTRING.splitlines()))
    assert r"Fires at S_t or later, :py:obj:`run <gnsnn_jax.run>` tells it, for \*all\* inputs \|x\|." in text
    assert "::\n\n    y_t = u * x_t\n" in text
    assert "::\n\n    name    what it is\n            called\n" in text
    assert "Args:\n    probe_steps: rho, a \\* b:\n        more of ``it``.\n" in text
    assert '        ::\n\n            "mse"   the least\n' in text
    assert "Returns:\n    apply and state\n\n    - **apply**: ``apply(x)`` is\n      a function.\n" in text
    assert "    - **state**: v [T, \\*shape].\n" in text
