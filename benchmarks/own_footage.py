"""The short way on own footage: from the mini judge and ten clips to a judge of such clips, measured on others.

    python benchmarks/own_footage.py --part dev --kinds flicker vanish     # to choose: clips of the development seeds
    python benchmarks/own_footage.py --part test --kinds flicker vanish --output benchmarks/results/own_footage.md
    python benchmarks/own_footage.py --footage clips/ --held-out others/

Runs the commands of docs/train_a_judge.md, each in a process of its own: ``cac-align data corrupt``, stage 2 with
``mini_own.yaml`` and its warm-up, ``recipes/evaluate_reward.py``. Without a folder, clips are drawn that look like
nothing the judge was trained on: things of random textures that drift, sway and fall over wavy grounds, three seconds
at 96 x 96 pixels. What is done stays done: the same command continues. The test part is for the report, read once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reward_model.data.annotations import read_annotations
from reward_model.files import write_text
from reward_model.statistics.intervals import wilson
from reward_model.video.writing import write_video

ROOT = Path(__file__).resolve().parents[1]
SIZE, LENGTH, FPS = 96, 49, 16.0
#: First seeds of the clips drawn for training, for choices and for the report.
SEEDS = {"train": 0, "dev": 1000, "test": 2000}


def draw_clip(seed: int) -> np.ndarray:
    """One or two textured things that move over a textured ground, (49, 96, 96, 3) uint8."""
    rng = np.random.default_rng([seed, 4])
    yy, xx = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [np.sin(2 * np.pi * (a * xx + b * yy) + c) for a, b, c in rng.uniform(1, 5, (3, 3))]
    ground = rng.uniform(80, 150, 3) + rng.uniform(15, 35) * np.stack(waves, -1)
    frames = np.repeat(ground[None], LENGTH, 0)
    for _ in range(int(rng.integers(1, 3))):
        _add_thing(frames, rng)
    return np.clip(frames + rng.normal(0, 1.5, frames.shape), 0, 255).astype(np.uint8)


def _add_thing(frames: np.ndarray, rng: np.random.Generator) -> None:
    """A disc, square or blob of random patches that drifts, sways or falls."""
    side = int(rng.integers(24, 40))
    cells = int(rng.integers(4, 10))
    texture = rng.uniform(0, 255, (cells, cells, 3)).repeat(10, 0).repeat(10, 1)[:side, :side]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    lobes = 1 - rng.uniform(0, 0.3) * (1 + np.cos(rng.integers(2, 6) * angle)) / 2
    mask = [radius < side / 2, np.ones((side, side), bool), radius < side / 2 * lobes][rng.integers(3)]
    free = SIZE - side
    t = np.arange(LENGTH) / FPS
    start, speed = rng.uniform(0.2, 0.8, 2) * free, rng.uniform(-12, 12, 2)
    sway, rate = rng.uniform(0, 8, 2), rng.uniform(0.3, 0.8, 2)
    path = start + speed * t[:, None] + sway * np.sin(2 * np.pi * rate * t[:, None])
    if rng.random() < 0.3:  # falls, from near the top
        path[:, 0] = rng.uniform(0, 0.1) * free + rng.uniform(15, 25) * t**2
    for frame, (top, left) in zip(frames, np.clip(path, 0, free).round().astype(int), strict=True):
        frame[top : top + side, left : left + side][mask] = texture[: mask.shape[0], : mask.shape[1]][mask]


def stock(folder: Path, part: str, count: int) -> Path:
    """``count`` drawn clips as video files."""
    for seed in range(SEEDS[part], SEEDS[part] + count):
        path = folder / f"{part}-{seed}.mp4"
        if not path.exists():
            write_video(path, draw_clip(seed), FPS)
    return folder


def call(*command: object) -> float:
    """Runs a command; its seconds of processor time, which a busy machine does not change much."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    start = used()
    print("+", *command, flush=True)
    subprocess.run([*map(str, command)], check=True, cwd=ROOT)
    return used() - start


def corrupted(clips: Path, folder: Path, per_video: int, seed: int, kinds: Sequence[str]) -> Path:
    """The clips with anomalies and their normal twins; the annotation file."""
    chosen = ("--kinds", *kinds) if kinds else ()
    cac_align = Path(sys.executable).with_name("cac-align")
    call(cac_align, "data", "corrupt", clips, "--output", folder, "--per-video", per_video, "--seed", seed, *chosen)
    return folder / "annotations.jsonl"


