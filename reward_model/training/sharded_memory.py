"""A forward pass of sharded weights that comes to its end although a process has run out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from reward_model.backends.devices import ran_out_of_memory
from reward_model.engine.replaced_forward import replaced_forward


class LayersToTheEnd:
    """Layers of FSDP2 that hand their input on where memory does not suffice for their output.

    Every layer gathers its weights from all processes. One that broke off in the midst of a forward pass would leave
    the others waiting for it. Handed on, the states are worthless but have their shape, and all later layers are
    gathered: the pass ends, and its result must be thrown away if :meth:`take_failure` gives an error.

    ZeRO-3 gathers by single matrices, and what lies outside the layers (embeddings, the head) has no input of its
    output's shape: running out of memory there raises as ever.

    Args:
        model: with ``_no_split_modules``, the classes of its layers; without layers of FSDP2, nothing changes.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule

        self._failure: BaseException | None = None
        names = set(getattr(getattr(model, "module", model), "_no_split_modules", None) or ())
        modules = model.modules() if isinstance(model, nn.Module) else ()
        self._layers = [
            m for m in modules if isinstance(m, FSDPModule) and names & {kind.__name__ for kind in type(m).__mro__}
        ]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A block whose forward passes come to their end. They must be without gradients."""
        with ExitStack() as stack:
            for layer in self._layers:
                stack.enter_context(replaced_forward(layer, self._guarded(layer.forward)))
            yield

    def take_failure(self) -> BaseException | None:
        """The error of the last forward pass, once; None if all of it was computed."""
        found, self._failure = self._failure, None
        return found

    def _guarded(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
            try:
                return forward(hidden_states, *args, **options)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                self._failure = error.with_traceback(None)  # which would keep the tensors
                return hidden_states

        return guarded
