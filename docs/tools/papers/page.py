"""docs/papers.md, written from the table."""

import re
from collections import Counter
from collections.abc import Iterator

from .row import Offer, Paper

INTRODUCTION = """\
# Papers

What the package offers of {numbered} papers on multimodal and multi-view contrast, and of works that they build on. {counts}.

- **exact**: the code below is the paper's formula, or that of its official code where the two differ. The test beside it runs this very code in float64 and in float32 and compares the value and every
  gradient with the formula written densely, in float64.
- **building block**: the formula is not public, or could not be read. The code is what the paper is known to be made of, under neutral names; it does not claim to reproduce the paper.
- **no objective**: the paper has no loss of embeddings.
- **not yet**: what is missing. It may stand beside an exact part.

Names in the code are those of the papers: features are (N, D), rows of length 1 where the paper has them so. All of it runs with

```python
import contrastile
import torch
import torch.nn.functional as F
```

| | paper | offered | status |
|---|---|---|---|
"""
SIGNS = {"exact": "exact", "building block": "building blocks", "no objective": "no objective", "not yet": "not yet"}


def page(papers: tuple[Paper, ...], groups: dict[str, tuple[Paper, ...]]) -> str:
    """`groups`: the papers by the heading they stand under."""
    numbered = [x for x in papers if x.key.isdigit()]
    text = INTRODUCTION.format(numbered=len(numbered), counts=counted(numbered))
    text += "".join(row(x) for x in papers)
    for heading, some in groups.items():
        sections = [section(x) for x in some if has_section(x)]
        text += f"\n## {heading}\n\n" + "\n".join(sections)
    return text


def counted(papers: list[Paper]) -> str:
    found = Counter(status(x) for x in papers)
    return ", ".join(f"{found[x]} {sign}" for x, sign in SIGNS.items() if found[x]).capitalize()


def status(paper: Paper) -> str:
    """Of the most that there is of it."""
    return min((x.status for x in paper.offers), key=list(SIGNS).index)


def row(paper: Paper) -> str:
    mark = f"[{paper.key}](#{anchor(heading(paper))})" if has_section(paper) else paper.key
    said = "; ".join(dict.fromkeys(x.status for x in paper.offers))
    first = paper.offers[0] if len(paper.offers) == 1 else None
    offered = first.what if first and not first.call else "; ".join(x.what for x in paper.offers if x.call) or "-"
    return f"| {mark} | {linked(paper)} | {offered} | {said} |\n"


def linked(paper: Paper) -> str:
    if not paper.arxiv:
        return f"{paper.title} (no preprint known)"
    return f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})"


def has_section(paper: Paper) -> bool:
    return any(x.call for x in paper.offers)


def heading(paper: Paper) -> str:
    return f"{paper.key}. {paper.name}" if paper.key.isdigit() else f"{paper.key}: {paper.name}"


def anchor(text: str) -> str:
    """As GitHub and mkdocs make it of a heading."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def section(paper: Paper) -> str:
    return "\n".join([f"### {heading(paper)}\n", f"{linked(paper)}\n", *(line for x in paper.offers for line in said(x))])


def said(offer: Offer) -> Iterator[str]:
    name = f" ({offer.part})" if offer.part else ""
    shown = f" Shown by `{offer.test}`." if offer.test else ""
    yield f"**{offer.status}**{name}: {offer.what}.{shown}\n"
    if offer.call:
        yield f"```py\n{offer.call}\n```\n"
