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
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.conversation import Conversation
from reward_model.data.example import Example
from reward_model.minis.drift import drift_boxes
from reward_model.minis.model import FIT, MAX_SCAN, MAX_ZOOM, MIN_ZOOM, SCAN_FPS, ZOOM_FPS
from reward_model.minis.splices import SPLICED, make_splice
from reward_model.parsing import format_report
from reward_model.prompts import PromptSet, load_prompts
from reward_model.schema import Anomaly, Box, FrameRange, TurnReport, VideoAnnotation
from reward_model.tracks.codec import PerFrame, TurnTwoCodec, asked_for
from reward_model.tracks.ticks import frame_times
from reward_model.video.clip import native_window, sample_indices, zoom_indices
from reward_model.video.framing import Framing
from reward_model.world.edits import edit_frames, inner_shape, words_of
from reward_model.world.kinds import KINDS, REASONS, SETTINGS_OF, SINGLE_FRAME
from reward_model.world.narration import narrate_frames, narrate_scan, narrate_zoom, shift_report, visible_anomalies
from reward_model.world.nuisance import degrade
from reward_model.world.palette import COLORS, SHAPES
from reward_model.world.scene import Scene, make_scene
from reward_model.world.scripts import PLAIN, SHIFTED, Script, check_stories, draw_story
from reward_model.world.shift import Shift
from reward_model.world.shifts import draw_shift
from reward_model.world.supervision import as_people_annotate
from reward_model.world.video import SIZE, make_annotation, render

#: How the minis are asked about a long video.
_ASKED = JudgeConfig(scan_fps=SCAN_FPS, max_scan_frames=MAX_SCAN)
_FRAMES = PerFrame()
#: Draws of a shift that frames put together by chance cannot follow.
_OF_WHOLE_VIDEOS = ("length", "rate", "speed", "camera", "compression")
TRAIN_SEEDS = range(0, 100_000)
#: Most frames of a splice: as many as a scan of five seconds.
SPLICE_FRAMES = 21
#: Videos of the mini generator are smaller than the judge's frames; this is their side in pixels.
SMALL_SIZE = 32
#: Squash factors below the first are called normal, above the second abnormal, between them nothing is trained.
FAINT, CLEAR = 1.2, 1.35

#: Kinds that need frames to be compared are drawn more often than the others: they are harder to learn.
_COMPARED = {"teleport": 2.5, "change": 2.5, "float": 2.5, "rebound": 2.5, "flicker": 1.5, "appear": 1.5}
#: Tasks that cannot show every kind.
_KINDS_OF = {"frame": SINGLE_FRAME, "splice": SPLICED}

Row = dict[str, Any]
_Rng = np.random.Generator


def draw_rows(
    tasks: Sequence[str],
    *,
    seed: int,
    kinds: Sequence[str] = tuple(KINDS),
    num_frames: Sequence[int] | None = None,
    abnormal: float = 0.5,
    stories: Mapping[str, float] | None = None,
    people: bool = False,
) -> Dataset:
    """One row for each task named, half of them normal unless ``abnormal`` says otherwise.

    Args:
        tasks: for instance ``["scan", "scan", "zoom"]``; the order is kept.
        seed: seed of the draw; rows are a function of it and of their position.
        kinds: anomalies to draw from. ``frame`` rows only take those that one frame can show.
        num_frames: length of each video; by default 81, and something else between 33 and 97 in one row of five.
        stories: share of the videos that are not plain, see :func:`reward_model.world.scripts.check_stories`.
        people: answers follow the annotation that a person would have given
            (:func:`reward_model.world.as_people_annotate`), not the exact truth.

    Raises:
        ValueError: if a story is unknown, or no kind fits a task.
    """
    rng, plot = np.random.default_rng([seed, 77]), np.random.default_rng([seed, 78])
    check_stories(stories or {})
    rows = [_told(_draw_row(task, rng, kinds, abnormal), stories or {}, plot) for task in tasks]
    if num_frames is not None:
        rows = [{**row, "num_frames": int(n)} for row, n in zip(rows, num_frames, strict=True)]
    if people:
        rows = [{**row, "people": True} for row in rows]
    return Dataset.from_list(rows)


