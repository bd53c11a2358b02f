"""Settings of the documentation site; `make docs` builds it into docs/_build/html. Nothing is fetched from the web."""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

# A table of contents that no page has joined yet is no fault.
logging.getLogger("sphinx.sphinx.directives.other").addFilter(lambda record: "toctree glob" not in str(record.msg))

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the extensions below
os.environ.setdefault("MATPLOTLIBRC", str(HERE / "matplotlibrc"))  # the look of the pictures that pages draw

project = "gnsnn_jax"
author = "the authors of gnsnn_jax"
copyright = "the authors of gnsnn_jax, Apache License 2.0"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "extensions.mathml",
    "extensions.public_names",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3

# Pages with code run as a whole in each build, and a cell that fails ends it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds for a cell
nb_merge_streams = True
nb_render_markdown_format = "myst"  # for tables that cells make
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
# PyTorch is no dependency of the site: where it is missing, its page stands there without outputs, and says so.
HAS_TORCH = find_spec("torch") is not None
nb_execution_excludepatterns = [] if HAS_TORCH else ["tutorials/pytorch.md"]
myst_substitutions = {
    "outputs_of_torch": "The outputs below are those of this build of the site."
    if HAS_TORCH
    else "This build of the site had no PyTorch, so the code below stands without outputs. With PyTorch 2.13.0 the "
    "stations printed 98.00 % in PyTorch, 98.00 % in JAX, 97.56 % with GN at T = 1, 98.00 % with IF at T = 32, and "
    "97.78 % from the file."
}

# The reference comes from the docstrings, which `extensions.public_names` turns into reStructuredText.
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # methods stand where they are explained
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_preprocess_types = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
# Types in signatures are text: those of JAX, NumPy and Python have their own references.
nitpick_ignore_regex = [("py:.*", ".*")]

highlight_language = "none"  # of listings that name no language
html_theme = "sphinx_book_theme"
html_title = "gnsnn_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_navbar_depth": 1,
    "home_page_in_toc": False,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
}
