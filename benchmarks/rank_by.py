"""How often best-of-n's choice is truly normal, ranked by verdict and then score, and by score alone.

    python benchmarks/rank_by.py --videos 600 --output benchmarks/results/rank_by.md

World videos of known truth, half of them abnormal, of seeds that no training and no bench uses, are judged once with
all readouts. From the judgments, groups of n videos are drawn, each abnormal with a given probability; a group counts
if it holds both kinds. The intervals are of a bootstrap over the videos, not the groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cac_align import CaCReward
from cac_align.rewards.base import RANKINGS, order
from reward_model.chunks import lowest_value
from reward_model.config import READOUTS
from reward_model.files import write_text
from reward_model.world import make_video
from reward_model.world.kinds import KINDS

FIRST_SEED = 910_000


def judged(model: str | None, count: int, batch: int) -> list[tuple[bool, bool, dict[str, float]]]:
    """Of each video: whether it is abnormal in truth and by the verdict, and its score by every readout."""
    reward, found = CaCReward(model, all_readouts=True), []
    temperature = reward.judge_model.config.log_odds_temperature
    kinds = list(KINDS)
    for start in range(0, count, batch):
        wanted = [None if k % 2 else kinds[k // 2 % len(kinds)] for k in range(start, min(start + batch, count))]
        videos = [make_video(FIRST_SEED + start + k, kind)[0] for k, kind in enumerate(wanted)]
        for kind, verdict in zip(wanted, reward.judge_batch(videos, fps=16), strict=True):
            values = {r: lowest_value(verdict.turns, r, temperature) for r in READOUTS} if verdict.turns else {}
            if verdict.status is not None and all(v is not None for v in values.values()):
                found.append((kind is not None, verdict.status == "abnormal", values))
        print(f"{min(start + batch, count)} of {count} videos", end="\r", flush=True)
    return found  # type: ignore[return-value]


def share_normal(
    videos: Sequence[tuple[bool, bool, dict[str, float]]],
    readout: str,
    rank_by: str,
    *,
    n: int,
    abnormal: float,
    groups: int,
    seed: int,
) -> float:
    """Share of the groups of both kinds whose first is normal in truth."""
    random = np.random.default_rng(seed)
    by_truth = [[v for v in videos if v[0] is truth] for truth in (False, True)]
    right = total = 0
    while total < groups:
        truth = random.random(n) < abnormal
        if truth.all() or not truth.any():
            continue
        picked = [by_truth[int(t)][random.integers(len(by_truth[int(t)]))] for t in truth]
        best = order([p[2][readout] for p in picked], [p[1] for p in picked], rank_by)[0]
        right += not picked[best][0]
        total += 1
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--videos", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--groups", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=100, help="of the bootstrap")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()

    videos = judged(args.model, args.videos, args.batch_size)
    lines = [
        f"Best of {args.n}, {len(videos)} world videos judged by {Path(args.model or 'cac-mini').name}; share of "
        "choices that are truly normal, 95 % intervals.",
        "",
        "| share of abnormal videos | readout | verdict, then score | score alone | difference |",
        "|---|---|---|---|---|",
    ]
    random = np.random.default_rng(0)
    samples = [[videos[k] for k in random.integers(len(videos), size=len(videos))] for _ in range(args.rounds)]
    for abnormal in (0.3, 0.6, 0.9):
        for readout in READOUTS:
            setting = {"n": args.n, "abnormal": abnormal, "seed": 1}
            point = [share_normal(videos, readout, by, groups=args.groups, **setting) for by in RANKINGS]
            drawn = np.array(
                [[share_normal(s, readout, by, groups=args.groups // 4, **setting) for by in RANKINGS] for s in samples]
            )
            cells = [
                f"{value:.3f} [{np.quantile(column, 0.025):.3f}, {np.quantile(column, 0.975):.3f}]"
                for value, column in zip(
                    [*point, point[0] - point[1]], [*drawn.T, drawn[:, 0] - drawn[:, 1]], strict=True
                )
            ]
            lines.append(f"| {abnormal} | {readout} | {' | '.join(cells)} |")
    contradict = {r: np.mean([(v[2][r] > 0.5) == v[1] for v in videos]) for r in READOUTS}
    lines += [
        "",
        "Verdict and score lean to different sides: " + ", ".join(f"{r} {s:.3f}" for r, s in contradict.items()),
    ]
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    if args.output:
        write_text(args.output, text)


if __name__ == "__main__":
    main()
