"""Faults against forwards: best-of-n by previews and in full, on the mini generator and by a rule that knows no judge.

    python benchmarks/previews.py --output outputs/previews --table benchmarks/results/previews.md

Every prompt's candidates are drawn with each number of denoising steps from the same seeds, judged, and looked at by
the rule (:mod:`reward_model.world.tracking`). From those rows every choice can be played: n candidates, previews of so
many steps, so many of them kept and drawn in full. A choice's fault is the rule's verdict on the video it ends with;
intervals are of a bootstrap over the prompts and seeds (Wilson's where no choice or every one has a fault). A stopped
run continues.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from cac_align.rewards.base import order
from reward_model.files import write_text
from reward_model.shipped import located
from reward_model.statistics.intervals import bootstrap, wilson

#: First seed of the scenes whose prompts are drawn; no bench and no training uses them.
FIRST_SEED = 920_000
SIZE = {"height": 32, "width": 32, "num_frames": 81, "guidance_scale": 3.0}
#: Forwards of a step: one with the prompt and one without.
PER_STEP = 2


class Seen(NamedTuple):
    """A candidate drawn with some steps: its score, whether the judge objects, whether the rule finds a fault."""

    score: float | None
    abnormal: bool | None
    fault: bool


#: Of one prompt and seed: by number of steps, its candidates in their order.
Group = Mapping[int, Sequence[Seen]]


def played(group: Group, picked: Sequence[int], *, full: int, preview: int | None, keep: int) -> bool:
    """Whether the choice among some candidates ends with a fault.

    Args:
        picked: numbers of the candidates.
        full, preview: denoising steps of a video and of a preview; None: all candidates are drawn in full.
        keep: candidates that previews let through.
    """
    if preview is not None:
        seen = [group[preview][k] for k in picked]
        ranked = order([s.score for s in seen], [s.abnormal for s in seen])
        picked = sorted(picked[place] for place in ranked[:keep])
    finals = [group[full][k] for k in picked]
    return finals[order([s.score for s in finals], [s.abnormal for s in finals])[0]].fault


def fault_rates(groups: Sequence[Group], n: int, *, full: int, preview: int | None, keep: int) -> np.ndarray:
    """Share of faults of each group, (G,): the mean over the windows of ``n`` neighbouring candidates."""
    rates = []
    for group in groups:
        count = len(group[full])
        windows = [sorted((start + k) % count for k in range(n)) for start in range(count if n < count else 1)]
        rates.append(np.mean([played(group, w, full=full, preview=preview, keep=keep) for w in windows]))
    return np.array(rates)


def forwards(n: int, *, full: int, preview: int | None, keep: int) -> int:
    """Forward passes of the transformer for one choice.

    >>> forwards(8, full=20, preview=5, keep=2), forwards(4, full=20, preview=None, keep=1)
    (160, 160)
    """
    return PER_STEP * (n * full if preview is None else n * preview + keep * full)


def table(
    groups: Sequence[Group], numbers: Sequence[int], steps: Sequence[int], full: int, keeps: Sequence[int]
) -> str:
    """Markdown rows, the cheapest first, of all choices; those are marked that no cheaper one beats."""
    choices = [(n, None, n) for n in numbers]
    choices += [(n, p, k) for n in numbers for p in steps for k in keeps if k < n]
    rows = []
    for n, preview, keep in choices:
        rates = fault_rates(groups, n, full=full, preview=preview, keep=keep)
        if rates.mean() in (0, 1):  # a bootstrap of equal values knows no doubt
            low, high = wilson(int(rates.sum()), len(rates))
        else:
            low, high = bootstrap(lambda picked, rates=rates: float(rates[picked].mean()), len(rates))
        rows.append(
            (forwards(n, full=full, preview=preview, keep=keep), float(rates.mean()), low, high, n, preview, keep)
        )
    rows.sort(key=lambda row: (row[0], row[1]))
    lines = ["| forwards | faults by the rule | n | preview steps | keep | none cheaper is as good |", "|" + "---|" * 6]
    best = float("inf")
    for cost, rate, low, high, n, preview, keep in rows:
        mark, best = ("yes" if rate < best else ""), min(best, rate)
        shown = "in full" if preview is None else str(preview)
        lines.append(
            f"| {cost} | {rate:.3f} [{low:.3f}, {high:.3f}] | {n} | {shown} | {keep if preview else n} | {mark} |"
        )
    return "\n".join(lines) + "\n"


def agreement(groups: Sequence[Group], steps: Sequence[int], full: int) -> str:
    """How previews predict the full videos: agreement of the judge's verdicts, and rank correlation within groups."""
    from scipy.stats import spearmanr

    lines = [
        "| preview steps | same verdict as in full | Spearman of the scores | faults by the rule |",
        "|" + "---|" * 4,
    ]
    for count in [*steps, full]:
        pairs = [(a, b) for g in groups for a, b in zip(g[count], g[full], strict=True)]
        same = np.mean([a.abnormal == b.abnormal for a, b in pairs])
        ranks = [spearmanr([s.score for s in g[count]], [s.score for s in g[full]]).statistic for g in groups]
        fault = np.mean([a.fault for a, _ in pairs])
        lines.append(f"| {count} | {same:.3f} | {np.nanmean(ranks):.3f} | {fault:.3f} |")
    return "\n".join(lines) + "\n"


