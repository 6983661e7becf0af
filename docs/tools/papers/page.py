"""docs/papers.md, written from the table."""

import re
from collections import Counter
from collections.abc import Iterator

from .row import Offer, Paper, Status

INTRODUCTION = """\
# Papers

What the package offers for {numbered} papers on multimodal and multi-view contrast, and for works they build on. Of the
{numbered}, {exact} have exact code, {blocks} have building blocks only, {none} have no objective, and {missing} {are}
still missing.

- **exact**: the code is the paper's formula, or the official code's where the two differ. The test named next to it
  runs this very code in float64 and in float32, and compares the value and every gradient with the formula written
  densely, in float64.
- **building block**: the formula is not public, or could not be read. The code combines the parts that the paper is
  known to use, under neutral names, and does not claim to reproduce it. A test runs it all the same.
- **no objective**: the paper has no loss of embeddings.
- **not yet**: what is missing. It may stand next to an exact part.

Names are the papers'. Features are (N, D), with unit rows where the paper has them. Averages of encoders, queues, and
projections are up to you. The code runs with

```python
import contrastile
import torch
import torch.nn.functional as F
```

| | method | paper | |
|---|---|---|---|
"""
ORDER: tuple[Status, ...] = ("exact", "building block", "no objective", "not yet")


def page(groups: dict[str, tuple[Paper, ...]]) -> str:
    """`groups`: the papers by the heading they stand under."""
    papers = [paper for some in groups.values() for paper in some]
    numbered = [paper for paper in papers if paper.key.isdigit()]
    most = Counter(min((x.status for x in paper.offers), key=ORDER.index) for paper in numbered)
    exact, blocks, none, missing = (most[x] for x in ORDER)
    text = INTRODUCTION.format(
        numbered=len(numbered),
        exact=exact,
        blocks=blocks,
        none=none,
        missing=missing,
        are="is" if missing == 1 else "are",
    ) + "".join(map(row, papers))
    for title, some in groups.items():
        text += f"\n## {title}\n\n" + "\n".join(map(section, some))
    return text


def row(paper: Paper) -> str:
    statuses = ", ".join(dict.fromkeys(x.status for x in paper.offers))
    number = paper.key if numbered(paper) else ""
    return f"| {number} | [{paper.name}](#{anchor(heading(paper))}) | {linked(paper)} | {statuses} |\n"


def linked(paper: Paper) -> str:
    if not paper.arxiv:
        return f"{paper.title} (no preprint known)"
    return f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})"


def numbered(paper: Paper) -> bool:
    return re.fullmatch(r"x?\d+", paper.key) is not None


def heading(paper: Paper) -> str:
    return f"{paper.key}. {paper.name}" if numbered(paper) else paper.name


def anchor(text: str) -> str:
    """As GitHub and mkdocs make it of a heading."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def section(paper: Paper) -> str:
    said = [text for offer in paper.offers for text in paragraphs(offer)]
    return "\n".join([f"### {heading(paper)}\n", f"{linked(paper)}\n", *said])


def paragraphs(offer: Offer) -> Iterator[str]:
    name = f" ({offer.part})" if offer.part else ""
    shown = f" Shown by `{offer.test}`." if offer.test else ""
    yield f"**{offer.status}**{name}: {offer.what}.{shown}\n"
    if offer.call:
        yield f"```py\n{offer.call}\n```\n"
