"""Items people are asked about: videos to rate, annotations to review, videos to check again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.rating.folder import FoundVideo, OutsideError, describe_video, inside
from cac_align.report.page import visible
from reward_model.data.records import MAKER_KEY, ORIGIN_KEY
from reward_model.data.splits import position
from reward_model.digests import text_digest

if TYPE_CHECKING:
    from reward_model.data.records import Record


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        key: what the page calls it; says nothing about the file.
        video: path relative to the folder.
        mark: changes with what is judged: answers to something else do not count.
        digest: SHA-256 of the file's bytes: answers to other bytes do not count.
        record: the annotation under review or behind a spot check, None in a plain rating.
        only: the people who are asked; empty is everyone.
        never: people who are not asked.
    """

    key: str
    video: str
    mark: str
    num_frames: int
    fps: float
    width: int
    height: int
    prompt: str = ""
    group: str = ""
    record: Record | None = None
    digest: str = ""
    only: frozenset[str] = field(default_factory=frozenset)
    never: frozenset[str] = field(default_factory=frozenset)

    @property
    def folder(self) -> str:
        """The first folder of the path: videos of one model usually share it. "" is the top."""
        return self.video.split("/", 1)[0] if "/" in self.video else ""

    def asks(self, person: str) -> bool:
        """True if this person is to be asked."""
        name = person.casefold()
        return (not self.only or name in self.only) and name not in self.never


def rating_items(videos: Iterable[FoundVideo]) -> list[Item]:
    """One item per video of the folder."""
    return [_item(v) for v in videos]


def _item(video: FoundVideo) -> Item:
    mark = f"{video.num_frames}x{video.width}x{video.height}@{video.fps:g}"
    return Item(
        _digest(video.path),
        video.path,
        mark,
        video.num_frames,
        video.fps,
        video.width,
        video.height,
        video.prompt,
        video.group,
        digest=video.digest,
    )


def review_items(root: Path, annotations: Path, records: Sequence[Record]) -> list[Item]:
    """One item per annotated video; nobody reviews their own annotation, and a changed one is reviewed anew.

    Raises:
        OutsideError: if a video lies outside ``root``.
    """
    items = []
    for record in records:
        video = _relative(root, annotations.parent / record.video)
        text = json.dumps(record.truth.to_dict(), sort_keys=True)
        annotator = record.extra.get("annotator")
        never = frozenset() if annotator is None else frozenset([str(annotator).casefold()])
        described = describe_video(root, video, record.truth.prompt)
        if (described.num_frames, described.width, described.height) != (
            record.truth.num_frames,
            record.truth.width,
            record.truth.height,
        ):
            raise ValueError(f"{video}: the file is not the one that was annotated; run cac-align data validate")
        items.append(replace(_item(described), mark=_digest(text), record=record, never=never))
    return items


def spot_check_items(items: Sequence[Item], drawn: Iterable[Record]) -> list[Item]:
    """The items of a spot check: each asks its checker alone, who sees the video and not the annotation."""
    by_id = {i.record.truth.video_id: i for i in items if i.record is not None}
    return [
        replace(by_id[r.truth.video_id], record=r, only=frozenset([str(r.extra["spot_checker"]).casefold()]))
        for r in drawn
    ]


def shuffled(items: Iterable[Item], person: str, seed: int) -> list[Item]:
    """The items this person is asked, in their own order: the same every time, another for everyone else."""
    mine = [i for i in items if i.asks(person)]
    return sorted(mine, key=lambda i: position(f"{person.casefold()}\0{i.video}", seed))


def page_item(item: Item, *, review: bool) -> dict[str, Any]:
    """The item as the page receives it: without file name, and with the annotation only if it is to be reviewed."""
    shown: dict[str, Any] = {
        "key": item.key,
        "num_frames": item.num_frames,
        "fps": item.fps,
        "width": item.width,
        "height": item.height,
        "prompt": visible(item.prompt),
    }
    if review and item.record is not None:
        extra: Mapping[str, Any] = item.record.extra
        shown["annotation"] = {
            "status": item.record.truth.status,
            "anomalies": [a.to_dict() for a in item.record.truth.anomalies],
            "annotator": str(extra.get("annotator", "")),
            "batch": str(extra.get("batch", "")),
            "origin": visible(str(extra.get(ORIGIN_KEY, ""))),
            "made_by": visible(str(extra.get(MAKER_KEY, ""))),
        }
    return shown


def _relative(root: Path, path: Path) -> str:
    # The folder of the annotation file may be reached through a link; what counts is where the video really lies.
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise OutsideError(f"{str(path)!r} lies outside {str(root)!r}; give the folder that holds all videos")
    return Path(os.path.relpath(inside(root, real), root.resolve())).as_posix()


def _digest(text: str) -> str:
    return text_digest(text)[:16]
