"""Tests that come out otherwise with the drop-ins, on purpose, and why. Keys: a test, or the beginning of its name."""

DIFFERENCES: dict[str, dict[str, str]] = {}
