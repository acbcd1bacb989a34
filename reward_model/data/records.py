"""One annotated video as one JSON object: where the file lies, what is true of it, and whatever else stands there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reward_model.schema import VideoAnnotation

#: Keys of a line that have their own meaning; every other key is kept in :attr:`Record.extra`.
RECORD_KEYS = (
    "video",
    "video_id",
    "num_frames",
    "fps",
    "width",
    "height",
    "prompt",
    "status",
    "anomalies",
    "source",
    "split",
)
REQUIRED_KEYS = ("video", "video_id", "num_frames", "fps", "width", "height", "status", "anomalies")
#: The extra key that names the source footage; videos of one group never land in different splits.
GROUP_KEY = "group"
#: Extra keys: that no person made an annotation, and what a person did with it afterwards; the model that made it.
ORIGIN_KEY, MAKER_KEY = "annotation", "made_by"
GENERATED = "generated annotation"


@dataclass(frozen=True)
class Record:
    """One line of an annotation file.

    Attributes:
        video: path of the video file, relative to the folder of the annotation file, or absolute.
        truth: what is true of it, in native frames.
        split: the part of the data set it belongs to; "" is none.
        extra: unknown keys of the line, kept as they are. ``group`` names the source footage.
    """

    video: str
    truth: VideoAnnotation
    split: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The source footage: the extra key ``group``, else the video's own id."""
        return str(self.extra.get(GROUP_KEY) or self.truth.video_id)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of this record; :meth:`from_dict` restores an equal record."""
        return {"video": self.video, **self.truth.to_dict(), "split": self.split, **self.extra}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """The record of a JSON object that has passed :func:`reward_model.data.line_checks.check_object`."""
        extra = {key: value for key, value in data.items() if key not in RECORD_KEYS}
        return cls(data["video"], VideoAnnotation.from_dict(data), data.get("split", ""), extra)


def video_path(record: Record, jsonl_path: str | Path, video_root: str | Path | None = None) -> Path:
    """Path of a record's video file.

    Args:
        jsonl_path: the annotation file; relative videos are looked for in its folder.
        video_root: another folder to look in.
    """
    root = Path(jsonl_path).parent if video_root is None else Path(video_root)
    return root / record.video


def rebase(
    records: Iterable[Record], old_path: str | Path, new_path: str | Path, video_root: str | Path | None = None
) -> list[Record]:
    """The same records for an annotation file in another folder: relative videos are rewritten, absolute ones stay.

    Args:
        old_path, new_path: the annotation file the records came from, and the one they go to.
        video_root: where relative videos lie, by default the folder of ``old_path``.
    """
    moved = []
    for record in records:
        video = record.video
        if not Path(video).is_absolute():
            place = os.path.relpath(video_path(record, old_path, video_root), Path(new_path).parent)
            video = Path(place).as_posix()
        moved.append(replace(record, video=video))
    return moved


def is_generated(record: Record) -> bool:
    """True if a model or a program made this annotation and no person has looked at it since."""
    return record.extra.get(ORIGIN_KEY) == GENERATED


def edited(record: Record, before: Record) -> Record:
    """A record as it came back from a person: a generated annotation says what became of it, others are unchanged."""
    if not is_generated(record):
        return record
    what = "accepted" if record.truth.anomalies == before.truth.anomalies else "corrected"
    return replace(record, extra={**record.extra, ORIGIN_KEY: f"{GENERATED}, {what} by a person"})
