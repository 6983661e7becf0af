"""Docstrings of the package as Markdown: sections in bold, arguments as a list, formulas (indented) as they are."""

import re

from griffe import Extension

SECTION = re.compile(r"(Args|Returns|Raises|Gradients|Cost|Cost [^:]*|State|Source): ?(.*)")
ITEM = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")
CODE = re.compile(r"(`+[^`]*`+)")
PAPER = re.compile(r"https://arxiv\.org/abs/([\d.]*\d)")


class PlainDocstrings(Extension):
    def on_instance(self, *, obj, **_):
        if obj.docstring and not obj.is_module:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring):
    """Text is escaped, so that <a, b>, * and _ mean themselves; addresses of papers become links."""
    lines, section, margin = [], "", 0  # margin: where text of the current part begins
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        if section == "Example":
            if indent:
                lines.append(line[4:])
                continue
            section, margin = "", 0
            lines.append("```")
        if not line:
            lines.append("")
        elif line == "Example:":
            section = "Example"
            lines += ["", "**Example:**", "", "```pycon"]
        elif found := SECTION.fullmatch(line):
            section, margin = found[1], 4
            lines += ["", f"**{section}:** {escaped(found[2])}"]
        elif section == "Args" and (found := ITEM.fullmatch(line)):
            margin = 8
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            lines += ["", f"- {names}: {escaped(found[2])}"]
        elif indent == 0:
            section, margin = "", 0
            lines.append(escaped(line))
        elif indent >= margin + 4:  # a formula
            lines.append(line[4:] if section == "Args" else line[margin:])
        else:
            within_list = margin == 8 or (indent and not section)
            lines.append(("    " if within_list else "") + escaped(line.strip()))
    return "\n".join([*lines, "```"] if section == "Example" else lines)


def escaped(text):
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"([*_$])", r"\\\1", part.replace("<", "&lt;")) for part in parts[::2]]
    return PAPER.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", "".join(parts))
