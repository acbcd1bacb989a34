"""Can a reward be cheated? Static, blurred, stuttering, black and noise videos, and orders in prompt or picture, beside
the untouched videos.

    python recipes/reward_probes.py                                    # the mini judge, world videos: ten minutes
    python recipes/reward_probes.py --pipe assets/wan-mini --prompts recipes/configs/table2/mini_eval_prompts.txt
    python recipes/reward_probes.py --videos outputs/normal --rewards '[{reward: unified, options: {model: my/ur}}]'

Writes probes.md and probes.json to the output folder. Videos should be normal ones: those of the world are; those of a
pipeline are kept where the independent rule (reward_model.world.tracking) objects to nothing, which only makes sense
for one object on a plain ground; --keep-all keeps every one.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from reward_model.extras import need
from reward_model.files import check_output_folder
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import quiet_bars, run_program

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Gets videos, asks, writes the table."""
    args = parser().parse_args(arguments)
    check_output_folder(args.output)
    args.prompts = Path(located(args.prompts))
    yaml = need("yaml", "reading --rewards")
    quiet_bars("transformers", "diffusers")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    from cac_align.flow_grpo.judging.reward_specs import read_specs
    from cac_align.probes.probes import find_probes
    from cac_align.probes.table import ask_probes, probe_table
    from reward_model.files import write_json, write_text

    probes = find_probes(args.probes)
    specs = read_specs(yaml.safe_load(args.rewards))
    title, videos, fps = source(args)
    rewards = {spec.name: spec.build() for spec in specs}
    found = ask_probes(rewards, videos, probes, fps=fps, seed=args.seed, say=lambda text: print(text, flush=True))
    table = probe_table(found, probes, title=f"Probes, {title}")
    write_text(args.output / "probes.md", table.to_markdown())
    data = {"title": title, "table": table.to_dict(), "answers": [f.to_dict() for f in found]}
    write_json(args.output / "probes.json", data)
    print(table.to_text() + f"\nwritten: {args.output}/probes.md, .json")
    return 0


def source(args: argparse.Namespace) -> tuple[str, list[tuple[Any, str]], float]:
    """The videos to probe, each with its prompt, and their frames per second."""
    if args.videos is not None and args.pipe is not None:
        raise ValueError("--videos and --pipe exclude each other; give one")
    if args.num < 1:
        raise ValueError(f"--num {args.num} must be at least 1")
    from cac_align.probes import videos as made

    if args.videos is not None:
        return made.folder_videos(args.videos, args.num)
    if args.pipe is None:
        return made.world_videos(args.num, args.seed)
    return made.pipeline_videos(located(args.pipe), args.prompts, args.num, seed=args.seed, keep_all=args.keep_all)


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rewards", default="[cac]", metavar="YAML", help="as in settings of Flow-GRPO (default: the CaC judge)"
    )
    parser.add_argument("--videos", type=Path, default=None, metavar="DIR", help="a folder of normal videos")
    parser.add_argument(
        "--pipe", default=None, metavar="FOLDER", help="draw videos with a Wan pipeline of 32x32 pixels"
    )
    parser.add_argument(
        "--prompts", type=Path, default=Path("recipes/configs/table2/mini_eval_prompts.txt"), help="of --pipe: a file"
    )
    parser.add_argument("--keep-all", action="store_true", help="with --pipe: also videos the rule objects to")
    parser.add_argument("--probes", nargs="+", default=None, metavar="NAME", help="default: all")
    parser.add_argument("--num", type=int, default=20, help="number of videos (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of videos and orders (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("outputs/reward_probes"), help="folder for the table")
    return parser


if __name__ == "__main__":
    sys.exit(run_program(main, "reward_probes", options=names_as_typed(parser())))
