"""Training samples of the mini judge: rows that name a scene, and the conversation and answer drawn from each row.

A row is a few numbers (task, seed, kind, ...); frames are rendered when a batch is put together, so a data set of any
size costs no disk and the same row always gives the same sample. Tasks: ``frame`` (one frame under any frame number,
stage 1), ``clip`` (two to five frames at 8 fps), ``splice`` (frames drawn at random from a video and its normal
twin, asked like a scan; see ``splices``), ``scan`` (the whole video at 4 fps) and ``zoom`` (a window as turn one
would predict it, at 8 fps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from reward_model.data.example import Example
from reward_model.minis.drift import drift_boxes
from reward_model.minis.model import FIT, MAX_ZOOM, MIN_ZOOM, SCAN_FPS, ZOOM_FPS
from reward_model.minis.splices import SPLICED, make_splice
from reward_model.parsing import format_report
from reward_model.prompts import load_prompts
from reward_model.schema import Anomaly, FrameRange, TurnReport, VideoAnnotation
from reward_model.video.clip import native_window, sample_indices, zoom_indices
from reward_model.video.framing import Framing
from reward_model.world.kinds import KINDS, REASONS, SETTINGS_OF, SINGLE_FRAME
from reward_model.world.narration import narrate_frames, narrate_scan, narrate_zoom, shift_report, visible_anomalies
from reward_model.world.nuisance import degrade
from reward_model.world.palette import COLORS, SHAPES
from reward_model.world.scene import Scene, make_scene
from reward_model.world.video import SIZE, make_annotation, render

TRAIN_SEEDS = range(0, 100_000)
#: Most frames of a splice: as many as a scan of five seconds.
SPLICE_FRAMES = 21
#: Share of stage 2 during which scans grow from a few frames to whole videos.
CURRICULUM = 0.15
#: Videos of the mini generator are smaller than the judge's frames; this is their side in pixels.
SMALL_SIZE = 32
#: Squash factors below the first are called normal, above the second abnormal, between them nothing is trained.
FAINT, CLEAR = 1.2, 1.35

#: Kinds that need frames to be compared are drawn more often than the others: they are harder to learn.
_COMPARED = {"teleport": 2.5, "change": 2.5, "float": 2.5, "rebound": 2.5, "flicker": 1.5, "appear": 1.5}
#: Tasks that cannot show every kind.
_KINDS_OF = {"frame": SINGLE_FRAME, "splice": SPLICED}

Row = dict[str, Any]


def draw_rows(
    tasks: Sequence[str],
    *,
    seed: int,
    kinds: Sequence[str] = tuple(KINDS),
    num_frames: Sequence[int] | None = None,
    abnormal: float = 0.5,
) -> Dataset:
    """One row for each task named, half of them normal unless ``abnormal`` says otherwise.

    Args:
        tasks: for instance ``["scan", "scan", "zoom"]``; the order is kept.
        seed: seed of the draw; rows are a function of it and of their position.
        kinds: anomalies to draw from. ``frame`` rows only take those that one frame can show.
        num_frames: length of each video; by default 81, and something else between 33 and 97 in one row of five.
    """
    rng = np.random.default_rng([seed, 77])
    rows = [_draw_row(task, rng, kinds, abnormal) for task in tasks]
    if num_frames is not None:
        rows = [{**row, "num_frames": int(n)} for row, n in zip(rows, num_frames, strict=True)]
    return Dataset.from_list(rows)


def _draw_row(task: str, rng: np.random.Generator, kinds: Sequence[str], share: float) -> Row:
    usable = [k for k in kinds if task not in _KINDS_OF or k in _KINDS_OF[task]]
    weights = np.array([_COMPARED.get(k, 1.0) for k in usable])
    # Some windows of abnormal videos miss the anomaly and count as normal.
    share = share + 0.12 if task == "zoom" else share
    kind, abnormal = str(rng.choice(usable, p=weights / weights.sum())), rng.random() < share
    # A normal video is drawn where its anomaly could have been, so that no setting tells anything.
    setting, strength = str(rng.choice(SETTINGS_OF[kind])), -1.0
    if kind == "squash":
        abnormal, strength = _squash(abnormal, rng)
    return {
        "task": task,
        "seed": int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop)),
        "kind": kind if abnormal else "",
        "setting": setting,
        "small": bool(rng.random() < (0.5 if setting == "single" else 0.1)),
        "strength": float(strength),
        "num_frames": int(4 * rng.integers(8, 25) + 1) if rng.random() < 0.2 else 81,
        "cot": task == "splice" or bool(rng.random() < 0.7),
        "draw": int(rng.integers(2**31)),
    }


def _squash(abnormal: bool, rng: np.random.Generator) -> tuple[bool, float]:
    """Drawing and strength of a squash (-1: any): some slight ones, and faint ones as normal."""
    if abnormal and rng.random() < 0.1:
        return True, float(rng.uniform(CLEAR, 1.5))
    if not abnormal and rng.random() < 0.5:
        return True, float(rng.uniform(1.0, FAINT))
    return abnormal, -1.0


def make_example(row: Mapping[str, Any], *, prompts: str = "compact") -> Example:
    """The conversation and the answer of a row. Frames carry the world's nuisances and, half of the time, blur and
    compression (all of it normal).
    """
    rng = np.random.default_rng([row["draw"], 5])
    if row["task"] == "splice":
        return _splice(row, rng, load_prompts(prompts))
    scene = scene_of(row)
    truth = truth_of(row, scene)

    def frames_of(indices: Sequence[int]) -> np.ndarray:
        return _shoot(partial(render, scene, indices), row, rng)

    return _TASKS[row["task"]](truth, frames_of, row["cot"], rng, load_prompts(prompts))


def scene_of(row: Mapping[str, Any]) -> Scene:
    """The scene a row names."""
    return make_scene(
        row["seed"],
        row["kind"] or None,
        setting=row["setting"],
        num_frames=row["num_frames"],
        strength=row["strength"] if row["strength"] > 0 else None,
    )


def truth_of(row: Mapping[str, Any], scene: Scene) -> VideoAnnotation:
    """Its annotation; a squash too faint to be called one is none."""
    truth = make_annotation(scene)
    return replace(truth, anomalies=()) if 0 < row["strength"] < FAINT else truth


def _shoot(draw: Callable[[int], np.ndarray], row: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Frames of a size, worn and shown as the judge is shown frames."""
    frames = degrade(draw(SMALL_SIZE if row["small"] else SIZE), rng)
    return Framing((frames.shape[1], frames.shape[2]), SIZE, FIT).show(frames)


