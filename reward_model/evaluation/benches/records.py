"""Benches of annotated video files: JSONL annotations, and the external ViF-CoT-4K (section A.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.data.annotations import read_annotations
from reward_model.data.formats.vif_cot import TypeMap, read_vif_cot
from reward_model.data.records import Record
from reward_model.digests import text_digest
from reward_model.evaluation.benches.bench import BenchVideo
from reward_model.schema import VideoAnnotation
from reward_model.video.clip import VideoError, load_video


class RecordBench:
    """Annotated videos, decoded one by one when they are asked for; nothing is kept in memory.

    Args:
        records: what is true of which file.
        root: folder that relative files are looked for in.
        name: name of the bench.
        details: more for :meth:`describe`.

    Raises:
        ValueError: if there is no record.
    """

    def __init__(self, records: Sequence[Record], root: str | Path, name: str, **details: Any) -> None:
        if not records:
            raise ValueError(f"the bench {name!r} holds no video")
        self.records, self.root, self.name, self.details = list(records), Path(root), name, details

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> BenchVideo:
        """One video.

        Raises:
            VideoError: if its file is missing or broken, or has another number of frames than its annotation.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a bench of {len(self)}")
        truth, file = self.records[index].truth, self.root / self.records[index].video
        video = load_video(file, truth.fps)
        if video.num_frames != truth.num_frames:
            raise VideoError(
                f"{file} has {video.num_frames} frames, its annotation {truth.num_frames}; "
                "annotations count native frames"
            )
        return BenchVideo(np.asarray(video.frames), truth, family_name(truth))

    def __iter__(self) -> Iterator[BenchVideo]:
        return (self[k] for k in range(len(self)))

    def describe(self) -> dict[str, Any]:
        """Description of the bench for the results file; the hash is that of the annotations in use."""
        digest = text_digest(repr([r.to_dict() for r in self.records]))
        return {"bench": self.name, "num_videos": len(self), **self.details, "annotations": digest[:16]}


class JsonlBench(RecordBench):
    """The annotated videos of a JSONL file (:mod:`reward_model.data.annotations`).

    Args:
        path: the annotation file.
        split: take the records of that split only; None takes all.
        video_root: where relative videos lie, by default the folder of ``path``.
        name: name of the bench, by default the file's.
        limit: take the first so many only.

    Raises:
        ValueError: if the file breaks a rule (:class:`~reward_model.data.annotations.AnnotationError`), or no record is
            left.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        split: str | None = None,
        video_root: str | Path | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> None:
        records = read_annotations(path, video_root=video_root)
        kept = [r for r in records if split is None or r.split == split][:limit]
        if not kept:
            known = ", ".join(repr(s) for s in sorted({r.split for r in records}))
            raise ValueError(f"{path} has no video of split {split!r}; its splits are {known}")
        root = Path(path).parent if video_root is None else Path(video_root)
        super().__init__(kept, root, name or Path(path).stem, file=Path(path).name, split=split)


class VifCotBench(RecordBench):
    """A balanced subset of ViF-CoT-4K: as many normal as abnormal videos, drawn by a seed.

    Skyra's own models were trained on it and have no place in its tables.

    Args:
        path: the SFT file.
        video_root, video_pattern, type_map: see :func:`reward_model.data.formats.vif_cot.read_vif_cot`.
        num_videos: even; None takes all of the smaller class and as many of the other.
        seed: seed of the draw.

    Raises:
        ValueError: if the file cannot be read, or a class has too few videos.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        video_root: str | Path,
        video_pattern: str,
        type_map: str | TypeMap = "paper",
        num_videos: int | None = None,
        seed: int = 0,
    ) -> None:
        found = read_vif_cot(path, video_root=video_root, video_pattern=video_pattern, type_map=type_map)
        kept = balanced_records(found.records, num_videos, seed)
        preset = type_map if isinstance(type_map, str) else "own"
        super().__init__(
            kept, video_root, "vif-cot", file=Path(path).name, type_map=preset, seed=seed, left_out=len(found.errors)
        )


def balanced_records(records: Sequence[Record], num: int | None = None, seed: int = 0) -> list[Record]:
    """``num`` records, half of them normal, in their old order; None takes as many as the smaller class allows.

    Raises:
        ValueError: if ``num`` is odd or below 2, or a class has too few records.
    """
    classes = [[k for k, r in enumerate(records) if r.truth.status == s] for s in ("normal", "abnormal")]
    smaller = min(map(len, classes))
    each = smaller if num is None else num // 2
    if (num is not None and (num < 2 or num % 2)) or not 1 <= each <= smaller:
        raise ValueError(
            f"a balanced subset of {num} videos needs an even number of at most {2 * smaller}: there are "
            f"{len(classes[0])} normal and {len(classes[1])} abnormal videos"
        )
    rng = np.random.default_rng(seed)
    return [records[k] for k in sorted(int(k) for c in classes for k in rng.permutation(c)[:each])]


def family_name(truth: VideoAnnotation) -> str:
    """The types of a video's anomalies as one word for tables; "" for a normal video."""
    return " + ".join(t.value for t in truth.types)
