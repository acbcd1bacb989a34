"""The judge's verdicts beside people's: read from what ``cac-align score --json`` or ``best_of_n`` wrote.

A person sees a verdict only after they have finished with the video, and cannot change their answer then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cac_align.rating.items import Item
from reward_model.data.formats.verdicts import read_entries
from reward_model.data.line_checks import check_anomaly
from reward_model.schema import Anomaly, Status, VideoAnnotation
from reward_model.strict_json import is_number


@dataclass(frozen=True)
class Suggestion:
    """A verdict on one video: ``score`` is the reward, ``anomalies`` carry native frames; ``readout`` says where in
    the answer the reward was read, "" if the file does not; ``unfamiliar`` why the judge was not trained on such
    videos, "" if it was, or if nobody knows.
    """

    status: Status
    score: float | None
    anomalies: tuple[Anomaly, ...] = ()
    readout: str = ""
    unfamiliar: str = ""

    @property
    def note(self) -> str:
        """A sentence where reward and verdict lean to different sides, so that the two are one story; else ""."""
        if self.score is None or self.score == 0.5 or (self.score > 0.5) == (self.status == "normal"):
            return ""
        leaned = "normal" if self.score > 0.5 else "an anomaly"
        read = "" if self.readout in ("", "paper") else ", read before it had reasoned,"
        return f"Its reward{read} leaned towards {leaned}; its reasoning came to the verdict {self.status}."

    def truth(self, item: Item) -> VideoAnnotation:
        """The verdict as an annotation, to be compared with people's. An abnormal verdict without reasoning names no
        anomaly; its status is what :attr:`status` says.
        """
        return VideoAnnotation(
            item.video, item.num_frames, item.fps, item.width, item.height, item.prompt, self.anomalies, "judge"
        )

    def to_dict(self) -> dict[str, Any]:
        anomalies = [a.to_dict() for a in self.anomalies]
        told = {"note": self.note, "unfamiliar": self.unfamiliar}
        return {"status": self.status, "score": self.score, **told, "anomalies": anomalies}


def read_suggestions(
    root: Path, paths: Iterable[Path], items: Sequence[Item], notes: list[str] | None = None
) -> dict[str, Suggestion]:
    """Verdicts by item key. Videos missing from the files have none; a later file overrides an earlier one.

    Args:
        root: the folder that is rated.
        paths: JSON or JSONL of ``cac-align score --json``, or ``result.json`` of best-of-n.
        items: what is rated.
        notes: takes a line for each verdict that does not fit its video, which is then left out; without it such a
            verdict is an error.

    Raises:
        ValueError: if a file cannot be read, is of another kind, or none of its videos is rated here.
    """
    suggestions: dict[str, Suggestion] = {}
    for path in paths:
        entries = read_entries(path)
        matched = 0
        for entry in entries:
            item = _match(root, path, entry["video"], items)
            try:
                suggestion = _suggestion(path, entry, item) if item else None
            except ValueError as error:
                if notes is None:
                    raise
                notes.append(f"left out: {error}")
                continue
            if item and suggestion:
                suggestions[item.key] = suggestion
                matched += 1
        if not matched:
            raise ValueError(
                f"{path} holds {len(entries)} verdict(s), none on a video of {root}; "
                "judge these files with: cac-align score --json"
            )
    return suggestions


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


def _faults(anomalies: object, score: object, item: Item) -> list[str]:
    """Reasons why a verdict cannot be one on this video; empty if there is none."""
    if not isinstance(anomalies, list):
        return [f"anomalies is {anomalies!r}; it must be a list"]
    findings = [finding for a in anomalies for finding in check_anomaly(a, item.num_frames)]
    faults = [finding.message for finding in findings if finding.severity == "error"]
    if score is not None and not is_number(score):
        faults.append(f"score is {score!r}; it must be a number or null")
    return faults


def _suggestion(path: Path, entry: Mapping[str, Any], item: Item) -> Suggestion | None:
    verdict = entry.get("verdict") or {}
    if not isinstance(verdict, dict):
        raise ValueError(f"{path}: the verdict on {item.video} is not an object; judge it again")
    status = verdict.get("status", entry.get("status"))
    score = verdict.get("score", entry.get("score"))
    if status not in ("normal", "abnormal"):
        return None
    anomalies = verdict.get("anomalies") or []
    if faults := _faults(anomalies, score, item):
        raise ValueError(f"{path}: the verdict on {item.video} does not fit this file ({faults[0]}); judge it again")
    readout, reason = verdict.get("readout"), verdict.get("domain_reason")
    unfamiliar = ""
    if verdict.get("out_of_domain") is True:
        unfamiliar = reason if isinstance(reason, str) and reason else "out of domain"
    return Suggestion(
        status,
        None if score is None else float(score),
        tuple(map(Anomaly.from_dict, anomalies)),
        readout if isinstance(readout, str) else "",
        unfamiliar,
    )
