"""What the processes of a run tell each other."""

from __future__ import annotations

from typing import Any


def gather(accelerator: Any, values: list[Any]) -> list[Any]:
    """The lists of all processes, joined in their order; a call that all processes must make."""
    if accelerator.num_processes == 1:
        return values
    from accelerate.utils import gather_object

    return gather_object(values)
