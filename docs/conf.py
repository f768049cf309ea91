"""Sphinx settings: generated reference and paper pages, notebooks as text, no missing names."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import docstrings  # noqa: E402
import generate  # noqa: E402

import jaxopt_robust  # noqa: E402

project = "jaxopt_robust"
author = "The jaxopt_robust developers"
copyright = "The jaxopt_robust developers"
version = release = jaxopt_robust.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.intersphinx",
]
exclude_patterns = ["_build", "_ext", "conf.py"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # types stand in the docstrings, with shapes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
python_maximum_signature_line_length = 88
# Offline builds must not fail: links into other projects' documentation are looked up by hand.
intersphinx_mapping: dict[str, tuple[str, None]] = {}

html_theme = "pydata_sphinx_theme"
html_title = "jaxopt_robust"
html_theme_options = {
  "show_prev_next": False,
  "navigation_with_keys": False,
  "secondary_sidebar_items": ["page-toc"],
}
templates_path: list[str] = []

generate.write_all(HERE / "generated")


def check_coverage(app, exception) -> None:
  """Fails a build whose pages lack a public name."""
  if exception is not None or app.builder.format != "html":
    return
  documented = set(app.env.domaindata["py"]["objects"])
  missing = [name for name in generate.public_names() if name not in documented]
  if missing:
    from sphinx.errors import ExtensionError

    raise ExtensionError(f"public names without documentation: {', '.join(missing)}")


def setup(app) -> None:
  """Connects the two checks."""
  app.connect("autodoc-process-docstring", docstrings.process, priority=100)
  app.connect("build-finished", check_coverage)
