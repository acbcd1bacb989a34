"""Videos of stage 3: the procedural world, or annotated files. Rows are light; frames come later."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_model.chunks import chunk_truth, scan_grids
from reward_model.config import JudgeConfig
from reward_model.data.annotations import Record, read_annotations
from reward_model.data.views import cycled
from reward_model.extras import need
from reward_model.schema import VideoAnnotation
from reward_model.training.grpo.labels import Labels, check_labels, label_of
from reward_model.training.grpo.rollouts import GrpoSample
from reward_model.video.clip import sample_indices
from reward_model.world.scripts import PLAIN, SHIFTED, Script, check_stories, draw_story

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_model.data.frame_cache import FrameCache

log = logging.getLogger(__name__)

#: World scenes of stage 3; stages 1 and 2 draw theirs below 100,000.
STAGE3_SEEDS = range(100_000, 200_000)

#: What a row of the world says about its video; without a story it is a plain one.
_SCRIPT = ("seed", "kind", "setting", "story", "stratum", "draw")

Load = Callable[[Mapping[str, Any]], GrpoSample]


def world_rows(
    count: int,
    *,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    seeds: Sequence[int] = STAGE3_SEEDS,
    stories: Mapping[str, float] | None = None,
    judge: JudgeConfig | None = None,
) -> Dataset:
    """``count`` rows of the procedural world, normal and anomalous in turn (1:1), as a ``datasets.Dataset``.

    A normal video is drawn where an anomaly could have been, so that the setting tells nothing.

    Args:
        seed: seed of the draw.
        kinds: anomalies to draw from; None is all of :data:`reward_model.world.KINDS`. Look-alikes bring their own.
        seeds: scenes to draw from.
        stories: share of the videos that are not plain, see :func:`reward_model.world.scripts.check_stories`.
        judge: how turn one is asked, by default as the full-size judge asks: an anomaly that no frame of its grid shows
            is drawn anew, since no answer about it could be right.

    Raises:
        ValueError: if a kind or a story is unknown.
    """
    Dataset = need("datasets", "stage 3").Dataset  # noqa: N806

    from reward_model.world.kinds import KINDS, SETTINGS_OF

    names = list(KINDS) if kinds is None else list(kinds)
    unknown = sorted(set(names) - set(KINDS))
    if unknown or not names:
        raise ValueError(f"unknown kind(s) of anomaly {unknown}; expected some of {', '.join(KINDS)}")
    check_stories(stories or {})
    rng, plot = np.random.default_rng([seed, 33]), np.random.default_rng([seed, 34])
    rows: list[dict[str, Any]] = []
    for k in range(count):
        kind = str(rng.choice(names))
        setting = str(rng.choice(SETTINGS_OF[kind]))
        seed_of_video = int(rng.integers(seeds[0], seeds[-1] + 1))
        row = {"seed": seed_of_video, "kind": kind if k % 2 else "", "setting": setting}
        rows.append(_told(row, kind, stories, plot, judge or JudgeConfig()) if stories else row)
    return Dataset.from_list(rows)


def _told(
    row: dict[str, Any], kind: str, shares: Mapping[str, float], rng: np.random.Generator, judge: JudgeConfig
) -> dict[str, Any]:
    """The row with its story, one whose anomaly turn one can see."""
    while True:
        drawn = draw_story(rng, shares, kind, abnormal=bool(row["kind"]))
        told = {**row, **drawn, "draw": int(rng.integers(2**31))}
        if not told["kind"] or told["story"] in (PLAIN, SHIFTED):  # these last long enough for any grid
            return told
        truth = Script(**told).film().truth
        grids = scan_grids(truth.num_frames, truth.fps, judge)
        if any(chunk_truth(truth, grid).anomalies for grid in grids):
            return told


def facts_of_rows(rows: Dataset, load: Load) -> list[tuple[int, float, int, int]]:
    """Frames, frames per second, width and height of the videos of these rows; no frame is drawn or decoded."""
    if "truth" in rows.column_names:
        # A column is read at once by its slice, row by row without; rows name a video as often as it is drawn.
        truths = [json.loads(text) for text in set(rows["truth"][:])]
        return [(t["num_frames"], t["fps"], t["width"], t["height"]) for t in truths]
    count = len(rows) if "story" in rows.column_names else 1  # plain procedural videos are of one length and size
    return [(t.num_frames, t.fps, t.width, t.height) for t in (load(rows[k]).truth for k in range(count))]


def world_loader(size: int) -> Load:
    """Rows of :func:`world_rows` -> samples of ``size`` x ``size`` pixels; a shifted video has its own size."""
    return partial(_load_world, size=size)


def _load_world(row: Mapping[str, Any], *, size: int) -> GrpoSample:
    from reward_model.world import make_annotation, make_scene
    from reward_model.world.video import render

    if row.get("story", PLAIN) != PLAIN:
        film = Script(**{name: row[name] for name in _SCRIPT}).film()
        return GrpoSample(film.truth, film.take)
    scene = make_scene(row["seed"], row["kind"] or None, setting=row["setting"])
    return GrpoSample(make_annotation(scene, size), lambda indices: render(scene, indices, size))


def annotated_rows(
    path: str | Path,
    *,
    split: str | None = None,
    video_root: str | Path | None = None,
    disjoint: bool = False,
    held_out: float = 0.0,
    rows: int | None = None,
    seed: int = 0,
    judge: JudgeConfig | None = None,
    labels: Labels = "full",
) -> Dataset:
    """Rows of an annotation file, normal and anomalous 1:1, as a ``datasets.Dataset``.

    Footage is dealt to the stages as stages 1 and 2 deal it (:func:`reward_model.data.stage_split.stage_records`): with
    the same ``disjoint``, ``held_out`` and ``seed`` no video is in two of them, and what is held out is held out from
    all.

    Args:
        path: a JSONL file that :func:`reward_model.data.annotations.read_annotations` reads.
        split: keep the records of this split only, whatever the stages are dealt.
        video_root: where relative paths start; by default the folder of ``path``.
        disjoint: take stage 3's share of the footage, where no line names a stage.
        held_out: share of the footage that no stage trains on, where no line is marked so.
        rows: how many; more than there are videos repeat them evenly. None: every video of the rarer status once.
        seed: seed of the split and of the choice.
        judge: how turn one is asked, by default as the full-size judge asks: an anomaly that no frame of its grid shows
            is left out, as in stage 2; a video that it scans in chunks gives a row for each.
        labels: ``"video"`` keeps status and types and forgets windows and boxes. Which chunk of a longer video shows an
            anomaly is not known then, so abnormal ones that are scanned in chunks are left out.

    Raises:
        ValueError: if the file breaks a rule, a video is missing, or a status has no record.
    """
    Dataset = need("datasets", "stage 3").Dataset  # noqa: N806

    from reward_model.data.stage_split import stage_records

    check_labels(labels)
    judge = judge or JudgeConfig()
    root = Path(video_root) if video_root else Path(path).parent
    records = read_annotations(path, video_root=video_root)
    if split is None:
        records, _ = stage_records(records, "stage3", disjoint=disjoint, held_out=held_out, seed=seed)
        which = "stage 3"
    else:
        records, which = [r for r in records if r.split == split], f"split {split!r}"
    if not records:
        raise ValueError(f"{path} holds no record of {which}; stage 3 needs annotated videos")
    if labels == "video":
        records = [replace(r, truth=label_of(r.truth)) for r in _of_one_scan(records, judge)]
    shown = _pieces(records, judge)
    rng = np.random.default_rng([seed, 3])
    parts = {s: [_row(r, root, k) for r, k in shown if r.truth.status == s] for s in ("normal", "abnormal")}
    if lacking := [status for status, part in parts.items() if not part]:
        raise ValueError(f"{path} holds no {lacking[0]} video of {which}; stage 3 trains on both, 1:1. Add some")
    return Dataset.from_list(_in_turn([*parts.values()], rows, rng))


def _in_turn(parts: Sequence[Sequence[dict[str, Any]]], rows: int | None, rng: np.random.Generator) -> list[Any]:
    """As many of each part, one after the other: ``rows`` in all, or all of the shorter one."""
    each = min(map(len, parts)) if rows is None else max(1, rows // 2)
    drawn = [[part[k] for k in cycled(len(part), each, rng)] for part in parts]
    return [row for group in zip(*drawn, strict=True) for row in group]


def _row(record: Record, root: Path, chunk: int) -> dict[str, Any]:
    return {"video": str(root / record.video), "truth": json.dumps(record.truth.to_dict()), "chunk": chunk}


def _of_one_scan(records: Sequence[Record], judge: JudgeConfig) -> list[Record]:
    """The records but for abnormal videos that are scanned in chunks."""
    kept = [
        r for r in records if r.truth.status == "normal" or len(scan_grids(r.truth.num_frames, r.truth.fps, judge)) == 1
    ]
    if left := len(records) - len(kept):
        log.info("%d abnormal videos are scanned in chunks, and their labels tell of none of them; left out", left)
    return kept


def _pieces(records: Sequence[Record], judge: JudgeConfig) -> list[tuple[Record, int]]:
    """Questions of turn one: a video and the number of its chunk; of an abnormal video the chunks that show
    something of it.
    """
    found, hidden = [], 0
    for record in records:
        grids = scan_grids(record.truth.num_frames, record.truth.fps, judge)
        normal = record.truth.status == "normal"
        shown = [k for k, grid in enumerate(grids) if normal or chunk_truth(record.truth, grid).anomalies]
        found += [(record, k) for k in shown]
        hidden += not shown
    if hidden:
        log.info("%d abnormal videos show nothing at %g fps; left out", hidden, judge.scan_fps)
    return found


def chunk_loader(load: Load, judge: JudgeConfig) -> Load:
    """The samples of ``load``; of a video that the judge scans in chunks the one that its row names (``chunk``), or the
    first that shows an anomaly of it.
    """
    return partial(_load_chunk, load=load, judge=judge)


def _load_chunk(row: Mapping[str, Any], *, load: Load, judge: JudgeConfig) -> GrpoSample:
    sample = load(row)
    grids = scan_grids(sample.truth.num_frames, sample.truth.fps, judge)
    if len(grids) == 1:
        return sample
    truths = [chunk_truth(sample.truth, grid) for grid in grids]
    number = row.get("chunk")
    if number is None:
        number = next((k for k, truth in enumerate(truths) if truth.anomalies), 0)
    return replace(sample, truth=truths[number], grid=grids[number])


def annotated_loader(config: JudgeConfig, cache_dir: str | Path | None = None) -> Load:
    """Rows of :func:`annotated_rows` -> samples. A video is decoded once and kept as the frames its two grids can show.

    Args:
        config: the judge's grids.
        cache_dir: keeps decoded frames between runs; None keeps a few videos in memory.
    """
    from reward_model.data.frame_cache import FrameCache

    return chunk_loader(partial(_load_annotated, config=config, cache=FrameCache(cache_dir)), config)


def _load_annotated(row: Mapping[str, Any], *, config: JudgeConfig, cache: FrameCache) -> GrpoSample:
    truth = VideoAnnotation.from_dict(json.loads(row["truth"]))
    grids = [sample_indices(truth.num_frames, truth.fps, rate) for rate in (config.scan_fps, config.zoom_fps)]
    kept = sorted({n for grid in grids for n in grid})
    return GrpoSample(truth, lambda indices: cache.frames(Path(row["video"]), indices, kept, truth.num_frames))
