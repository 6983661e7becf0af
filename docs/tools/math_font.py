"""Makes docs/fonts/math.woff: the glyphs of formulas, with the table of sizes that browsers need to draw them right.

python docs/tools/math_font.py STIXMath-Regular.otf  # of Debian's fonts-stix

The font is under the SIL Open Font License (docs/fonts/OFL.txt), which asks that a changed font has another name.
"""

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

TARGET = Path(__file__).parents[1] / "fonts/math.woff"
NAME = "contrastile math"
ITALIC = [
    *range(0x1D434, 0x1D455),
    *range(0x1D456, 0x1D468),
    *range(0x1D6FC, 0x1D71C),
    0x210E,
]  # what browsers take for <mi>x</mi>
GREEK = [*range(0x391, 0x3A2), *range(0x3A3, 0x3AA), *range(0x3B1, 0x3CA), 0x2202, 0x3F5]
SIGNS = "\xa0¯·×±¬°‖′″ℓℝ←→↦∀∃∂∅∇∈∉∏∑−∗∘√∞∣∥∧∨∩∪∫∼≈≠≡≤≥≪≫⊂⊆⊕⊗⊤⊥⋅⋯…⟨⟩⌈⌉⌊⌋𝔼𝟙ˆ˜ˉ˙→⏞⏟"
COMBINING = [0x302, 0x303, 0x304, 0x305, 0x307, 0x20D7]


def characters() -> set[int]:
    return {*range(0x20, 0x7F), *ITALIC, *GREEK, *map(ord, SIGNS), *COMBINING}


def main() -> None:
    font = TTFont(sys.argv[1])
    subsetter = Subsetter(Options(layout_features=["ssty", "dtls", "mkmk"], drop_tables=["FFTM", "GPOS", "GDEF"]))
    subsetter.populate(unicodes=characters())
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 3, 4, 6, 16):
            record.string = NAME.replace(" ", "") if record.nameID == 6 else NAME
    font["CFF "].cff.fontNames[0] = NAME.replace(" ", "")
    font.flavor = "woff"
    TARGET.parent.mkdir(exist_ok=True)
    font.save(TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes, {len(font.getBestCmap())} characters")


if __name__ == "__main__":
    main()
