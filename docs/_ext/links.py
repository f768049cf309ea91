"""Code spans that are public names become links; in the guide they show their hyper-parameters."""

import re
from typing import Any

import facts
from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

_GUIDE = "how-to-choose"


class LinkNames(SphinxPostTransform):
  """``jr.prox.prox_lasso`` (and ``prox_lasso`` on pages of prox) in a code span is a link."""

  default_priority = 5

  def run(self, **kwargs: Any) -> None:
    """Replaces the spans of one page."""
    docname = self.env.docname
    known = facts.facts()
    # In the reference a module's own names go without it.
    here = docname.split("/")[2] if docname.startswith("generated/reference/") else ""
    for node in list(self.document.findall(nodes.literal)):
      match = re.fullmatch(r"(?:jr\.)?([\w.]+)(\(.*\))?", node.astext())
      fact = (known.get(match[1]) or known.get(f"{here}.{match[1]}")) if match else None
      if fact is None or isinstance(node.parent, nodes.reference):
        continue
      target = f"generated/{facts.location(fact)}"
      if target == docname or target not in self.env.found_docs:
        continue
      uri = self.app.builder.get_relative_uri(docname, target)
      anchor = f"#{fact.full}" if fact.is_type else ""
      link = nodes.reference("", "", node.deepcopy(), internal=True, refuri=uri + anchor)
      replacement: list[nodes.Node] = [link]
      if docname == _GUIDE and fact.module == "prox" and fact.hyper and _in_table(node):
        replacement += [nodes.Text(" "), nodes.emphasis(fact.hyper, fact.hyper, classes=["hyper"])]
      node.parent.replace(node, replacement)


def _in_table(node: nodes.Node) -> bool:
  while node is not None:
    if isinstance(node, nodes.entry):
      return True
    node = node.parent
  return False