def train_size(annotations: Path) -> str:
    """How many videos of which status."""
    statuses = [r.truth.status for r in read_annotations(annotations)]
    return f"on {statuses.count('abnormal')} abnormal and {statuses.count('normal')} normal videos"


def by_kind(annotations: Path, rows: Path) -> dict[str, tuple[int, int]]:
    """Kind of corruption ("normal" for none) -> right verdicts and videos."""
    kinds = {r.truth.video_id: str(r.extra["operator"]) for r in read_annotations(annotations)}
    found: dict[str, tuple[int, int]] = {}
    for line in rows.read_text(encoding="utf-8").splitlines()[1:]:  # the first says what was judged, and how
        row = json.loads(line)
        kind = kinds[row["video"]]
        right = row["status"] == ("normal" if kind == "normal" else "abnormal")
        n_right, n = found.get(kind, (0, 0))
        found[kind] = n_right + right, n + 1
    return found


def table(found: dict[str, tuple[int, int]]) -> list[str]:
    """Markdown rows: recall over all kinds, specificity, recall of each kind, with 95 % Wilson intervals."""
    abnormal = [v for k, v in found.items() if k != "normal"]
    total = sum(a for a, _ in abnormal), sum(b for _, b in abnormal)
    lines = ["| | right | share |", "|---|---|---|"]
    named = [("recall", total), ("specificity", found.get("normal", (0, 0)))]
    for name, (right, count) in [*named, *((f"recall of {k}", v) for k, v in sorted(found.items()) if k != "normal")]:
        interval = wilson(right, max(1, count))
        lines.append(
            f"| {name} | {right} of {count} | {right / max(1, count):.2f} [{interval.low:.2f}, {interval.high:.2f}] |"
        )
    return lines


def main() -> None:
    """Parses the command line and runs the whole way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/cac-mini", help="judge to begin with")
    parser.add_argument("--part", choices=("dev", "test"), default="dev", help="held-out clips to measure on")
    parser.add_argument("--footage", type=Path, help="own clips to train on (default: ten drawn ones)")
    parser.add_argument("--held-out", type=Path, help="own clips to measure on (default: fifteen drawn ones)")
    parser.add_argument("--per-video", type=int, default=12, help="pairs of each training clip")
    parser.add_argument("--kinds", nargs="*", default=(), help="kinds of corruption (default: all)")
    parser.add_argument("--steps", type=int, help="steps of stage 2 (default: those of mini_own.yaml)")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("outputs/own_footage"), help="clips, data and checkpoints"
    )
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    args = parser.parse_args()
    work = args.work_dir
    clips = args.footage or stock(work / "clips", "train", 10)
    others = args.held_out or stock(work / f"clips-{args.part}", args.part, 15)
    train = corrupted(clips, work / "data", args.per_video, 0, args.kinds)
    held_out = corrupted(others, work / f"data-{args.part}", 4, 1, args.kinds)
    steps = ("--max_steps", args.steps) if args.steps else ()
    config = "recipes/configs/stage2/mini_own.yaml"
    options = ("--config", config, "--data", train, "--model_name_or_path", args.model, "--output_dir", work / "stage2")
    seconds, kept = call(sys.executable, "recipes/stage2_sft.py", *options, *steps), work / "training_seconds.txt"
    # A stage that is done already is only exported again: the longest run is the training.
    seconds = max(seconds, float(kept.read_text()) if kept.exists() else 0.0)
    write_text(kept, f"{seconds:.0f}\n")
    lines = [f"Trained for {seconds / 60:.0f} minutes of processor time, {train_size(train)}.", ""]
    for name, judge in (("before", args.model), ("after", work / "stage2")):
        folder = work / f"evaluation-{args.part}-{name}"
        call(
            sys.executable,
            "recipes/evaluate_reward.py",
            "--models",
            f"{name}={judge}",
            "--bench",
            held_out,
            "--output",
            folder,
        )
        (rows,) = folder.glob("rows/*/*.jsonl")
        lines += [f"{name.capitalize()} training:", "", *table(by_kind(held_out, rows)), ""]
    text = "\n".join(lines)
    print(text)
    if args.output:
        command = " ".join(["python", "benchmarks/own_footage.py", *sys.argv[1:]])
        write_text(
            args.output, f"# Own footage: the short way, on clips that training never saw\n\n    {command}\n\n{text}"
        )


if __name__ == "__main__":
    main()
