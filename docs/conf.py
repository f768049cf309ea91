"""Sphinx settings: generated reference and paper pages, notebooks as text, no missing names.

Formulas are set by MathJax from a package of the index, so that the pages work offline.
"""

import sys
import tomllib
from pathlib import Path

import jupyter_server_mathjax

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import docstrings  # noqa: E402
import facts  # noqa: E402
import generate  # noqa: E402
import links  # noqa: E402
import reference  # noqa: E402
import sentences  # noqa: E402

import jaxopt_robust  # noqa: E402

project = "jaxopt_robust"
author = "The jaxopt_robust developers"
copyright = "The jaxopt_robust developers"
version = release = jaxopt_robust.__version__
urls = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"].get("urls", {})

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_ext", "_static", "conf.py"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False

autodoc_typehints = "none"  # types stand in the docstrings, with shapes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_title = "jaxopt_robust"
html_static_path = ["_static", str(Path(jupyter_server_mathjax.__file__).parent / "static")]
html_css_files = ["site.css"]
html_js_files = ["tables.js"]
mathjax_path = "MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"
mathjax2_config = {
  "messageStyle": "none",
  # MyST keeps MathJax out of its pages but for these.
  "tex2jax": {"processClass": "tex2jax_process|mathjax_process|math|output_area"},
  "HTML-CSS": {
    "scale": 90,
    "availableFonts": [],
    "webFont": "STIX-Web",
    "linebreaks": {"automatic": True},
  },
}
html_theme_options = {
  "show_prev_next": False,
  "navigation_with_keys": False,
  "secondary_sidebar_items": ["page-toc"],
  "collapse_navigation": True,
  "show_nav_level": 1,
  "navigation_depth": 2,
}
# A page a function would hold a list of all its siblings: the tables of the modules are for that.
html_sidebars = {"**": []}
html_show_sourcelink = False
templates_path: list[str] = []

reference.REPOSITORY = urls.get("Repository")
sentences.CODE |= {fact.name for fact in facts.facts().values()}
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
  """Connects docstrings, links and the check."""
  app.connect("autodoc-process-docstring", docstrings.process, priority=100)
  app.connect("build-finished", check_coverage)
  app.add_post_transform(links.LinkNames)
