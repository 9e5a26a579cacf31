"""The site, built by `make docs`. Sphinx, since its references are checked and its API page comes from the docstrings.

MkDocs and its Material theme take no new features any more; Sphinx, MyST and Furo are developed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / stage) for stage in ("export", "runtime", "cli"))]

project = "flexiast"
author = "The flexiast developers"
html_title = "flexiast"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["benchmarks/results/*"]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
python_use_unqualified_type_names = True
add_module_names = False
nitpick_ignore_regex = [
    # types of the standard library and of numpy, and what the Protocols take: named in signatures, explained elsewhere
    ("py:class", r"(collections|pathlib|types|typing|numpy|typing_extensions|logging|np)\..*"),
    ("py:class", r".* .*|tuple\[str"),  # napoleon takes "one, two: three" in a docstring for types
    (
        "py:class",
        r"Path|ArrayLike|TypeAliasForwardRef|Iterable|Iterator|Callable|Sequence|Self|TracebackType|NDArray.*|Float|optional",
    ),
    ("py:class", r"(flexiast|flexiast_runtime)\..*|Engines|Hearing|Backend|EventRules|Record|Block"),
    ("py:exc", r"(Model|Verification|Usage|Gpu|Plan|MissingExtra|Data|Sink)Error"),
]

smartquotes_action = "qe"  # no dashes: --web is an option, not –web
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_theme_options: dict[str, Any] = {
    "light_css_variables": {
        "color-brand-primary": "#0b6e63",
        "color-brand-content": "#0b6e63",
        "font-stack": "Inter, 'Segoe UI', system-ui, sans-serif",
        "font-stack--monospace": "'JetBrains Mono', ui-monospace, 'DejaVu Sans Mono', monospace",
    },
    "dark_css_variables": {"color-brand-primary": "#4fd1c0", "color-brand-content": "#4fd1c0"},
}

copybutton_prompt_text = "$ "  # of a session only the commands are copied, not what they print
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Any) -> None:
    app.connect("source-read", _unlink_files_of_the_repository)


def _unlink_files_of_the_repository(app: Any, page: str, source: list[str]) -> None:
    """A link that leaves this folder leads to the repository, which the site does not hold: its text stays."""
    folder = Path(page).parent

    def text_or_link(match: re.Match[str]) -> str:
        inside = (ROOT / "docs" / folder / match[2]).resolve().is_relative_to(ROOT / "docs")
        return match[0] if inside else match[1]

    source[0] = re.sub(r"\[([^\]\[]+)\]\((\.\./[^)#\s]+)[^)]*\)", text_or_link, source[0])
