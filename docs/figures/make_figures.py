"""Draws the figures of the documentation: SVG text, no library beyond the project's own.

    python docs/figures/make_figures.py                 # all, into docs/figures
    python docs/figures/make_figures.py --only kernels  # one of them

``two_turns`` is a verdict of the embedded mini judge on a video it was not trained on, ``kernels`` the standard
deviations that the sampler uses, ``second_look`` what stage 3 teaches the scan; ``stages`` and ``flow_grpo`` are
diagrams. What ``active``, ``tracks`` and ``ser`` show, the code of those systems has computed. All are drawn on white,
so that they read the same on a dark page; the last four turn dark where the reader's system is.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

from drawing import FILL, GOLD, INK, RED, SOFT, arrow, card, page, picture, rect, text
from sister_systems import active_evidence, referee_claims, second_level_tracks

COLOURS = {"wan_linear": "#0b62c4", "flow": "#d92d20", "dance": "#6f42c1", "cps": "#118452", "precise": "#b26a00"}
RESCUES = {-1.0: "#b26a00", -0.5: "#d92d20", -0.125: "#6f42c1", 0.0: "#118452"}


def main() -> None:
    """Parses the command line and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(FIGURES), help="one figure")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    for name in [args.only] if args.only else FIGURES:
        path = args.output / f"{name}.svg"
        path.write_text(FIGURES[name](), encoding="utf-8")
        print(path)


def two_turns() -> str:
    """A real verdict: the scan, the window, the zoom with its boxes."""
    from reward_model.backends.local import LocalBackend
    from reward_model.judge import TwoTurnJudge
    from reward_model.world import make_video

    backend = LocalBackend(str(Path(__file__).resolve().parents[2] / "assets" / "cac-mini"), device="cpu")
    frames, truth = make_video(500_004, "extra_limb", setting="person")
    verdict = TwoTurnJudge(backend, backend.config, readout="direct").judge([frames], [truth.prompt], fps=truth.fps)[0]
    if len(verdict.turns) != 2 or verdict.status != "abnormal" or verdict.window is None or verdict.window_s is None:
        raise RuntimeError(f"the figure wants a video that both turns call abnormal, got {verdict.status}")
    scan, zoom = verdict.turns
    width, side, left, top = 900, 39, 24, 64
    step = (width - 2 * left - side) / (len(scan.frame_indices) - 1)
    inside = [k for k, n in enumerate(scan.frame_indices) if n in verdict.window]
    parts = [text(left, 34, "Turn one: scan the whole video at 4 frames per second", size=16, weight=600)]
    for k, n in enumerate(scan.frame_indices):
        parts.append(picture(frames[n], left + k * step, top, side))
        shown = f"{n / verdict.fps:.0f} s"
        if n % verdict.fps == 0:
            parts.append(
                text(left + k * step + side / 2, top + side + 20, shown, size=12, colour=SOFT, anchor="middle")
            )
    x0, x1 = left + inside[0] * step - 4, left + inside[-1] * step + side + 4
    parts.append(rect(x0, top - 5, x1 - x0, side + 10, stroke=GOLD, thick=3, round_=4))
    start, end = verdict.window_s
    said = f"suspicious: {start:.2f} to {end:.2f} s"
    parts.append(text((x0 + x1) / 2, top + side + 40, said, size=13, anchor="middle", weight=600))
    count = len(zoom.frame_indices)
    big = min(150.0, (width - 2 * left - 12 * (count - 1)) / count)
    wide = count * big + 12 * (count - 1)
    x, y = (width - wide) / 2, top + side + 118
    parts.append(arrow([((x0 + x1) / 2, top + side + 50), (width / 2, y - 46)]))
    first, last = zoom.frame_indices[0] / verdict.fps, (zoom.frame_indices[-1] + 1) / verdict.fps
    again = f"Turn two: look again at {first:.2f} to {last:.2f} s, 8 frames per second"
    parts.append(text(left, y - 20, again, size=16, weight=600))
    report = zoom.report
    for k, n in enumerate(zoom.frame_indices):
        place = x + k * (big + 12)
        parts.append(picture(frames[n], place, y, big))
        for box in (b for a in (report.anomalies if report else ()) for b in a.boxes.get(k, ())):
            bx, by, ex, ey = box.to_pixels(round(big), round(big))
            parts.append(rect(place + bx, y + by, ex - bx, ey - by, stroke=RED, thick=2.5, round_=2))
        parts.append(text(place + big / 2, y + big + 18, f"Frame {k}", size=12, colour=SOFT, anchor="middle"))
    found = verdict.anomalies[0]
    score = f"Verdict: abnormal, {found.type.value}. Reward P(normal) = {verdict.score:.4f}"
    parts.append(text(left, y + big + 56, score, size=15, weight=600))
    parts.append(text(left, y + big + 78, f"The judge's words: {found.reason}", size=13, colour=SOFT))
    return page(width, round(y + big + 98), "One video judged in two turns", parts)


