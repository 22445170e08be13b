"""How Sphinx builds these pages: Markdown by MyST, formulas as MathML, so that nobody needs a network for them.

`make docs` writes the site to build/docs; a warning is an error there.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

import simplicit

project = "simplicit"
author = "The simplicit developers"
project_copyright = author
version = release = simplicit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

#: Types in docstrings are words, such as "shape" or "arrays", which several classes have as names of members.
suppress_warnings = ["ref.python"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types and shapes
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"simplicit {release}"
html_math_renderer = "mathml"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["formulas.css"]

#: |…| and ‖…‖ in a formula.
BARS = re.compile(r"\\l([vV])ert(?![a-z])(.*?)\\r\1ert(?![a-z])", flags=re.DOTALL)


def show_docstring(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Make a docstring with formulas in Unicode valid reStructuredText.

    Indented lines before the first section are formulas and are shown as they stand; elsewhere a bar is a bar and not a
    substitution, neither a letter with a full stop nor an equation's number begins a list, and the star of (m, *shape)
    is no emphasis.
    """
    underlines = [i for i, line in enumerate(lines) if line and set(line) <= {"-"}]
    first_section = underlines[0] - 1 if underlines else len(lines)
    shown: list[str] = []
    formula = False
    for i, line in enumerate(lines):
        indented = line.startswith("    ") and i < first_section
        if indented and not formula:
            shown += ["::", ""]
        formula = (indented or (formula and not line)) and i < first_section
        if not formula and not line.lstrip().startswith((">>>", "...")):
            line = re.sub(r"^(\s*)(\w\. |\(\w+\) )", r"\1\\\2", line.replace("|", r"\|"))
            line = re.sub(r"(?<=, )\*(?=\w+\))", r"\*", line)
        shown.append(line)
    lines[:] = shown


def _mathml(node: nodes.math | nodes.math_block, *, as_block: bool) -> str:
    # MathML tells an opening bar from a closing one by its place in a group.
    grouped = BARS.sub(r"{\\l\1ert\2\\r\1ert}", node.astext())
    try:
        return str(tex2mathml(grouped, as_block=as_block))
    except MathError as error:
        logging.getLogger(__name__).warning("formula %r: %s", node.astext(), error, location=node)
        return ""


def _inline_formula(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def _displayed_formula(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Register both."""
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_displayed_formula, None))
    app.connect("autodoc-process-docstring", show_docstring, priority=400)  # before napoleon reads it