def _draw_row(task: str, rng: np.random.Generator, kinds: Sequence[str], share: float) -> Row:
    usable = [k for k in kinds if task not in _KINDS_OF or k in _KINDS_OF[task]]
    if not usable:
        fitting = ", ".join(_KINDS_OF.get(task, KINDS))
        raise ValueError(f"kinds={list(kinds)}: the task {task!r} can show none of them, only {fitting}")
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


def _told(row: Row, shares: Mapping[str, float], rng: np.random.Generator) -> Row:
    """The row with its story. Neither a single frame nor a splice shows a short anomaly or a look-alike for what it
    is.
    """
    plain = {**row, "story": PLAIN, "stratum": ""}
    usable = {k: v for k, v in shares.items() if row["task"] not in ("frame", "splice") or k == SHIFTED}
    if not usable:
        return plain
    possible = [k for k in KINDS if row["setting"] in SETTINGS_OF[k]]
    kind = row["kind"] or possible[rng.integers(len(possible))]
    drawn = draw_story(rng, usable, kind, abnormal=bool(row["kind"]))
    return plain if drawn["story"] == PLAIN else {**row, **drawn}


def _squash(abnormal: bool, rng: np.random.Generator) -> tuple[bool, float]:
    """Drawing and strength of a squash (-1: any): some slight ones, and faint ones as normal."""
    if abnormal and rng.random() < 0.1:
        return True, float(rng.uniform(CLEAR, 1.5))
    if not abnormal and rng.random() < 0.5:
        return True, float(rng.uniform(1.0, FAINT))
    return abnormal, -1.0


def make_example(row: Mapping[str, Any], *, prompts: str = "compact", codec: TurnTwoCodec = _FRAMES) -> Example:
    """The conversation and the answer of a row, a clip's as ``codec`` has it. Frames carry the world's nuisances and,
    half of the time, blur and compression (all of it normal).
    """
    rng = np.random.default_rng([row["draw"], 5])
    if row["task"] == "splice":
        return _splice(row, rng, load_prompts(prompts))
    return _TASKS[row["task"]](shot_of(row, rng)._replace(codec=codec), row["cot"], rng, load_prompts(prompts))


class Alarm(NamedTuple):
    """A window, in native frames, that a judge's scan suspected in a normal video, and its reasoning."""

    window: FrameRange
    said: str


class Shot(NamedTuple):
    """A video as the judge is shown it.

    ``truth`` in native frames, ``take`` native indices -> (N, 48, 48, 3) uint8 as they are shown; ``suspicion``: of a
    look-alike what a scan may take it for, else None; ``codec``: of its clips; ``alarm``: what a judge did take it for.
    """

    truth: VideoAnnotation
    take: Callable[[Sequence[int]], np.ndarray]
    suspicion: VideoAnnotation | None = None
    codec: TurnTwoCodec = _FRAMES
    alarm: Alarm | None = None


def shot_of(row: Mapping[str, Any], rng: np.random.Generator | None = None) -> Shot:
    """The video of a row that is not a splice; by default worn as :func:`make_example` shows it first."""
    shot = _filmed(row, np.random.default_rng([row["draw"], 5]) if rng is None else rng)
    return shot._replace(alarm=Alarm(FrameRange(*row["alarm"]), row["said"])) if row.get("alarm") else shot


def _filmed(row: Mapping[str, Any], rng: np.random.Generator) -> Shot:
    if row.get("story", PLAIN) == PLAIN:
        scene = scene_of(row)
        truth = _annotated(row, truth_of(row, make_annotation(scene)))
        return Shot(truth, lambda i: _shoot(partial(render, scene, i), row, rng))
    names = ("seed", "kind", "setting", "story", "stratum", "draw")
    strength = row["strength"] if row["strength"] > 0 and row["kind"] == "squash" else None
    script = Script(**{name: row[name] for name in names}, strength=strength)
    film = script.film()
    framing = Framing((film.truth.height, film.truth.width), SIZE, FIT)
    truth = _annotated(row, film.truth if strength is None else truth_of(row, film.truth))
    return Shot(truth, lambda i: framing.show(degrade(film.take(i), rng, probability=0.2)), script.suspicion())


def _annotated(row: Mapping[str, Any], truth: VideoAnnotation) -> VideoAnnotation:
    """The annotation that a row's answers follow: of a video always the same."""
    return as_people_annotate(truth, np.random.default_rng([row["draw"], 8])) if row.get("people") else truth