def stages() -> str:
    """From annotated videos to a judge."""
    cards = [
        ("Stage 1: frames", ["one frame, one answer", "judgment, reasoning, boxes", "LoRA"]),
        ("Stage 2: videos and clips", ["whole videos at 4 fps: when", "clips at 8 fps: where", "all parameters"]),
        ("Stage 3: two-turn GRPO", ["its own rollouts, 8 a video", "rewards of equations 2 to 6", "all parameters"]),
    ]
    wide, gap, top = 262, 34, 92
    parts = [
        card(24, 16, 410, 54, "Annotated videos: type, window, boxes", []),
        card(466, 16, 410, 54, "Verified reasoning, salient or not", []),
        arrow([(434, 43), (464, 43)]),
    ]
    for k, (title, lines) in enumerate(cards):
        x = 24 + k * (wide + gap)
        parts.append(card(x, top + 30, wide, 116, title, lines))
        parts.append(arrow([(x + wide / 2, 72), (x + wide / 2, top + 28)]))
        if k:
            parts.append(arrow([(x - gap + 3, top + 88), (x - 3, top + 88)]))
    parts.append(arrow([(24 + 2.5 * wide + 2 * gap, top + 148), (24 + 2.5 * wide + 2 * gap, top + 178)]))
    parts.append(card(24 + 2 * (wide + gap), top + 180, wide, 54, "The judge, and its reward", []))
    return page(878 + 22, top + 250, "Three stages of training", parts)


def flow_grpo() -> str:
    """The loop that trains a generator."""
    steps = [
        (
            24,
            24,
            "1  Draw",
            ["the unmodified WanPipeline", "a group for each prompt", "random steps are recorded"],
        ),
        (322, 24, "2  Judge", ["CaC and other rewards", "while the next are drawn", "no score is not a score of 0"]),
        (620, 24, "3  Compare", ["advantage in the group:", "above or below its mean,", "in standard deviations"]),
        (
            620,
            206,
            "4  Replay",
            ["recorded steps, with gradient", "clipped ratio to the old", "policy, KL to the base"],
        ),
        (322, 206, "5  Update", ["a LoRA, and its average", "checkpoint, resumable", "plain diffusers file"]),
        (24, 206, "6  Watch", ["evaluation prompts", "canaries: motion, edges,", "colours, drift"]),
    ]
    parts = [card(x, y, 258, 122, title, lines) for x, y, title, lines in steps]
    ways = [((284, 85), (320, 85)), ((582, 85), (618, 85)), ((749, 148), (749, 204))]
    ways += [((618, 267), (582, 267)), ((320, 267), (284, 267)), ((153, 204), (153, 148))]
    parts += [arrow(list(way)) for way in ways]
    return page(902, 352, "The loop of Flow-GRPO", parts)


