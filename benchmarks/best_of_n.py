"""Does choosing by the judge lower the rate of anomalies, says a rule that is not the judge?

    python benchmarks/best_of_n.py --prompts 40 --n 5 --seeds 0 1 2 --output outputs/benchmarks/best_of_n

Draws n candidates for each prompt and seed with the mini generator, lets the mini judge choose with every readout, and
counts faults with :func:`reward_model.world.tracking.find_faults`, which follows the drawn object and knows neither
judge nor prompt. The chosen candidate is compared with the first (what a user gets without choosing) and with the
average one (the same without the luck of the draw), pairwise, with bootstrap intervals over prompts. A stopped run
continues.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from cac_align import BestOfNOutput, CaCReward, best_of_n
from cac_align.pipelines import open_pipeline
from reward_model.chunks import lowest_value
from reward_model.config import READOUTS
from reward_model.evaluation import auroc, bootstrap
from reward_model.files import write_text
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
        prompts[make_scene(seed, setting="single").prompt] = None
        seed += 1
    return list(prompts)


def readout_value(verdict: Verdict, readout: str) -> float:
    """The verdict's reward under another readout than the one it was drawn with."""
    value = lowest_value(verdict.turns, readout)
    assert value is not None, "the judge ran with all_readouts=True"
    return value


def compare(faulty: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Rates over P prompts drawn with S seeds, and paired differences with intervals over prompts.

    Args:
        faulty: (P, S, n) bool. values: (P, S, n) rewards. chosen: (P, S) index of the chosen candidate.
    """
    first, average = faulty[..., 0], faulty.mean(axis=-1)
    picked = np.take_along_axis(faulty, chosen[..., None], axis=-1)[..., 0]
    mended, spoilt = int((first & ~picked).sum()), int((~first & picked).sum())
    return {
        "first": first.mean(),
        "average_candidate": average.mean(),
        "chosen": picked.mean(),
        "chosen_minus_first": _with_interval((picked.astype(float) - first).mean(axis=1)),
        "chosen_minus_average": _with_interval((picked - average).mean(axis=1)),
        "mended": mended,
        "spoilt": spoilt,
        "mcnemar_p": stats.binomtest(mended, mended + spoilt).pvalue if mended + spoilt else 1.0,
        "auroc_against_rule": auroc(values.ravel(), ~faulty.ravel()) if 0 < faulty.mean() < 1 else float("nan"),
        "std_within_group": float(values.std(axis=-1).mean()),
    }


def _with_interval(differences: np.ndarray) -> list[float]:
    """Mean of (P,) differences and both ends of its 95 % interval, prompts drawn with replacement."""
    low, high = bootstrap(lambda k: differences[k].mean(), len(differences), num_resamples=10_000)
    return [differences.mean(), low, high]


def draw_and_judge(args: argparse.Namespace, prompts: list[str]) -> list[list[BestOfNOutput]]:
    """All groups, by prompt and seed."""
    pipe = open_pipeline(args.pipe)
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(args.model, all_readouts=True)
    by_seed = [
        best_of_n(
            pipe,
            prompts,
            reward=reward,
            n=args.n,
            seed=seed,
            batch_size=args.batch_size,
            output_dir=args.output / f"seed-{seed}",
            height=32,
            width=32,
            num_frames=81,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            max_sequence_length=64,
        )
        for seed in args.seeds
    ]
    return [list(group) for group in zip(*by_seed, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", default="assets/wan-mini")
    parser.add_argument("--model", default="assets/cac-mini")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="groups drawn per prompt")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/best_of_n"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if args.threads:
        torch.set_num_threads(args.threads)

    prompts = distinct_prompts(args.prompts)
    groups = draw_and_judge(args, prompts)
    faults = [[[find_faults(c) for c in out.candidates] for out in row] for row in groups]
    record: dict[str, Any] = {"args": {k: str(v) for k, v in vars(args).items()}, "rules": {}}
    values = {
        r: np.array([[[readout_value(v, r) for v in out.verdicts] for out in row] for row in groups]) for r in READOUTS
    }
    for rule, counted in RULES.items():
        faulty = np.array([[[bool(counted & set(f)) for f in group] for group in row] for row in faults])
        record["rules"][rule] = {
            "no_clean_candidate": faulty.all(axis=-1).mean(),
            "readouts": {r: compare(faulty, v, v.argmax(axis=-1)) for r, v in values.items()},
        }
    record["faults"] = [{"prompt": p, "by_seed": row} for p, row in zip(prompts, faults, strict=True)]
    write_text(args.output / "anomaly_rate.json", json.dumps(record, indent=2, default=float) + "\n")

    print(f"{len(prompts)} prompts x {len(args.seeds)} seeds x {args.n} candidates")
    for rule, found in record["rules"].items():
        print(f"{rule}; {found['no_clean_candidate']:.3f} of the groups have no clean candidate")
        for readout, row in found["readouts"].items():
            shown = "{:+.3f} [{:+.3f}, {:+.3f}]".format
            print(f"  {readout:9} first {row['first']:.3f}, average {row['average_candidate']:.3f}", end=", ")
            print(f"chosen {row['chosen']:.3f}; against first {shown(*row['chosen_minus_first'])}", end=", ")
            print(f"against average {shown(*row['chosen_minus_average'])}, McNemar p={row['mcnemar_p']:.3f}", end=", ")
            print(f"AUROC against the rule {row['auroc_against_rule']:.3f}")


if __name__ == "__main__":
    main()
