"""The drop-ins against the packages they stand in for."""
