"""Trains the mini checkpoints of ``assets/``: the judge (cac-mini), a general reward beside it (unified-mini) and the
generator (wan-mini). CPU is enough.

    python recipes/build_minis.py --only judge --output assets --work-dir outputs/minis
    python recipes/build_minis.py --only clips                             # videos to keep a generator ordinary with
    python recipes/build_minis.py --scale 0.01 --output outputs/smoke      # the whole path in minutes, useless weights

The judge is the three stage recipes with their mini configurations: stages 1 and 2, both again for its boxes, two
rounds of stage 3, stage 2 once more for a second box, two further rounds of stage 3.
A stopped run continues where it was. Progress: the bar on the terminal, and ``tensorboard --logdir <work-dir>``.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path

from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import run_program

# One thread each: the models are so small that threads spend their time waiting for each other. Must be set before
# torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

RECIPES = Path(__file__).parent
#: The judge's rounds: folder, recipe, configuration. Each starts from the one before.
ROUNDS = (
    ("stage1", "stage1_warmup.py", "stage1/mini.yaml"),
    ("stage2", "stage2_sft.py", "stage2/mini.yaml"),
    ("stage1-boxes", "stage1_warmup.py", "stage1/mini_boxes.yaml"),
    ("stage2-again", "stage2_sft.py", "stage2/mini_again.yaml"),
    ("stage3", "stage3_grpo.py", "stage3/mini.yaml"),
    ("stage3-again", "stage3_grpo.py", "stage3/mini_again.yaml"),
    ("stage2-two-boxes", "stage2_sft.py", "stage2/mini_two_boxes.yaml"),
    ("stage3-two-boxes", "stage3_grpo.py", "stage3/mini_two_boxes.yaml"),
    ("stage3-kinds", "stage3_grpo.py", "stage3/mini_kinds.yaml"),
)
#: Settings that --scale multiplies.
STEPS = ("vision_warmup_steps", "reading_warmup_steps", "max_steps", "warmup_steps")


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        choices=("judge", "unified", "generator", "all", "clips"),
        default="all",
        help="checkpoint to train; clips: 64 videos for the data term of Flow-GRPO, to WORK_DIR/clips, in a minute",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("assets"), help="checkpoints go to OUTPUT/cac-mini and so on"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/minis"), help="logs and resumable state")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all step counts; 0.01 is a smoke test")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and weights (default: 0)")
    parser.add_argument(
        "--device", default=None, help="device of the generator: cpu or cuda (default: cuda if available)"
    )
    parser.add_argument("--restart", action="store_true", help="empty the work folder first")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and builds what it asks for."""
    args = parser().parse_args(arguments)
    if not args.scale > 0:
        raise ValueError(f"--scale must be above zero, got {args.scale}")
    if args.only == "clips":
        from cac_align.minis.world_videos import write_clips

        print("clips:", write_clips(args.work_dir / "clips", max(2, round(64 * args.scale))))
    if args.only in ("judge", "all"):
        print("judge:", build_judge(args))
    if args.only in ("unified", "all"):
        print("unified:", build_unified(args))
    if args.only in ("generator", "all"):
        from cac_align.minis.wan_mini import build_wan_mini

        options = {"seed": args.seed, "device": args.device, "scale": args.scale, "resume": not args.restart}
        build_wan_mini(args.output / "wan-mini", args.work_dir / "generator", **options)
        print("generator:", args.output / "wan-mini")


def build_judge(args: argparse.Namespace) -> Path:
    """The rounds one after the other, in processes of their own; the result is copied to ``OUTPUT/cac-mini``, whose
    README.md stays.
    """
    from reward_model.engine.settings import read_yaml
    from reward_model.files import atomic_folder
    from reward_model.training.launch import launch_recipe

    work = args.work_dir / "judge"
    if args.restart:
        shutil.rmtree(work, ignore_errors=True)
    model = None
    for name, recipe, config in ROUNDS:
        settings = read_yaml(RECIPES / "configs" / config)
        options = {k: max(2, round(args.scale * settings[k])) for k in STEPS if k in settings}
        options |= {"output_dir": work / name, "seed": args.seed + settings.get("seed", 0)}
        by_policy = recipe == "stage3_grpo.py"
        if not by_policy:
            options["gradient_accumulation_steps"] = 1
        if model is not None:
            options["model" if by_policy else "model_name_or_path"] = model
        changes = [f"{key}={value}" for key, value in options.items()]
        launch_recipe(RECIPES / recipe, "--config", RECIPES / "configs" / config, "--set", *changes, processes=2)
        model = work / name / "judge" if by_policy else work / name
    folder = args.output / "cac-mini"
    with atomic_folder(folder) as fresh:
        shutil.copytree(model, fresh, dirs_exist_ok=True)
        if (folder / "README.md").is_file():
            shutil.copy2(folder / "README.md", fresh)
    return folder


def build_unified(args: argparse.Namespace) -> Path:
    """The general reward, in this process."""
    from cac_align.minis.unified_mini import build_unified_mini

    own = args.output / "cac-mini"
    judge = own if own.is_dir() else RECIPES.parent / "assets" / "cac-mini"
    options = {"judge": judge, "seed": args.seed, "scale": args.scale, "resume": not args.restart}
    return build_unified_mini(args.output / "unified-mini", args.work_dir / "unified", **options)


if __name__ == "__main__":
    sys.exit(run_program(main, "build_minis", resumes=True, level=logging.INFO, form="%(asctime)s %(message)s"))
