"""The judge's verdicts beside people's: read from what ``cac-align score --json`` or ``best_of_n`` wrote.

A person sees a verdict only after they have finished with the video, and cannot change their answer then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cac_align.rating.items import Item
from reward_model.schema import Anomaly, Status, VideoAnnotation


@dataclass(frozen=True)
class Suggestion:
    """A verdict on one video: ``score`` is P(normal), ``anomalies`` carry native frames."""

    status: Status
    score: float | None
    anomalies: tuple[Anomaly, ...] = ()

    def truth(self, item: Item) -> VideoAnnotation:
        """The verdict as an annotation, to be compared with people's. An abnormal verdict without reasoning names no
        anomaly; its status is what :attr:`status` says.
        """
        return VideoAnnotation(
            item.video, item.num_frames, item.fps, item.width, item.height, item.prompt, self.anomalies, "judge"
        )

    def to_dict(self) -> dict[str, Any]:
        return {"status": self.status, "score": self.score, "anomalies": [a.to_dict() for a in self.anomalies]}


def read_suggestions(root: Path, paths: Iterable[Path], items: Sequence[Item]) -> dict[str, Suggestion]:
    """Verdicts by item key. Videos a file does not speak of have none; a later file overrides an earlier one.

    Args:
        root: the folder that is rated.
        paths: JSON or JSONL of ``cac-align score --json``, or ``result.json`` of best-of-n.
        items: what is rated.

    Raises:
        ValueError: a file cannot be read, is of another kind, or none of its videos is rated here.
    """
    found: dict[str, Suggestion] = {}
    for path in paths:
        entries = list(_entries(path))
        matched = 0
        for entry in entries:
            item = _match(root, path, str(entry["video"]), items)
            suggestion = _suggestion(path, entry, item) if item else None
            if item and suggestion:
                found[item.key] = suggestion
                matched += 1
        if not matched:
            raise ValueError(
                f"{path} holds {len(entries)} verdict(s), none on a video of {root}; "
                "judge these files with: cac-align score --json"
            )
    return found


def _entries(path: Path) -> Iterable[Mapping[str, Any]]:
    if not path.is_file():
        raise ValueError(f"no file of verdicts at {str(path)!r}; make one with: cac-align score --json VIDEO ...")
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
    except ValueError:
        try:
            data = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise ValueError(f"{path} is neither JSON nor JSONL: {error}") from error
    entries = data.get("candidates", [data]) if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "video" in e for e in entries):
        raise ValueError(f"{path} is no list of verdicts; expected what cac-align score --json prints")
    return entries


def _match(root: Path, path: Path, video: str, items: Sequence[Item]) -> Item | None:
    """By the file's place; by its bare name where only one video has it (the folder may have been moved)."""
    real = root.resolve()
    for base in (Path.cwd(), path.parent, root):
        place = (base / video).resolve()
        if place.is_relative_to(real):
            for item in items:
                if item.video == place.relative_to(real).as_posix():
                    return item
    named = [i for i in items if Path(i.video).name == Path(video).name]
    return named[0] if len(named) == 1 else None


def _suggestion(path: Path, entry: Mapping[str, Any], item: Item) -> Suggestion | None:
    verdict = entry.get("verdict") or {}
    status = verdict.get("status", entry.get("status"))
    score = verdict.get("score", entry.get("score"))
    if status not in ("normal", "abnormal"):
        return None
    try:
        anomalies = tuple(Anomaly.from_dict(a) for a in verdict.get("anomalies", ()))
        suggestion = Suggestion(status, None if score is None else float(score), anomalies)
        suggestion.truth(item)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the verdict on {item.video} does not fit this file ({error}); judge it again") from (
            error
        )
    return suggestion