def scene_of(row: Mapping[str, Any]) -> Scene:
    """The scene a row names."""
    return make_scene(
        row["seed"],
        row["kind"] or None,
        setting=row["setting"],
        num_frames=row["num_frames"],
        strength=row["strength"] if row["strength"] > 0 else None,
    )


def truth_of(row: Mapping[str, Any], truth: VideoAnnotation) -> VideoAnnotation:
    """The annotation of a row's scene; a squash too faint to be called one is none."""
    return replace(truth, anomalies=()) if 0 < row["strength"] < FAINT else truth


def _shoot(draw: Callable[[int], np.ndarray], row: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Frames of a size, worn and shown as the judge is shown frames."""
    frames = degrade(draw(SMALL_SIZE if row["small"] else SIZE), rng)
    return Framing((frames.shape[1], frames.shape[2]), SIZE, FIT).show(frames)


def _seen(report: TurnReport, truth: VideoAnnotation) -> TurnReport:
    """The report with its boxes where the judge sees them, on the pixels it sees: its tokens know no others."""
    return on_pixels(Framing((truth.height, truth.width), SIZE, FIT).shown_report(report))


def on_pixels(report: TurnReport) -> TurnReport:
    """The report with its boxes on the pixels of the judge's square."""
    anomalies = (replace(a, boxes={k: tuple(map(_on_pixels, v)) for k, v in a.boxes.items()}) for a in report.anomalies)
    return replace(report, anomalies=tuple(anomalies))


def _zoomed(shot: Shot, indices: Sequence[int], report: TurnReport, rng: _Rng, asked: Conversation) -> Example:
    """Turn two about a clip, as its codec asks and answers."""
    times = frame_times(indices, shot.truth.fps)
    answer = shot.codec.write(_seen(report, shot.truth), times)
    return Example(asked_for(shot.codec, asked, times), answer, drift_boxes(answer, rng))


def _on_pixels(box: Box) -> Box:
    """The box with its corners on the pixels of the judge's square, at least one pixel wide and high."""
    x0, y0, x1, y1 = (round(value) for value in box.to_pixels(SIZE, SIZE))
    left, top = min(x0, SIZE - 1), min(y0, SIZE - 1)
    return Box.from_pixels(left, top, max(x1, left + 1), max(y1, top + 1), SIZE, SIZE)


def _grid_of(shot: Shot, rng: np.random.Generator) -> tuple[int, ...]:
    """Native frames of one question of turn one: of a long video, one of its chunks, mostly one that shows the
    anomaly.
    """
    grids = scan_grids(shot.truth.num_frames, shot.truth.fps, _ASKED)
    showing = [grid for grid in grids if visible_anomalies(shot.suspicion or shot.truth, grid)]
    chosen = showing if showing and rng.random() < 0.75 else grids
    return chosen[rng.integers(len(chosen))]


def _scan(shot: Shot, cot: bool, rng: np.random.Generator, prompts: PromptSet) -> Example:
    indices = _grid_of(shot, rng)
    report = narrate_scan(shot.truth, indices, cot=cot)
    return Example(prompts.scan(shot.take(indices), shot.truth.prompt), format_report(report, boxes=False))


def _zoom(shot: Shot, cot: bool, rng: np.random.Generator, prompts: PromptSet) -> Example:
    truth, grid = shot.truth, _grid_of(shot, rng)
    if shot.alarm is not None:
        native, hint = shot.alarm
    else:
        window = draw_window(shot.suspicion or truth, grid, rng)
        native = native_window(window, grid, truth.num_frames)
        hint = _suspect(shot, grid, rng) or draw_hint(truth, window, grid, rng)
    indices = zoom_indices(native, truth.num_frames, truth.fps, ZOOM_FPS, min_frames=MIN_ZOOM, max_frames=MAX_ZOOM)
    report = narrate_zoom(truth, indices, cot=cot)
    return _zoomed(shot, indices, report, rng, prompts.zoom(shot.take(indices), truth.prompt, cot=hint))


def _suspect(shot: Shot, grid: Sequence[int], rng: np.random.Generator) -> str:
    """Of a look-alike, mostly what a scan says that takes it for an anomaly, right or wrong; else "".

    Clips that a scan had no reason to flag teach turn two that what was flagged is wrong.
    """
    if shot.suspicion is None or rng.random() < 0.25:
        return ""
    return narrate_frames(visible_anomalies(shot.suspicion, grid), len(grid))


def _clip(shot: Shot, cot: bool, rng: np.random.Generator, prompts: PromptSet) -> Example:
    truth = shot.truth
    grid = sample_indices(truth.num_frames, truth.fps, ZOOM_FPS)
    length = min(int(rng.integers(2, 6)), len(grid))
    start = _start_near(shot.suspicion or truth, grid, length, rng)
    indices = grid[start : start + length]
    asked = prompts.zoom(shot.take(indices), truth.prompt)
    return _zoomed(shot, indices, narrate_zoom(truth, indices, cot=cot), rng, asked)


def _frame(shot: Shot, cot: bool, rng: np.random.Generator, prompts: PromptSet) -> Example:
    truth = shot.truth
    inside = truth.anomalies[0].frames.frames() if truth.anomalies else range(truth.num_frames)
    index, first = int(rng.choice(inside)), int(rng.integers(0, 25))
    anomalies = visible_anomalies(truth, [index])
    report = TurnReport(truth.status, narrate_frames(anomalies, 1, first=first) if cot else "", anomalies)
    conversation = prompts.scan(shot.take([index]), truth.prompt, first=first)
    answer = format_report(_seen(shift_report(report, first), truth))
    return Example(conversation, answer, drift_boxes(answer, rng))


def _splice(row: Mapping[str, Any], rng: np.random.Generator, prompts: PromptSet) -> Example:
    """A splice, asked like a scan; an anomaly for each run of wrong frames."""
    strength = row["strength"] if row["strength"] > 0 else None
    count = int(rng.integers(3, SPLICE_FRAMES + 1))
    shift = _splice_shift(row)
    look = {"style": shift.style, "aspect": inner_shape(shift)[1] / inner_shape(shift)[0]}
    splice = make_splice(row["seed"], row["kind"], row["setting"], count, rng, strength=strength, **look)
    faint = 0 < row["strength"] < FAINT
    name, kind = words_of(splice.scene.object_name, shift), row["kind"]
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
    if row.get("story", PLAIN) == PLAIN:
        frames = _shoot(splice.render, row, rng)
    else:
        drawn = edit_frames(splice.render(inner_shape(shift)), range(count), shift, row["seed"])
        frames = Framing(shift.shape, SIZE, FIT).show(degrade(drawn, rng, probability=0.2))
    return Example(prompts.scan(frames, words_of(splice.scene.prompt, shift)), format_report(report, boxes=False))


def _splice_shift(row: Mapping[str, Any]) -> Shift:
    """The shift of a splice: one that neither time nor the camera has a part in."""
    if row.get("story", PLAIN) == PLAIN:
        return Shift()
    letters = ("mirror",) if row["setting"] == "sign" else ()
    return draw_shift(np.random.default_rng([row["draw"], 6]), without=(*_OF_WHOLE_VIDEOS, *letters))


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
    window = truth.anomalies[0].frames
    inside = [k for k, n in enumerate(grid) if n in window]
    inside = inside or [int(np.abs(np.asarray(grid) - window.start).argmin())]  # between two frames of the grid
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
    name = _named_in(truth.prompt)
    kind = str(rng.choice([k for k in KINDS if _fits(k, truth.prompt)]))
    if rng.random() >= 0.8 and name.split()[-1] in SHAPES:
        name = f"{rng.choice(list(COLORS))} {rng.choice(SHAPES)}"
    return f"Frame {window.start}: anomalous. The {name} {REASONS[kind]}."


def _named_in(prompt: str) -> str:
    """The subject of a prompt: of ``a red ball bounces ...`` it is ``red ball``, in other colours ``ball``."""
    words = prompt.split()[1:3]
    return " ".join(words if words[0] in COLORS else words[:1])


def _fits(kind: str, prompt: str) -> bool:
    """True if a kind could happen in what a prompt describes."""
    words = prompt.split()
    noun = _named_in(prompt).split()[-1]
    if noun == "person":
        return SETTINGS_OF[kind] == ("person",)
    if noun == "sign":
        return SETTINGS_OF[kind] == ("sign",)
    if "floor" in words or "block" in words:
        return SETTINGS_OF[kind] == ("physics",)
    return "objects" in SETTINGS_OF[kind]
