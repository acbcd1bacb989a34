"""Counts of a server in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import threading
from collections import Counter

_HELP = {
    "requests_total": ("counter", "Answers by HTTP status."),
    "videos_total": ("counter", "Videos by outcome: scored, unjudged, abandoned."),
    "batches_total": ("counter", "Calls of the reward."),
    "judging_seconds_total": ("counter", "Seconds spent in the reward."),
    "waiting_videos": ("gauge", "Videos that wait or are being judged."),
    "held_bytes": ("gauge", "Bytes of requests that are being received or wait."),
}


class Counters:
    """Numbers that only grow, by name and label; every thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seconds = 0.0

    def add(self, name: str, label: str = "", number: int = 1) -> None:
        """Adds to ``name``; ``label`` is written as ``key="value"``."""
        with self._lock:
            self._counts[name, label] += number

    def judged(self, seconds: float) -> None:
        """Counts one call of the reward."""
        with self._lock:
            self._counts["batches_total", ""] += 1
            self._seconds += seconds

    def text(self, **gauges: int) -> str:
        """Everything, with the present values of the gauges."""
        with self._lock:
            rows = [(name, label, f"{n}") for (name, label), n in sorted(self._counts.items())]
            rows.append(("judging_seconds_total", "", f"{self._seconds:.6f}"))
        rows += [(name, "", f"{n}") for name, n in gauges.items()]
        lines = []
        for name, (kind, meaning) in _HELP.items():
            lines += [f"# HELP cac_align_{name} {meaning}", f"# TYPE cac_align_{name} {kind}"]
            lines += [f"cac_align_{name}{f'{{{label}}}' if label else ''} {n}" for row, label, n in rows if row == name]
        return "\n".join(lines) + "\n"
