"""CITATION.cff is well formed and names this version; the changelog and the licence are there."""

import re
from pathlib import Path

import yaml

import jaxopt_robust

ROOT = Path(__file__).parents[1]


def test_citation_file_has_the_required_fields():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  # The required keys of the Citation File Format 1.2.0.
  assert {"cff-version", "message", "title", "authors"} <= set(citation)
  assert citation["cff-version"] == "1.2.0"
  assert citation["type"] == "software" and citation["license"] == "Apache-2.0"
  for author in citation["authors"]:
    assert set(author) & {"name", "family-names"}


def test_citation_names_the_version_of_the_package():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert str(citation["version"]) == jaxopt_robust.__version__


def test_changelog_has_a_section_for_the_version():
  text = (ROOT / "CHANGELOG.md").read_text()
  headings = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)
  assert headings and headings[0] in ("Unreleased", jaxopt_robust.__version__)
  assert "jax 0." in text


def test_licence_is_the_whole_apache_licence():
  text = (ROOT / "LICENSE").read_text()
  assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