def _written(report: TurnReport, truth: VideoAnnotation) -> str:
    """The answer with its boxes where the judge sees them."""
    return format_report(Framing((truth.height, truth.width), SIZE, FIT).shown_report(report))


def _scan(truth: VideoAnnotation, frames_of: Any, cot: bool, rng: np.random.Generator, prompts: Any) -> Example:
    indices = sample_indices(truth.num_frames, truth.fps, SCAN_FPS)
    report = narrate_scan(truth, indices, cot=cot)
    return Example(prompts.scan(frames_of(indices), truth.prompt), format_report(report, boxes=False))


def _zoom(truth: VideoAnnotation, frames_of: Any, cot: bool, rng: np.random.Generator, prompts: Any) -> Example:
    grid = sample_indices(truth.num_frames, truth.fps, SCAN_FPS)
    window = draw_window(truth, grid, rng)
    native = native_window(window, grid, truth.num_frames)
    indices = zoom_indices(native, truth.num_frames, truth.fps, ZOOM_FPS, min_frames=MIN_ZOOM, max_frames=MAX_ZOOM)
    report = narrate_zoom(truth, indices, cot=cot)
    hint = draw_hint(truth, window, grid, rng)
    answer = _written(report, truth)
    return Example(prompts.zoom(frames_of(indices), truth.prompt, cot=hint), answer, drift_boxes(answer, rng))


