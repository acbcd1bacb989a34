"""Faults that repair takes away, and those it makes, on the mini generator and by a rule that knows no judge.

    python benchmarks/repair.py --output outputs/repair --table benchmarks/results/repair.md

One candidate is drawn for each of 40 prompts and three seeds. Where the judge objects to it, it is repaired, and,
against that, one more candidate is drawn with as many forward passes; either is taken where the judge prefers it. The
rule (:mod:`reward_model.world.tracking`) says what became of the faults. A stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from previews import PER_STEP, SIZE, world_prompts

from cac_align.rewards.base import order
from cac_align.selection.repair import MARGIN, MARGIN_S
from reward_model.files import write_text
from reward_model.shipped import located
from reward_model.statistics.intervals import wilson


@dataclass(frozen=True)
class Tried:
    """A candidate that the judge objected to.

    Attributes:
        fault: whether the rule finds a fault in it.
        repaired: whether it does in what the repair left, and ``accepted`` whether that is the repaired video.
        redrawn: whether it does in the better, by the judge, of the candidate and one drawn more; ``taken`` whether
            that is the new one.
        drawn_again: share of the latent cells that were drawn again.
        kept_change, vae_error: in levels of 255, of the kept pixels.
        reason: why the repair was not accepted.
    """

    fault: bool
    repaired: bool
    accepted: bool
    redrawn: bool
    taken: bool
    drawn_again: float
    kept_change: float
    vae_error: float
    reason: str


def summary(tried: Sequence[Tried], drawn: int, strength: float) -> list[str]:
    """Lines of the table for one strength."""
    faulty, sound = [t for t in tried if t.fault], [t for t in tried if not t.fault]

    def share(hits: Sequence[bool]) -> str:
        if not hits:
            return "-"
        low, high = wilson(sum(hits), len(hits))
        return f"{sum(hits)} of {len(hits)}, {sum(hits) / len(hits):.2f} [{low:.2f}, {high:.2f}]"

    rows = [
        ("objected to by the judge", f"{len(tried)} of {drawn}", ""),
        ("of those with a fault by the rule", share([t.fault for t in tried]), ""),
        ("accepted, or taken", share([t.accepted for t in tried]), share([t.taken for t in tried])),
        ("faults gone", share([not t.repaired for t in faulty]), share([not t.redrawn for t in faulty])),
        ("made worse", share([t.repaired for t in sound]), share([t.redrawn for t in sound])),
    ]
    lines = [f"| strength {strength:g} | repair | one more candidate |", "|---|---|---|"]
    lines += [f"| {name} | {one} | {other} |" for name, one, other in rows]
    change, error, cells = (
        np.mean([getattr(t, name) for t in tried]) if tried else float("nan")
        for name in ("kept_change", "vae_error", "drawn_again")
    )
    refused = {word: sum(word in t.reason for t in tried) for word in ("does not rise", "kept part", "judged")}
    told = ", ".join(f"{word}: {count}" for word, count in refused.items() if count) or "none"
    return [
        *lines,
        "",
        f"Kept pixels moved by {change:.2f} levels of 255 by the repair, {error:.2f} by the VAE alone; {cells:.2f} of "
        f"the cells drawn again. Not accepted: {told}.",
        "",
    ]


def run(args: argparse.Namespace, strength: float) -> tuple[list[Tried], int]:
    """Every candidate that was tried at a strength, and how many were drawn."""
    from cac_align import CaCReward, best_of_n, repair
    from cac_align.pipelines import open_pipeline
    from cac_align.selection.repair import repair_cells
    from reward_model.world.tracking import find_faults

    warnings.filterwarnings("ignore", message=".*demo-scale")
    pipe = open_pipeline(located(args.pipe))
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(located(args.model))
    spent = int(args.steps * strength)
    options = {"reward": reward, "progress_bar": False, **SIZE}
    tried, drawn = [], 0
    for prompt in world_prompts(args.prompts):
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            place = args.output / f"{prompt.replace(' ', '-')}-{seed}"
            file = place / f"strength-{strength:g}-margin-{args.margin_s:g}s-{args.margin:g}.json"
            drawn += 1
            if not file.is_file():
                first = best_of_n(pipe, prompt, n=1, seed=seed, num_inference_steps=args.steps, **options)
                video, verdict, row = first.candidates[0], first.verdicts[0], None
                if (
                    verdict is not None
                    and verdict.status == "abnormal"
                    and _names_something(pipe, verdict, repair_cells)
                ):
                    again = {"num_inference_steps": args.steps, "guidance_scale": SIZE["guidance_scale"]}
                    outcome = repair(
                        pipe, video, verdict, prompt=prompt, reward=reward, seed=seed, strength=strength,
                        margin_s=args.margin_s, margin=args.margin, score=first.scores[0], **again,
                    )  # fmt: skip
                    more = best_of_n(
                        pipe, prompt, n=1, seed=seed + 1000, num_inference_steps=spent, **options,
                    )  # fmt: skip
                    other = more.verdicts[0]
                    said = [True, other is not None and other.status == "abnormal"]
                    taken = order([first.scores[0], more.scores[0]], said)[0] == 1
                    row = Tried(
                        fault=bool(find_faults(video)),
                        repaired=bool(find_faults(outcome.frames)),
                        accepted=outcome.accepted,
                        redrawn=bool(find_faults(more.candidates[0] if taken else video)),
                        taken=taken,
                        drawn_again=float(outcome.cells.mean()),
                        kept_change=outcome.kept_change,
                        vae_error=outcome.vae_error,
                        reason=outcome.reason,
                    )
                write_text(file, json.dumps(None if row is None else asdict(row)))
            row = json.loads(file.read_text())
            tried += [] if row is None else [Tried(**row)]
            print(f"strength {strength:g}: {drawn} of {args.prompts * args.seeds}, {len(tried)} tried", flush=True)
    return tried, drawn


def _names_something(pipe, verdict, cells_of) -> bool:  # type: ignore[no-untyped-def]
    try:
        cells_of(pipe, verdict, (SIZE["num_frames"], SIZE["height"], SIZE["width"], 3))
    except ValueError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", default="assets/wan-mini")
    parser.add_argument("--model", default="assets/cac-mini")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a video")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.6, 0.8, 1.0])
    parser.add_argument(
        "--margin-s", type=float, default=MARGIN_S, help="seconds around the window (default: %(default)s)"
    )
    parser.add_argument("--margin", type=float, default=MARGIN, help="share of the picture around the boxes")
    parser.add_argument(
        "--first-seed", type=int, default=0, help="of the candidates; others than 0 to 2 to choose with"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/repair"), help="folder; a run resumes there")
    parser.add_argument("--table", type=Path, default=None)
    args = parser.parse_args()
    lines = [
        f"Mini generator, {args.steps} steps with guidance, {args.prompts} prompts, {args.seeds} seeds, judged by "
        f"{Path(args.model).name}; a repair and one more candidate take {PER_STEP} forwards a step, as many steps. "
        f"Drawn again: what the judge names, {args.margin_s:g} s before and after it and {args.margin:g} of the "
        "picture's sides around it.",
        "",
    ]
    for strength in args.strengths:
        lines += summary(*run(args, strength), strength)
    text = "\n".join(lines)
    print("\n" + text)
    if args.table:
        write_text(args.table, text)


if __name__ == "__main__":
    main()
