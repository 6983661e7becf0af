"""Other packages' own tests with this package's drop-ins in place: `make compat-peers PEERS=folder of their checkouts`.

packages.py says what stands in for what, plugin.py runs under their pytest, differences.py lists what differs on
purpose, check.py runs all of it and judges.
"""
