"""A folder of ordinary videos -> a folder of annotated ones, half of them normal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.data.annotations import Record, write_annotations
from reward_model.data.corruptions.base import CorruptionError
from reward_model.data.corruptions.compose import KINDS, candidates, corrupt
from reward_model.data.corruptions.decoys import DECOYS, reblend
from reward_model.data.corruptions.durations import draw_both
from reward_model.data.corruptions.footage import Footage
from reward_model.data.records import GENERATED, MAKER_KEY, ORIGIN_KEY
from reward_model.digests import text_digest
from reward_model.files import write_text
from reward_model.folders import file_digest, not_utf8, regular_files
from reward_model.schema import AnomalyType, VideoAnnotation
from reward_model.video.clip import VideoError, load_video
from reward_model.video.writing import write_video

SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif"})

#: Source, output folder, pairs, settings, whether to resume, and whether the first pair is short (None: by chance).
Job = tuple[Path, Path, int, "Settings", bool, bool | None]


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is made from a video; its digest is part of every finished part."""

    kinds: tuple[str, ...] | None
    seed: int
    normal: bool
    people: bool
    max_frames: int | None

    @property
    def digest(self) -> str:
        return text_digest(repr(self))[:12]


def corrupt_folder(
    videos: str | Path | Iterable[str | Path],
    output: str | Path,
    *,
    per_video: int = 2,
    kinds: Sequence[str | AnomalyType] | None = None,
    seed: int = 0,
    normal: bool = True,
    people: bool = False,
    max_frames: int | None = None,
    resume: bool = True,
    workers: int = 1,
) -> Path:
    """Makes abnormal videos, and as many normal ones, from real footage, with annotations.

    The k-th abnormal video of a source has a normal twin: the same footage under the same harmless change (the first
    pair has none), re-encoded the same way; the normal one carries a harmless local reblend instead of the anomaly.
    The anomalies of a source last alternately less than a second and a second or more. ``skipped.json`` beside the
    annotations says which pairs could not be made, and why; an entry with a ``kind`` names one that the video is unfit
    for, in a pair that was made with another.

    Args:
        videos: a folder (searched through all its sub-folders) or a list of files.
        output: the folder to fill: ``videos/``, ``parts/``, ``annotations.jsonl``, ``skipped.json``.
        per_video: pairs (with ``normal=False``: abnormal videos) from each source.
        kinds: the kinds or types to draw from, by default all.
        seed: every choice follows from it and the contents of the source file (with one pair from each source, whether
            its anomaly is short also from the place in the list).
        normal: also make the normal twins.
        people: what moves in the footage are people: see :func:`corrupt`.
        max_frames: use a stretch of at most this many frames of each source, drawn anew for each pair.
        resume: keep what an earlier run with the same settings has finished; False makes everything anew.
        workers: processes.

    Returns:
        The path of ``annotations.jsonl``.

    Raises:
        CorruptionError: if there is no video, an option makes no sense, or no video at all is fit; the message lists
            why.
    """
    left_out: list[dict[str, Any]] = []
    sources, output = _sources(videos, left_out), Path(output)
    if per_video < 1 or workers < 1 or (max_frames is not None and max_frames < 8):
        raise CorruptionError(
            f"per_video={per_video} and workers={workers} must be at least 1, max_frames={max_frames} at least 8"
        )
    settings = Settings(_kind_names(kinds, people), seed, normal, people, max_frames)
    # Single pairs alternate between short and long through the list; several pairs alternate within each source.
    single = per_video == 1
    jobs = [(s, output, per_video, settings, resume, bool(k % 2) if single else None) for k, s in enumerate(sources)]
    parts = [part for found in _run(jobs, workers) for part in found]
    skipped = [*left_out, *(entry for part in parts for entry in _skips(part))]
    write_text(output / "skipped.json", json.dumps(skipped, indent=1, ensure_ascii=False) + "\n")
    records = {r["video"]: Record.from_dict(r) for p in parts for r in p.get("records", ())}
    if not records:
        reasons = "; ".join(f"{s['video']}: {s['reason']}" for s in skipped[:5])
        raise CorruptionError(f"none of {len(sources)} videos could be used. {reasons}")
    return write_annotations(output / "annotations.jsonl", records.values())


