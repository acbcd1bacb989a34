"""Seeds that depend on what is drawn, never on which process draws it or how far a generator has run."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A well mixed 63-bit seed from integers and texts: the same on every machine, rank and library version.

    Example:
        >>> derive_seed(0, "window", 3) == derive_seed(0, "window", 3) != derive_seed(0, "window", 4)
        True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
