"""First Ctrl-C or SIGTERM: finish and save the current step; second: stop immediately."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class Interrupted(RuntimeError):
    """Somebody stopped the training; nothing is lost. ``exit_code`` is what shells expect of such an end."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.exit_code = 128 + (number or signal.SIGINT)


class StopRequest:
    """A request to stop this process, if somebody made one.

    Example:
        >>> stop = StopRequest()
        >>> with stop.listening():
        ...     while not stop.requested:
        ...         break
    """

    def __init__(self) -> None:
        self.requested = False
        #: Number of the signal that asked; 0 before.
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While active, the first SIGINT or SIGTERM sets ``requested``, the next raises KeyboardInterrupt.

        Only the main thread gets signals; elsewhere nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self.signal = True, number
        log.warning("asked to stop: this step is finished and saved first; ask again to stop at once")

    def ended(self, step: int, steps: int, checkpoint: object) -> Interrupted:
        """The error a training ends with once its checkpoint is written."""
        return Interrupted(
            f"stopped on request after step {step:,} of {steps:,}; the same command continues from {checkpoint}",
            self.signal,
        )
