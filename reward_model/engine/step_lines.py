"""Logs with a JSON object per line and step, which a resumed run continues."""

from __future__ import annotations

import json
from pathlib import Path

from reward_model.files import write_text


def drop_lines_after(path: Path, step: int) -> None:
    """Removes what a stopped run logged beyond the checkpoint it continues from, and a line cut off by a kill."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))