def world_prompts(count: int) -> list[str]:
    """Prompts of the mini generator's world, all different."""
    from reward_model.world import make_scene

    found: dict[str, None] = {}
    seed = FIRST_SEED
    while len(found) < count:
        found[make_scene(seed, setting="single").prompt] = None
        seed += 1
    return list(found)


def draw(args: argparse.Namespace) -> list[Group]:
    """Every group, from its file or drawn and judged now."""
    from cac_align import CaCReward, best_of_n
    from cac_align.pipelines import open_pipeline
    from reward_model.world.tracking import find_faults

    warnings.filterwarnings("ignore", message=".*demo-scale")
    pipe = open_pipeline(located(args.pipe))
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(located(args.model))
    groups: list[Group] = []
    for prompt in world_prompts(args.prompts):
        for seed in range(args.seeds):
            group = {}
            for steps in [*args.preview_steps, args.full]:
                place = args.output / f"{prompt.replace(' ', '-')}-{seed}" / f"steps-{steps:02d}"
                rows = place / "rows.json"
                if not rows.is_file():
                    options = {
                        "n": args.n[-1],
                        "seed": seed,
                        "batch_size": args.batch_size,
                        "num_inference_steps": steps,
                    }
                    out = best_of_n(pipe, prompt, reward=reward, progress_bar=False, **options, **SIZE)
                    seen = [
                        (score, None if v is None else v.status == "abnormal", bool(find_faults(video)))
                        for score, v, video in zip(out.scores, out.verdicts, out.candidates, strict=True)
                    ]
                    write_text(rows, json.dumps(seen))
                group[steps] = [Seen(*row) for row in json.loads(rows.read_text())]
            groups.append(group)
            print(f"{len(groups)} of {args.prompts * args.seeds} groups", flush=True)
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", default="assets/wan-mini")
    parser.add_argument("--model", default="assets/cac-mini")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2, help="groups of each prompt")
    parser.add_argument("--n", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8], help="numbers of candidates")
    parser.add_argument("--preview-steps", type=int, nargs="+", default=[2, 4, 6, 8, 10])
    parser.add_argument("--keep", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--full", type=int, default=20, help="denoising steps of a full video")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("outputs/previews"), help="folder; a run resumes there")
    parser.add_argument("--table", type=Path, default=None)
    args = parser.parse_args()
    args.n = sorted(args.n)
    groups = draw(args)
    text = (
        f"Mini generator, {args.full} steps with guidance, {len(groups)} groups of {args.n[-1]} candidates "
        f"({args.prompts} prompts, {args.seeds} seeds), judged by {Path(args.model).name}.\n\n"
        f"{agreement(groups, args.preview_steps, args.full)}\n"
        f"{table(groups, args.n, args.preview_steps, args.full, args.keep)}"
    )
    print("\n" + text)
    if args.table:
        write_text(args.table, text)


if __name__ == "__main__":
    main()
