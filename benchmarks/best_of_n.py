"""Does choosing by the judge lower the rate of anomalies, says a rule that is not the judge?

    python benchmarks/best_of_n.py --prompts 40 --n 5 --output outputs/benchmarks/best_of_n

Draws n candidates for each prompt with the mini generator, lets the mini judge choose with every readout, and counts
faults with :func:`reward_model.world.tracking.find_faults`, which follows the drawn object and knows neither judge nor
prompt. Chosen is compared with the first candidate (what a user gets without choosing) pairwise over prompts: bootstrap
interval of the difference and exact McNemar test. A stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from scipy import stats

from cac_align import CaCReward, best_of_n
from reward_model.evaluation import auroc
from reward_model.readout import READOUTS, reward_value
from reward_model.schema import Verdict
from reward_model.world import make_scene
from reward_model.world.tracking import find_faults

#: What counts as a fault: all the rule knows, or the kinds the mini judge was trained to see.
RULES = {
    "any fault": {"missing", "vanishes", "grows", "deforms", "splits", "jumps"},
    "a fault of a kind the judge knows": {"vanishes", "deforms", "splits"},
}


def distinct_prompts(count: int, seed: int = 800_000) -> list[str]:
    """The first ``count`` different prompts of the world from that seed on."""
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        prompts[make_scene(seed).prompt] = None
        seed += 1
    return list(prompts)


def readout_value(verdict: Verdict, readout: str) -> float:
    """The verdict's reward under another readout than the one it was drawn with."""
    final = verdict.turns[-1]
    score = final.score if readout == "paper" else final.direct_score
    assert score is not None, "the judge ran with all_readouts=True"
    return reward_value(score, readout)


def compare(faulty: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Rates over P prompts and their paired difference.

    Args:
        faulty: (P, n) bool. values: (P, n) rewards. chosen: (P,) index of the chosen candidate.
    """
    first, picked = faulty[:, 0], faulty[np.arange(len(faulty)), chosen]
    difference = picked.astype(float) - first
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=10_000, method="percentile", rng=0
    ).confidence_interval
    better, worse = int((first & ~picked).sum()), int((~first & picked).sum())
    return {
        "first": first.mean(),
        "chosen": picked.mean(),
        "difference": difference.mean(),
        "difference_95": [interval.low, interval.high],
        "prompts_mended": better,
        "prompts_spoilt": worse,
        "mcnemar_p": stats.binomtest(better, better + worse).pvalue if better + worse else 1.0,
        "auroc_against_rule": auroc(values.ravel(), ~faulty.ravel()) if 0 < faulty.mean() < 1 else float("nan"),
        "std_within_prompts": float(values.std(axis=1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", default="assets/wan-mini")
    parser.add_argument("--model", default="assets/cac-mini")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/best_of_n"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if args.threads:
        torch.set_num_threads(args.threads)

    pipe = WanPipeline.from_pretrained(args.pipe)
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(args.model, all_readouts=True)
    prompts = distinct_prompts(args.prompts)
    outputs = best_of_n(
        pipe,
        prompts,
        reward=reward,
        n=args.n,
        seed=args.seed,
        batch_size=args.batch_size,
        output_dir=args.output,
        height=32,
        width=32,
        num_frames=81,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
    )
    faults = [[find_faults(c) for c in out.candidates] for out in outputs]
    record: dict[str, Any] = {"args": {k: str(v) for k, v in vars(args).items()}, "rules": {}}
    values = {r: np.array([[readout_value(v, r) for v in out.verdicts] for out in outputs]) for r in READOUTS}
    for rule, counted in RULES.items():
        faulty = np.array([[bool(counted & set(f)) for f in row] for row in faults])
        record["rules"][rule] = {
            "any_candidate": faulty.mean(),
            "no_clean_candidate": faulty.all(axis=1).mean(),
            "readouts": {r: compare(faulty, v, v.argmax(axis=1)) for r, v in values.items()},
        }
    record["faults"] = [{"prompt": p, "candidates": row} for p, row in zip(prompts, faults, strict=True)]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "anomaly_rate.json").write_text(json.dumps(record, indent=2, default=float) + "\n")

    print(f"{len(prompts)} prompts x {args.n} candidates")
    for rule, found in record["rules"].items():
        print(f"{rule}: {found['any_candidate']:.3f} of all candidates", end=", ")
        print(f"{found['no_clean_candidate']:.3f} of the prompts have no clean one")
        for readout, row in found["readouts"].items():
            low, high = row["difference_95"]
            print(
                f"  {readout:9} first {row['first']:.3f} -> chosen {row['chosen']:.3f}: {row['difference']:+.3f}",
                end=" ",
            )
            print(f"[{low:+.3f}, {high:+.3f}], McNemar p={row['mcnemar_p']:.4f}", end=", ")
            print(f"AUROC against the rule {row['auroc_against_rule']:.3f}")


if __name__ == "__main__":
    main()
