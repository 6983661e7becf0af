"""Losses of this package against the same losses of other packages (requirements-peers.txt)."""