def _skips(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Entry of a part in ``skipped.json``: why there is no pair, or which kinds were passed over before one fitted."""
    place = {"video": part["video"], "pair": part["pair"]}
    if "reason" in part:
        return [{**place, "reason": part["reason"]}]
    return [{**place, "kind": kind, "reason": reason} for kind, reason in part["skipped_kinds"].items()]


def _run(jobs: list[Job], workers: int) -> Iterator[list[dict[str, Any]]]:
    from tqdm import tqdm

    if workers == 1:
        yield from tqdm(map(_source_parts, jobs), total=len(jobs), desc="videos", disable=None)
        return
    # Spawned, not forked: a fork would copy whatever threads the caller's libraries hold.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from tqdm(pool.map(_source_parts, jobs), total=len(jobs), desc="videos", disable=None)


def _source_parts(job: Job) -> list[dict[str, Any]]:
    """All pairs of one source, each made unless its part file says that it is finished."""
    source, output, per_video, settings, resume, first_short = job
    try:
        digest = _file_digest(source)
    except CorruptionError as error:
        return [{"video": printed(source.name), "pair": pair, "reason": str(error)} for pair in range(per_video)]
    group, parts, video = f"{source.stem}-{digest}", [], None
    if first_short is None:
        first_short = bool(np.random.default_rng([settings.seed, int(digest, 16)]).integers(2))
    for pair in range(per_video):
        short = first_short != bool(pair % 2)
        key = f"{settings.digest}-{'short' if short else 'long'}"
        path = output / "parts" / f"{group}-{pair}.json"
        part = _finished(path, output, key) if resume else None
        if part is None:
            try:
                video = video or load_video(source)
                made, unfit = _make_pair(video.frames, video.fps, group, pair, output, settings, short)
                part = {"video": source.name, "pair": pair, "settings": key, "records": made}
                part["skipped_kinds"] = unfit
            except (CorruptionError, VideoError) as error:
                part = {"video": source.name, "pair": pair, "settings": key, "reason": str(error)}
            except (MemoryError, ValueError, ArithmeticError, LookupError) as error:  # one video never ends a folder
                reason = f"{type(error).__name__}: {error}".removesuffix(": ")
                part = {"video": source.name, "pair": pair, "settings": key, "reason": reason}
            write_text(path, json.dumps(part, ensure_ascii=False) + "\n")
        parts.append(part)
    return parts


def _finished(path: Path, output: Path, key: str) -> dict[str, Any] | None:
    """The content of a part file if it was made with these settings and its videos are there."""
    try:
        part = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = all((output / r["video"]).is_file() for r in part.get("records", ()))
    told = "reason" in part or "skipped_kinds" in part
    return part if part.get("settings") == key and whole and told else None


def _make_pair(
    frames: np.ndarray, fps: float, group: str, pair: int, output: Path, settings: Settings, short: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Writes one abnormal video and its normal twin. Their records as JSON objects, and the kinds that did not fit."""
    digest = int(group.rpartition("-")[2], 16)
    rng = np.random.default_rng([settings.seed, digest, pair])
    base, style = _base(frames, rng, pair, settings)
    footage, seed = Footage(base, fps), int(rng.integers(2**31))
    edited, truth, kind, unfit = _first_fit(footage, rng, seed, settings, short)
    common = {"group": group, "style": style, "seed": seed, ORIGIN_KEY: GENERATED, MAKER_KEY: "cac-align data corrupt"}
    made = [(f"{group}-{pair}-{kind}", edited, truth, {**common, "operator": kind})]
    if settings.normal:
        calm = reblend(footage, rng)
        made.append((f"{group}-{pair}-normal", calm, replace(truth, anomalies=()), {**common, "operator": "normal"}))
    records = []
    for name, picture, annotation, extra in made:
        write_video(output / "videos" / f"{name}.mp4", picture, fps)
        records.append(Record(f"videos/{name}.mp4", replace(annotation, video_id=name), extra=extra).to_dict())
    return records, unfit


def _base(frames: np.ndarray, rng: np.random.Generator, pair: int, settings: Settings) -> tuple[np.ndarray, str]:
    """The stretch of footage a pair is made from, under one harmless change, and that change's name."""
    if settings.max_frames is not None and len(frames) > settings.max_frames:
        start = int(rng.integers(len(frames) - settings.max_frames + 1))
        frames = frames[start : start + settings.max_frames]
    # Cropped to even sides here, so that boxes are measured on the pixels that are written.
    height, width = (side - side % 2 for side in frames.shape[1:3])
    frames = np.ascontiguousarray(frames[:, :height, :width])
    if pair == 0:
        return frames, "plain"
    style = str(rng.choice(sorted(DECOYS)))
    return DECOYS[style](frames, rng), style


def _first_fit(
    footage: Footage, rng: np.random.Generator, seed: int, settings: Settings, short: bool
) -> tuple[np.ndarray, VideoAnnotation, str, dict[str, str]]:
    """The first kind, in a drawn order that gives each type the same chance, that the footage is fit for at a drawn
    length; one of the other half is tried where no kind is. Also the kinds that were passed over, and why.
    """
    kinds, unfit = _drawn(settings.kinds or tuple(KINDS), rng), dict[str, str]()
    for seconds in draw_both(rng, footage.fps, short=short):
        for kind in kinds:
            try:
                edited, truth = corrupt(
                    footage.frames,
                    footage.fps,
                    kind=kind,
                    seed=seed,
                    duration_s=seconds,
                    people=settings.people,
                    footage=footage,
                )
            except CorruptionError as error:
                unfit[kind] = str(error).removeprefix("the video is unfit. ").removeprefix(f"{kind}: ")
            else:
                unfit.pop(kind, None)
                return edited, truth, kind, unfit
    raise CorruptionError("; ".join(f"{kind}: {reason}" for kind, reason in unfit.items()))


def _drawn(kinds: Sequence[str], rng: np.random.Generator) -> list[str]:
    groups: dict[AnomalyType, list[str]] = {}
    for kind in map(str, rng.permutation(list(kinds))):
        groups.setdefault(KINDS[kind], []).append(kind)
    types = [list(groups)[k] for k in rng.permutation(len(groups))]
    return [kind for t in types for kind in groups[t]]


def _kind_names(kinds: Sequence[str | AnomalyType] | None, people: bool) -> tuple[str, ...] | None:
    if kinds is None:
        return None
    if isinstance(kinds, str):
        kinds = [kinds]
    return tuple(dict.fromkeys(name for kind in kinds for name in candidates(kind, people)))


def _sources(videos: str | Path | Iterable[str | Path], left_out: list[dict[str, Any]]) -> list[Path]:
    """The files to read; entries for ``skipped.json`` of those in a folder that cannot be are added to ``left_out``."""
    if isinstance(videos, str | Path):
        root = Path(videos)

        def leave_out(path: Path, reason: str) -> None:
            left_out.append({"video": printed(path.name), "pair": 0, "reason": reason})

        files = regular_files(root, SUFFIXES, utf8=True, leave_out=leave_out) if root.is_dir() else [root]
    else:
        files = [Path(v) for v in videos]
    if not files:
        more = "".join(f"; {entry['video']}: {entry['reason']}" for entry in left_out[:5])
        raise CorruptionError(f"no video in {str(videos)!r}; known suffixes are {', '.join(sorted(SUFFIXES))}{more}")
    return files


def printed(name: str) -> str:
    """A file name that can be written down: bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _file_digest(path: Path) -> str:
    if (reason := not_utf8(path)) is not None:
        raise CorruptionError(f"cannot read {str(path)!r}: {reason}")
    try:
        return file_digest(path)[:10]
    except OSError as error:
        raise CorruptionError(f"cannot read {error}; check the path") from error