def _clip(truth: VideoAnnotation, frames_of: Any, cot: bool, rng: np.random.Generator, prompts: Any) -> Example:
    grid = sample_indices(truth.num_frames, truth.fps, ZOOM_FPS)
    length = int(rng.integers(2, 6))
    start = _start_near(truth, grid, length, rng)
    indices = grid[start : start + length]
    answer = _written(narrate_zoom(truth, indices, cot=cot), truth)
    return Example(prompts.zoom(frames_of(indices), truth.prompt), answer, drift_boxes(answer, rng))


def _frame(truth: VideoAnnotation, frames_of: Any, cot: bool, rng: np.random.Generator, prompts: Any) -> Example:
    inside = truth.anomalies[0].frames.frames() if truth.anomalies else range(truth.num_frames)
    index, first = int(rng.choice(inside)), int(rng.integers(0, 25))
    anomalies = visible_anomalies(truth, [index])
    report = TurnReport(truth.status, narrate_frames(anomalies, 1, first=first) if cot else "", anomalies)
    conversation = prompts.scan(frames_of([index]), truth.prompt, first=first)
    answer = _written(shift_report(report, first), truth)
    return Example(conversation, answer, drift_boxes(answer, rng))


def _splice(row: Mapping[str, Any], rng: np.random.Generator, prompts: Any) -> Example:
    """A splice, asked like a scan; an anomaly for each run of wrong frames."""
    strength = row["strength"] if row["strength"] > 0 else None
    count = int(rng.integers(3, SPLICE_FRAMES + 1))
    splice = make_splice(row["seed"], row["kind"], row["setting"], count, rng, strength=strength)
    faint = 0 < row["strength"] < FAINT
    name, kind = splice.scene.object_name, row["kind"]
    anomalies = tuple(
        Anomaly(
            KINDS[kind],
            FrameRange(start, end),
            objects=(name,),
            reason=f"the {name} {REASONS[kind]}",
            region=f"the {name}",
        )
        for start, end in runs([] if faint else splice.wrong.tolist())
    )
    text = narrate_frames(anomalies, count)
    report = TurnReport("abnormal" if anomalies else "normal", text, anomalies)
    return Example(
        prompts.scan(_shoot(splice.render, row, rng), splice.scene.prompt), format_report(report, boxes=False)
    )


def runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last index of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, int), [0]])))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


_TASKS = {"scan": _scan, "zoom": _zoom, "clip": _clip, "frame": _frame}


def _start_near(truth: VideoAnnotation, grid: Sequence[int], length: int, rng: np.random.Generator) -> int:
    """Start of a short clip: over the anomaly if there is one, else anywhere."""
    last = len(grid) - length
    if not truth.anomalies:
        return int(rng.integers(0, last + 1))
    inside = [k for k, n in enumerate(grid) if n in truth.anomalies[0].frames]
    return int(np.clip(rng.choice(inside) - rng.integers(0, length), 0, last))


def draw_window(truth: VideoAnnotation, grid: Sequence[int], rng: np.random.Generator) -> FrameRange:
    """A window on the scan grid as turn one might predict it.

    Around the anomaly, each end off by one a fifth of the time; for a normal video, and for one abnormal video in
    eight, anywhere the anomaly is not.
    """
    last = len(grid) - 1
    length = int(rng.integers(1, min(9, last)))
    anywhere = FrameRange(start := int(rng.integers(0, last - length + 2)), start + length - 1)
    moved = visible_anomalies(truth, grid)
    if not moved:
        return anywhere
    true = moved[0].frames
    apart = anywhere.end < true.start - 1 or anywhere.start > true.end + 1
    if apart and rng.random() < 0.25:
        return anywhere
    shift = rng.choice([-1, 0, 1], size=2, p=[0.1, 0.8, 0.1])
    start = int(np.clip(true.start + shift[0], 0, last))
    end = int(np.clip(true.end + shift[1], start, last))
    return FrameRange(start, end)


