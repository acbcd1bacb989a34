"""Ctrl-C and SIGTERM as a request, as in the trainings of the judge."""

from reward_model.engine.interrupts import StopRequest

__all__ = ["StopRequest"]
