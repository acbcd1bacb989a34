"""From a prompt to a chosen video with its evidence, on the two embedded mini models. CPU is enough.

    python recipes/best_of_n.py
    python recipes/best_of_n.py --prompt "a blue square circles on a black background" --n 8 --output outputs/square
    cac-align run best-of-n                                  # the same from an installed package

The minis were trained from scratch on a procedural world of moving shapes: they show how everything works, not how good
a full-size judge is. For real videos use ``cac-align best-of-n --pipe Wan-AI/Wan2.1-T2V-1.3B-Diffusers --model ...``.
A stopped run continues in its output folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

from reward_model.files import check_output_folder
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import quiet_bars, run_program

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROMPT = "a yellow triangle moves right on a brown background"
DEMO = Path("outputs/demo")


def main(arguments: list[str] | None = None) -> int:
    """Draws, judges, chooses, and prints where the page is."""
    args = parser().parse_args(arguments)
    output = args.output or folder_of(args.prompt)
    for name, low in (("n", 1), ("seed", 0), ("steps", 1), ("batch_size", 1)):
        if getattr(args, name) < low:
            raise ValueError(f"{name}={getattr(args, name)} must be at least {low}")
    check_output_folder(output)

    started = time.perf_counter()
    print("Loading the mini generator and the mini judge (demo-scale: trained on moving shapes only) ...", flush=True)
    from cac_align import CaCReward, best_of_n
    from cac_align.pipelines import open_pipeline

    quiet_bars("transformers", "diffusers")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    pipe = open_pipeline(located("assets/wan-mini"))
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(located("assets/cac-mini"), all_readouts=True)
    loaded = time.perf_counter()
    out = best_of_n(
        pipe,
        args.prompt,
        reward=reward,
        n=args.n,
        seed=args.seed,
        batch_size=args.batch_size,
        output_dir=output,
        height=32,
        width=32,
        num_frames=81,
        num_inference_steps=args.steps,
        guidance_scale=3.0,
    )
    done = time.perf_counter()

    print(f'\n"{out.prompt}", best of {len(out.scores)}:\n{out}')
    print(f"\n{done - loaded:.1f} s to draw, judge and write ({loaded - started:.1f} s to load before that)")
    print(f"Open {output / 'report.html'} in a browser.")
    return 0


def folder_of(prompt: str) -> Path:
    """A folder for each prompt, so that a second one does not meet the candidates of the first."""
    if prompt == PROMPT:
        return DEMO
    from cac_align.prompts import prompt_name

    return DEMO.with_name(f"{DEMO.name}-{prompt_name(prompt)}")


def parser() -> CommandParser:
    """The command line."""
    found = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--prompt", default=PROMPT, help="what the video shows")
    found.add_argument("--n", type=int, default=5, help="candidates (default: 5)")
    found.add_argument("--seed", type=int, default=0, help="default: 0")
    found.add_argument("--steps", type=int, default=20, help="denoising steps (default: 20)")
    found.add_argument("--batch-size", type=int, default=1, help="candidates per pipeline call (default: 1)")
    found.add_argument(
        "--output", type=Path, help="folder of the result (default: outputs/demo, for another prompt one beside it)"
    )
    return found


if __name__ == "__main__":
    names = {**names_as_typed(parser()), "output_dir": "--output", "num_inference_steps": "--steps"}
    sys.exit(run_program(main, "best_of_n", options=names, resumes=True))