def kernels() -> str:
    """Std of every kernel's step over Wan's schedule of 20 steps, shift 3."""
    from diffusers import UniPCMultistepScheduler

    from cac_align.flow_grpo.maths.kernels import coefficients

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(20)
    sigmas = [float(s) for s in scheduler.sigmas]
    levels = {"wan_linear": None, "flow": 0.7, "dance": 0.3, "cps": 0.7, "precise": 1.5}
    left, top, width, height = 64, 30, 560, 300
    parts = [rect(left, top, width, height, round_=0)]
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        y = top + height * (1 - tick)
        parts.append(f"<path d='M{left} {y:g}h{width}' stroke='{FILL}'/>")
        parts.append(text(left - 10, y + 4, f"{tick:.1f}", size=12, colour=SOFT, anchor="end"))
    for step in (1, 5, 10, 15, 20):
        x = left + width * (step - 1) / 19
        parts.append(text(x, top + height + 20, str(step), size=12, colour=SOFT, anchor="middle"))
    parts.append(text(left + width / 2, top + height + 44, "step, from noise to video", size=13, anchor="middle"))
    parts.append(
        f"<text transform='translate(20 {top + height / 2:g}) rotate(-90)' font-size='13' fill='{INK}' "
        "text-anchor='middle'>standard deviation S</text>"
    )
    for row, (name, level) in enumerate(levels.items()):
        made = [
            coefficients(name, now, then, noise_level=level, sigma_max=sigmas[1]).std.item()
            for now, then in pairwise(sigmas)
        ]
        line = "L".join(f"{left + width * k / 19:.1f} {top + height * (1 - s):.1f}" for k, s in enumerate(made))
        parts.append(f"<path d='M{line}' fill='none' stroke='{COLOURS[name]}' stroke-width='2.4'/>")
        y = top + 24 + 30 * row
        parts.append(f"<path d='M{left + width + 24} {y - 5}h26' stroke='{COLOURS[name]}' stroke-width='3'/>")
        label = name if level is None else f"{name}, noise level {level}"
        parts.append(text(left + width + 60, y, label, size=13))
    return page(860, top + height + 60, "Standard deviation of each kernel's step", parts)


def second_look() -> str:
    """Expected push of stage 3 on the logit with which a scan flags what it cannot decide."""
    from reward_model.statistics.second_look import Stakes, expected_push

    left, top, width, height, gap = 70, 62, 300, 230, 56
    most = 0.33
    heads = {"group": "Deviation of the group (Equation 8)", "batch": "Deviation of the batch"}
    parts = []
    for panel, (scale, title) in enumerate(heads.items()):
        x0 = left + panel * (width + gap)
        parts += [text(x0, top - 20, title, size=15, weight=600), rect(x0, top, width, height, round_=0)]
        for tick in (0.0, 0.1, 0.2, 0.3):
            y = top + height * (1 - tick / most)
            parts.append(f"<path d='M{x0} {y:.1f}h{width}' stroke='{FILL}'/>")
            if not panel:
                parts.append(text(x0 - 10, y + 4, f"{tick:.1f}", size=12, colour=SOFT, anchor="end"))
        for tick in (0.0, 0.5, 1.0):
            x = x0 + width * tick
            parts.append(text(x, top + height + 20, f"{tick:.1f}", size=12, colour=SOFT, anchor="middle"))
        for rescued, colour in RESCUES.items():
            made = [(q / 50, expected_push(q / 50, Stakes.of(rescued), scale_rewards=scale)) for q in range(51)]
            line = "L".join(f"{x0 + width * q:.1f} {top + height * (1 - push / most):.1f}" for q, push in made)
            parts.append(f"<path d='M{line}' fill='none' stroke='{colour}' stroke-width='2.4'/>")
    middle = left + width + gap / 2
    share = "share of rollouts whose scan flags the video, q"
    parts.append(text(middle, top + height + 44, share, size=13, anchor="middle"))
    parts.append(
        f"<text transform='translate(22 {top + height / 2:g}) rotate(-90)' font-size='13' fill='{INK}' "
        "text-anchor='middle'>push on the logit of flagging</text>"
    )
    names = {-1.0: "-1", -0.5: "-1/2", -0.125: "-1/8", 0.0: "0"}
    parts.append(text(left, top + height + 78, "rescued_normal:", size=13))
    for k, (rescued, colour) in enumerate(RESCUES.items()):
        x = left + 116 + 92 * k
        parts.append(f"<path d='M{x} {top + height + 74}h26' stroke='{colour}' stroke-width='3'/>")
        parts.append(text(x + 34, top + height + 78, names[rescued], size=13))
    note = "Left, all but 0 lie on the axis: what a miss costs is divided out."
    parts.append(text(left, top + height + 104, note, size=13, colour=SOFT))
    title = "What stage 3 teaches a scan that cannot decide"
    return page(left + 2 * width + gap + 30, top + height + 122, title, parts, dark=True)


FIGURES = {
    "two_turns": two_turns,
    "stages": stages,
    "flow_grpo": flow_grpo,
    "kernels": kernels,
    "second_look": second_look,
    "active": active_evidence,
    "tracks": second_level_tracks,
    "ser": referee_claims,
}

if __name__ == "__main__":
    main()
