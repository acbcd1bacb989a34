"""Video generation, judged and aligned: rewards for diffusers users, best-of-n, and pages that show the evidence.

Importing this package loads nothing heavy: torch, diffusers and transformers load when a name is first used.

Example:
    >>> from cac_align import CaCReward, best_of_n          # doctest: +SKIP
    >>> out = best_of_n(pipe, "a dog catches a ball", reward=CaCReward(), n=5)      # doctest: +SKIP
    >>> out.save("outputs/dog")                             # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BestOfNOutput": "cac_align.selection",
    "CaCReward": "cac_align.rewards.cac",
    "CompositeReward": "cac_align.rewards.composite",
    "best_of_n": "cac_align.selection",
}

__all__ = ["BestOfNOutput", "CaCReward", "CompositeReward", "__version__", "best_of_n"]

if TYPE_CHECKING:
    from cac_align.rewards.cac import CaCReward
    from cac_align.rewards.composite import CompositeReward
    from cac_align.selection import BestOfNOutput, best_of_n


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
