"""Colours of the figures, and what they turn into on dark pages."""

PAPER, INK, FAINT = "#ffffff", "#24292f", "#c9d1d9"
PULL, PUSH, THIRD = "#0b62c4", "#c4380b", "#2e7d4f"

DARK = {
    PAPER: "#1e2129",
    INK: "#d7dae0",
    FAINT: "#4f5563",
    PULL: "#63a8f5",
    PUSH: "#f2895c",
    THIRD: "#6cc08b",
}
