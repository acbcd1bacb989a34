"""Figures of the three further systems: active evidence, second-level tracks, evidence scored by a referee.

What they show is computed by the code of these systems, on videos of the procedural world. No model is asked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from drawing import FILL, GOLD, INK, LINE, RED, SOFT, arrow, page, picture, rect, text

from reward_model.schema import Box

GREEN, BLUE = "#118452", "#0b62c4"


def active_evidence() -> str:
    """Two videos that are the same at 2 frames per second, and the operator that tells them apart."""
    from reward_model.active.environment import SymbolicEnvironment
    from reward_model.active.episodes import run_episodes
    from reward_model.active.policies import OraclePolicy
    from reward_model.world.aliasing import aliasing_scene
    from reward_model.world.video import make_annotation, render

    rows = [{"seed": 500_021, "story": "aliased", "kind": "pass", "abnormal": a} for a in (False, True)]
    scenes, windows = zip(*(aliasing_scene(row) for row in rows), strict=True)
    truths = [make_annotation(scene) for scene in scenes]
    episodes = run_episodes(OraclePolicy(truths, windows), [SymbolicEnvironment(t) for t in truths])
    first, zoomed = (episodes[0].observations[k].indices for k in (0, 1))
    seen = [render(scene, first) for scene in scenes]
    if not np.array_equal(*seen) or [e.observations[1].indices for e in episodes] != [zoomed, zoomed]:
        raise RuntimeError("the figure wants a pair whose first views are equal and lead to one operator")
    left, width, side = 24, 900, 58
    step = (width - 2 * left - side) / (len(first) - 1)
    parts = [text(left, 34, "First view: 2 frames per second, the same in both videos", size=16, weight=600)]
    for k, n in enumerate(first):
        parts += _frame(seen[0][k], left + k * step, 50, side, n / truths[0].fps)
    inside = [k for k, n in enumerate(first) if zoomed[0] <= n <= zoomed[-1]]
    x0, x1 = left + inside[0] * step - 4, left + inside[-1] * step + side + 4
    parts.append(rect(x0, 45, x1 - x0, side + 10, stroke=GOLD, thick=3, round_=4))
    operator = episodes[0].operators[0].operator
    said = f"zoom({operator.start:g} s, {operator.end:g} s, x{operator.factor})"  # type: ignore[union-attr]
    parts.append(arrow([((x0 + x1) / 2, 130), ((x0 + x1) / 2, 158)]))
    parts.append(text((x0 + x1) / 2 + 12, 150, said, size=13, weight=600))
    wide = len(zoomed) * 70
    for turn, (scene, truth, episode) in enumerate(zip(scenes, truths, episodes, strict=True)):
        y, x = 172 + 112 * turn, left + 80
        colour = RED if turn else GREEN
        for k, (n, frame) in enumerate(zip(zoomed, render(scene, zoomed), strict=True)):
            parts += _frame(frame, x + 70 * k, y, 64, n / truth.fps)
        answer = f"answer: {episode.status}"
        parts.append(text(x + wide + 12, y + 36, answer, size=14, colour=colour, weight=600))
    return page(width, 404, "A look that tells two videos apart", parts, dark=True)


def _frame(frame: np.ndarray, x: float, y: float, side: float, seconds: float) -> list[str]:
    label = text(x + side / 2, y + side + 17, f"{seconds:.4g} s", size=11, colour=SOFT, anchor="middle")
    return [picture(frame, x, y, side), label]


def second_level_tracks() -> str:
    """A thing on a circle that jumps once: shaken boxes at ticks of a second, smoothed, and a box for every frame."""
    from reward_model.schema import FrameRange
    from reward_model.tracks.smoothing import breaks, smooth_track
    from reward_model.tracks.ticks import expand_ticks

    fps, last = 8, 20
    times = [k / fps for k in range(last * fps + 1)]
    rng = np.random.default_rng(3)

    def centre(t: float) -> np.ndarray:
        turn = 2 * np.pi * t / 20
        middle = np.array([250.0, 250.0]) if t <= 12.5 else np.array([700.0, 700.0])
        return middle + 150 * np.array([np.cos(turn), np.sin(turn)])

    ticks = [float(t) for t in range(last + 1)]
    boxes = [_around(centre(t) + rng.normal(0, 22, 2), 80) for t in ticks]
    boxes[5] = _around(centre(5.0) + 95, 80)
    track = smooth_track(boxes)
    every = expand_ticks(ticks, track, breaks(boxes), times, FrameRange(0, len(times) - 1))
    left, top, width, height = 70, 44, 660, 260

    def at(t: float, x: float) -> str:
        return f"{left + width * t / last:.1f} {top + height * (1 - x / 1000):.1f}"

    parts = [rect(left, top, width, height, round_=0)]
    for value in (0, 250, 500, 750, 1000):
        y = top + height * (1 - value / 1000)
        parts.append(f"<path d='M{left} {y:g}h{width}' stroke='{FILL}'/>")
        parts.append(text(left - 10, y + 4, str(value), size=12, colour=SOFT, anchor="end"))
    for t in range(0, last + 1, 5):
        x = left + width * t / last
        parts.append(text(x, top + height + 20, f"{t} s", size=12, colour=SOFT, anchor="middle"))
    edge = next(k for k, t in enumerate(times) if t > 12.5)
    for part in (range(edge), range(edge, len(times))):
        true = "L".join(at(times[k], centre(times[k])[0]) for k in part)
        found = "L".join(at(times[k], (every[k].xmin + every[k].xmax) / 2) for k in part)
        parts.append(f"<path d='M{true}' fill='none' stroke='{LINE}' stroke-width='6'/>")
        parts.append(f"<path d='M{found}' fill='none' stroke='{BLUE}' stroke-width='2.2'/>")
    for t, box in zip(ticks, boxes, strict=True):
        x, y = at(t, (box.xmin + box.xmax) / 2).split()
        parts.append(f"<circle cx='{x}' cy='{y}' r='4' fill='{RED}'/>")
    parts.append(
        f"<text transform='translate(22 {top + height / 2:g}) rotate(-90)' font-size='13' fill='{INK}' "
        "text-anchor='middle'>centre of the box, x</text>"
    )
    x, y = left, top + height + 48
    for colour, name in ((RED, "box at a tick"), (BLUE, "box on every frame at 8 fps"), (LINE, "the thing")):
        parts.append(f"<path d='M{x} {y - 4}h24' stroke='{colour}' stroke-width='4'/>")
        parts.append(text(x + 32, y, name, size=13))
        x += 62 + 8 * len(name)
    note = "The wrong box at 5 s hardly counts; nothing is drawn or smoothed across the jump at 12.5 s."
    parts.append(text(left, y + 26, note, size=13, colour=SOFT))
    return page(left + width + 30, y + 44, "Boxes at ticks of a second become boxes on every frame", parts, dark=True)


def _around(centre: np.ndarray, half: float) -> Box:
    x, y = (float(v) for v in centre)
    return Box(*(round(v) for v in (x - half, y - half, x + half, y + half)))


def referee_claims() -> str:
    """Four claims about one video, what a referee sees of each, and what they earn."""
    from reward_model.evidence.claims import Claim
    from reward_model.evidence.model_referee import MARGIN
    from reward_model.evidence.referee import OracleReferee, Question, reference_answer
    from reward_model.evidence.score import Checked, evidence_score, temporal_penalty
    from reward_model.schema import AnomalyType
    from reward_model.video.crops import enlarged, marked
    from reward_model.world import make_video

    frames, truth = make_video(500_004, "extra_limb", setting="person")
    wrong = truth.anomalies[0]
    middle = (wrong.frames.start + wrong.frames.end) // 2
    box = wrong.boxes[middle][0]
    right = Claim(wrong.type, wrong.objects[0], box, middle, middle / truth.fps)
    early = max(0, wrong.frames.start - 6)
    claims = {
        "right, and close": right,
        "right, a wide box": replace(right, box=Box(0, 0, 1000, 1000)),
        "of another type": replace(right, type=AnomalyType.CHARACTER),
        f"{(wrong.frames.start - early) / truth.fps:.2g} s too early": replace(
            right, frame=early, time_s=early / truth.fps
        ),
    }
    window = (wrong.frames.start / truth.fps, wrong.frames.end / truth.fps)
    left, wide, side = 24, 214, 92
    parts = [text(left, 34, f"Correct answer: {truth.status}, {wrong.type.value}", size=16, weight=600)]
    checked = []
    for k, (name, claim) in enumerate(claims.items()):
        question = Question(claim, truth.video_id, reference_answer(truth), lambda: frames[0], truth)
        opinion = OracleReferee().check([question])[0]
        late = temporal_penalty(claim.time_s, [window])
        checked.append(Checked(opinion.relevance, opinion.localisation, late))
        x, frame = left + k * wide, frames[claim.frame]
        parts.append(text(x, 66, f"Claim {k + 1}: {name}", size=13, weight=600))
        parts.append(picture(marked(frame, claim.box), x, 78, side))
        parts.append(picture(enlarged(frame, claim.box, margin=MARGIN, side=side), x + side + 8, 78, side))
        lines = [
            f"relevance r = {opinion.relevance:g}",
            f"localisation l = {opinion.localisation:g}",
            f"penalty p = {late:.2f}",
            f"earns {evidence_score([checked[-1]]):.2f}",
        ]
        for row, line in enumerate(lines):
            last = row == len(lines) - 1
            colour = INK if last else SOFT
            parts.append(text(x, 196 + 20 * row, line, size=13, colour=colour, weight=600 if last else 400))
    total = f"R_SER of an answer with these four claims, before looseness: {evidence_score(checked):.2f}"
    parts.append(text(left, 292, total, size=15, weight=600))
    note = "The referee sees the frame with the region marked, the region enlarged, the correct answer and the phrase"
    parts.append(text(left, 316, note, size=13, colour=SOFT))
    parts.append(text(left, 335, "of the claim. The grades here are the oracle's.", size=13, colour=SOFT))
    return page(left + 4 * wide + 6, 354, "Claims, as a referee sees them, and what they earn", parts, dark=True)
