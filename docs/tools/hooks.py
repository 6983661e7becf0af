"""What mkdocs does here besides its plugins.

Formulas become MathML in the font that the site brings, figures get a twin for dark pages, the changelog, the version
and the notebook join the site, and a page that loads anything from elsewhere fails the build."""

import html
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from fontTools.ttLib import TTFont
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs/figures"))
from palette import DARK  # noqa: E402 - the colors of figures, light -> dark

DRAWN = set(map(chr, TTFont(ROOT / "docs/fonts/math.woff").getBestCmap()))

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FIGURE = re.compile(r'<img alt="([^"]*)" src="([^"]*figures/[\w-]+)\.svg" ?/?>')
FUNCTIONS = ("arccos", "cos", "exp", "log", "max", "min", "sin")
MATHML = "{http://www.w3.org/1998/Math/MathML}"
ElementTree.register_namespace("", MATHML.strip("{}"))
LOADED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"')


def on_config(config):
    (version,) = re.findall(
        r'^__version__ = "(.*)"$', (ROOT / "python/contrastile/__init__.py").read_text(), re.MULTILINE
    )
    config.site_name += f" {version}"
    return config


def on_files(files, config):
    """CHANGELOG.md and notebooks as pages; figures/x-dark.svg for every figures/x.svg, in other colors."""
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text()))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = file.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, name, content="\n\n".join(cells(json.loads(file.content_string)))))
    for file in files.media_files():
        if file.src_uri.startswith("figures/") and file.src_uri.endswith(".svg"):
            name = file.src_uri.removesuffix(".svg") + "-dark.svg"
            files.append(File.generated(config, name, content=darkened(file.content_string)))
    return files


def cells(notebook):
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        yield text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for output in cell.get("outputs", ()):
            yield f"```text\n{''.join(output['text'])}```"


def on_page_markdown(markdown, **_):
    """Links to a notebook lead to its page; the file is what other readers of the folder see."""
    return markdown.replace(".ipynb)", ".md)")


def darkened(svg):
    for light, dark in DARK.items():
        svg = svg.replace(light, dark)
    return svg


def on_page_content(content, page, **_):
    content = FIGURE.sub(r'<img alt="\1" src="\2.svg#only-light"><img alt="\1" src="\2-dark.svg#only-dark">', content)
    return FORMULA.sub(lambda match: mathml(match[1], html.unescape(match[2]), page), content)


def mathml(tag, formula, page):
    if tag == "span":
        return converted(formula, "inline", page)
    parts = [converted(part, "block", page) for part in between_gaps(formula)]
    return '<div class="formula">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"


def between_gaps(formula):
    """What \\qquad separates, which may stand below each other where the page is narrow."""
    pieces = re.split(r"\\qquad", formula)
    parts = [""]
    for piece in pieces:
        whole = parts[-1].count("{") == parts[-1].count("}")
        parts = [*parts, piece] if whole else [*parts[:-1], parts[-1] + r"\qquad" + piece]
    return [part for part in parts if part.strip()]


def converted(formula, display, page):
    result = convert(formula, display=display)
    if "\\" in result:  # what the converter does not know, it leaves as it is
        raise PluginError(f"{page.file.src_uri}: not all of {formula!r} became MathML: {result}")
    if missing := set(html.unescape(re.sub(r"<[^>]*>", "", result))) - DRAWN:
        raise PluginError(f"{page.file.src_uri}: docs/tools/math_font.py does not know {missing} of {formula!r}")
    root = ElementTree.fromstring(result)
    for parent in list(root.iter()):
        limits_below(parent)
        spaced(parent)
    return ElementTree.tostring(root, encoding="unicode")


def limits_below(node):
    """The converter puts those of a sum within brackets beside it."""
    name = node.tag.removeprefix(MATHML)
    if name in ("msub", "msubsup") and node[0].text in ("∑", "∏"):
        node.tag = MATHML + {"msub": "munder", "msubsup": "munderover"}[name]


def spaced(parent):
    """s cos x, not scosx: space around named functions, unless an operator brings it."""
    children = list(parent)
    for before, function, after in zip([None, *children], children, [*children[1:], None], strict=False):
        if function.tag == MATHML + "mi" and function.text in FUNCTIONS:
            place = list(parent).index(function)
            if after is not None and after.tag not in (MATHML + "mo", MATHML + "mspace"):
                parent.insert(place + 1, ElementTree.Element(MATHML + "mspace", width="0.17em"))
            if before is not None and before.tag not in (MATHML + "mo", MATHML + "mspace"):
                parent.insert(place, ElementTree.Element(MATHML + "mspace", width="0.17em"))


def on_post_page(output, page, **_):
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
    return output
