"""What mkdocs does here besides its plugins: formulas become MathML, figures get a twin for dark pages, and a page that
loads anything from elsewhere fails the build."""

import html
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.append(str(Path(__file__).parents[1] / "figures"))
from palette import DARK  # the colours of figures, light -> dark

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FIGURE = re.compile(r'<img alt="([^"]*)" src="([^"]*figures/[\w-]+)\.svg" ?/?>')
LOADED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"')


def on_files(files, config):
    """figures/x-dark.svg for every figures/x.svg: the same drawing, other colours."""
    for file in files.media_files():
        if file.src_uri.startswith("figures/") and file.src_uri.endswith(".svg"):
            name = file.src_uri.removesuffix(".svg") + "-dark.svg"
            files.append(File.generated(config, name, content=darkened(file.content_string)))
    return files


def darkened(svg):
    for light, dark in DARK.items():
        svg = svg.replace(light, dark)
    return svg


def on_page_content(content, page, **_):
    content = FIGURE.sub(r'<img alt="\1" src="\2.svg#only-light"><img alt="\1" src="\2-dark.svg#only-dark">', content)
    return FORMULA.sub(lambda match: mathml(match[1], html.unescape(match[2]), page), content)


def mathml(tag, formula, page):
    result = convert(formula, display="block" if tag == "div" else "inline")
    if "\\" in result:  # what the converter does not know, it leaves as it is
        raise PluginError(f"{page.file.src_uri}: not all of {formula!r} became MathML: {result}")
    return f'<div class="formula">{result}</div>' if tag == "div" else result


def on_post_page(output, page, **_):
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
    return output
