"""Small calls without the work of the host that is the same in every call of a kind.

Between a call of a loss and its kernels lies what Python checks and describes, which costs a small batch more than its
products. It depends on what guard.py lists, types and shapes, and on no number in a tensor: so the second call of a
kind is recorded, and later ones run what it did.
"""

from .cache import CACHES, recorded_call
from .recorder import as_one_step, made_apart

__all__ = ["CACHES", "as_one_step", "made_apart", "recorded_call"]
