"""What mkdocs does here besides its plugins.

Formulas become MathML in the font that the site brings, figures get a twin for dark pages, the changelog, the version
and the notebook join the site, and a page that loads anything from elsewhere fails the build."""

import html
import json
import re
import sys
from pathlib import Path

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
NAMED = re.compile(r"(<mi>(?:arccos|cos|exp|log|max|min|sin)</mi>)(?=<m(?!o[ >]|space))")  # log u, not logu
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
    result = convert(formula, display="block" if tag == "div" else "inline")
    result = NAMED.sub(r'\1<mspace width="0.17em"/>', result)
    if "\\" in result:  # what the converter does not know, it leaves as it is
        raise PluginError(f"{page.file.src_uri}: not all of {formula!r} became MathML: {result}")
    if missing := set(html.unescape(re.sub(r"<[^>]*>", "", result))) - DRAWN:
        raise PluginError(f"{page.file.src_uri}: docs/tools/math_font.py does not know {missing} of {formula!r}")
    return f'<div class="formula">{result}</div>' if tag == "div" else result


def on_post_page(output, page, **_):
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
    return output