def draw_hint(truth: VideoAnnotation, window: FrameRange, grid: Sequence[int], rng: np.random.Generator) -> str:
    """Turn one's reasoning as turn two gets to see it: right, missing, or made up.

    A normal clip mostly comes with an invented anomaly, because that is when turn two is asked; so a hint says nothing
    about the verdict and the frames have to be looked at.
    """
    if rng.random() < 0.3:
        return ""
    if truth.anomalies and rng.random() < 0.9:
        return narrate_frames(visible_anomalies(truth, grid), len(grid))
    name = " ".join(truth.prompt.split()[1:3])
    kind = str(rng.choice([k for k in KINDS if _fits(k, truth.prompt)]))
    if rng.random() >= 0.8 and name.split()[1] in SHAPES:
        name = f"{rng.choice(list(COLORS))} {rng.choice(SHAPES)}"
    return f"Frame {window.start}: anomalous. The {name} {REASONS[kind]}."


def _fits(kind: str, prompt: str) -> bool:
    """True if a kind could happen in what a prompt describes."""
    words = prompt.split()
    if words[2] == "person":
        return SETTINGS_OF[kind] == ("person",)
    if words[2] == "sign":
        return SETTINGS_OF[kind] == ("sign",)
    if "floor" in words or "block" in words:
        return SETTINGS_OF[kind] == ("physics",)
    return "objects" in SETTINGS_OF[kind]


def order_by_length(rows: Dataset, batch: int, *, window: int = 16) -> Dataset:
    """Rows sorted by expected length within each ``window`` batches, so that little is padded.

    The batches of a window are shuffled again; which rows train in which window does not change.
    """
    rng = np.random.default_rng([len(rows), batch])
    order: list[int] = []
    lengths = np.array([_expected_length(row) for row in rows])
    for start in range(0, len(rows), window * batch):
        block = start + np.argsort(lengths[start : start + window * batch], kind="stable")
        batches = [block[k : k + batch] for k in range(0, len(block), batch)]
        order += [int(i) for k in rng.permutation(len(batches)) for i in batches[k]]
    return rows.select(order)


def _expected_length(row: Mapping[str, Any]) -> int:
    """About how many tokens prompt and answer have."""
    if row["task"] != "zoom":
        return {"frame": 40, "clip": 80, "splice": 200, "scan": 220}[row["task"]]
    if not row["kind"]:
        return 110
    fault = scene_of(row).fault
    assert fault is not None
    per_frame = {"split": 20, "vanish": 9, "appear": 9}.get(row["kind"], 14)
    return 40 + per_frame * (len(fault.frames) // 2 + 2)


def stage1_rows(steps: int, batch: int, *, seed: int) -> Dataset:
    """Stage 1: single frames and short clips, a quarter each, and splices, in turns."""
    turns = ("frame", "splice", "clip", "splice")
    return draw_rows([turns[k % 4] for k in range(batch * steps)], seed=seed)


def box_rows(steps: int, batch: int, *, seed: int) -> Dataset:
    """Rows for localisation: short clips and single frames, four in five with an anomaly to draw boxes around."""
    turns = ("clip", "clip", "clip", "frame")
    return draw_rows([turns[k % 4] for k in range(batch * steps)], seed=seed, abnormal=0.8)


def stage2_rows(steps: int, batch: int, *, seed: int) -> Dataset:
    """Stage 2: whole videos and clips jointly, with splices and single frames replayed.

    Every step is two half batches, first scans and splices, then clips and frames of similar length: train with
    ``gradient_accumulation_steps=2`` and a sequential sampler. The first scans (:data:`CURRICULUM`) are a curriculum:
    videos grow from 6 to 21 sampled frames.
    """
    half = batch // 2
    replay = max(1, half // 4)
    climb = int(half * steps * CURRICULUM)
    grown = 4 * np.random.default_rng([seed, 79]).integers(5, 6 + 15 * np.arange(climb) // max(climb, 1)) + 1
    tasks = ["splice" if k % half % 3 == 1 else "scan" for k in range(half * steps)]
    early = draw_rows(tasks[:climb], seed=seed + 2, num_frames=list(grown))
    scans = concatenate_datasets([early, draw_rows(tasks[climb:], seed=seed)])
    short = draw_rows((["zoom"] * (half - replay) + ["frame"] * replay) * steps, seed=seed + 1)
    short = order_by_length(short, half)
    order = np.arange(2 * half * steps).reshape(2, steps, half).transpose(1, 0, 2).ravel()
    return concatenate_datasets([scans, short]).select(order)
