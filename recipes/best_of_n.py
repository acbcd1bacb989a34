"""From a prompt to a chosen video with its evidence, on the two embedded mini models. CPU is enough.

    python recipes/best_of_n.py
    python recipes/best_of_n.py --prompt "a blue square circles on a black background" --n 8 --output outputs/square

The minis were trained from scratch on a procedural world of moving shapes: they show how everything works, not how good
a full-size judge is. For real videos use ``cac-align best-of-n --pipe Wan-AI/Wan2.1-T2V-1.3B-Diffusers --model ...``.
A stopped run continues in its output folder.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def main() -> int:
    """Draws, judges, chooses, and prints where the page is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="a yellow triangle moves right on a brown background")
    parser.add_argument("--n", type=int, default=5, help="candidates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps")
    parser.add_argument("--batch-size", type=int, default=1, help="candidates per pipeline call")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"))
    args = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    started = time.perf_counter()
    print("Loading the mini generator and the mini judge (demo-scale: trained on moving shapes only) ...", flush=True)
    from diffusers import WanPipeline
    from diffusers.utils.logging import disable_progress_bar

    from cac_align import CaCReward, best_of_n
    from cac_align.run_folder import ResumeError

    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    disable_progress_bar()
    pipe = WanPipeline.from_pretrained(ASSETS / "wan-mini")
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(ASSETS / "cac-mini", all_readouts=True)
    loaded = time.perf_counter()
    try:
        out = best_of_n(
            pipe,
            args.prompt,
            reward=reward,
            n=args.n,
            seed=args.seed,
            batch_size=args.batch_size,
            output_dir=args.output,
            height=32,
            width=32,
            num_frames=81,
            num_inference_steps=args.steps,
            guidance_scale=3.0,
        )
    except ResumeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    done = time.perf_counter()

    print(f'\n"{out.prompt}", best of {len(out.scores)}:\n{out}')
    print(f"\n{done - loaded:.1f} s to draw, judge and write ({loaded - started:.1f} s to load before that)")
    print(f"Open {args.output / 'report.html'} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
