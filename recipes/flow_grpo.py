"""Flow-GRPO: trains a LoRA of Wan 2.1 by reinforcement learning on CaC and UnifiedReward.

    python recipes/flow_grpo.py                                              # the minis, one CPU core, two minutes
    python recipes/flow_grpo.py --config recipes/configs/flow_grpo/wan21_1p3b_80gb.yaml --dry-run
    accelerate launch --config_file recipes/configs/accelerate/ddp.yaml recipes/flow_grpo.py \
        --config recipes/configs/flow_grpo/paper_wan21_1p3b.yaml --set output_dir=outputs/run lora_r=16

A stopped run (Ctrl-C, kill, full disk) continues from its last checkpoint when it is started again. Progress: the bar
on the terminal, ``tensorboard --logdir OUTPUT_DIR``, ``OUTPUT_DIR/metrics.jsonl`` and ``OUTPUT_DIR/videos``. The LoRA
is written to OUTPUT_DIR/lora for ``pipe.load_lora_weights``. ``--list-settings`` prints every setting with its meaning;
each is an option too (``--lora-r 16``), and ``--config`` takes a file or a preset's name.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.settings import changed, parse_settings, read_yaml, settings_parser
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import run_program

if TYPE_CHECKING:
    import argparse

    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.trainer import FlowGRPOTrainer

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CONFIGS = Path(__file__).resolve().parent / "configs" / "flow_grpo"
MINI = CONFIGS / "mini.yaml"

REAL = """
This was the demo: a mini Wan and two mini judges that know moving shapes only. Four steps show that everything works
and teach next to nothing; this learns, in a quarter of an hour on two cores:
  python recipes/flow_grpo.py --set max_steps=40 batch=4x8 sample_batch_size=8 eval_every=20 lr_scheduler_type=cosine \\
      advantage_std=global output_dir=outputs/flow-grpo-curve
To train the real model:
  1. a judge: recipes/stage1_warmup.py, stage2_sft.py, stage3_grpo.py, or any Qwen3-VL checkpoint for a start
  2. look at the plan:  python recipes/flow_grpo.py --config {configs}/wan21_1p3b_80gb.yaml --dry-run
  3. train:             accelerate launch recipes/flow_grpo.py --config {configs}/wan21_1p3b_80gb.yaml
{configs} also holds the settings of the paper, for 24 GB, and of the public Flow-GRPO code."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, builds the trainer, trains, and writes the LoRA. A run that a signal ended writes no
    LoRA, and its exit code is that of the signal: 130 for Ctrl-C, 143 for SIGTERM.
    """
    args = parse(arguments)
    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.needs import check_calibration

    if args.list_settings:
        print(FlowGRPOConfig.help_text())
        return 0
    config = FlowGRPOConfig.from_dict(settings(args))
    if args.dry_run:
        dry_run(config, args)
        return 0
    check_calibration(config, calibration_command(args, config))
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")

    from cac_align.flow_grpo.trainer import FlowGRPOTrainer

    trainer = FlowGRPOTrainer(config)
    trainer.train(resume=not args.restart)
    if trainer.interrupted:
        return 128 + trainer.interrupted
    folder = trainer.export(Path(config.output_dir) / "lora")
    if trainer.accelerator.is_main_process:
        report(trainer, folder, demo=args.config == MINI)
    return 0


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The file's settings with those of the command line over them; presets work from any folder."""
    from dataclasses import fields

    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.loading import located_settings
    from reward_model.engine.trl_names import FLOW, in_our_names

    known = [f.name for f in fields(FlowGRPOConfig)]
    return located_settings(in_our_names(changed(read_yaml(args.config), args.set), known, FLOW))


def check(chosen: dict[str, Any]) -> None:
    """Raises ValueError for a setting that does not exist, or with a value that the rules refuse."""
    from cac_align.flow_grpo.config import FlowGRPOConfig

    FlowGRPOConfig.from_dict(chosen)


def calibration_command(args: argparse.Namespace, config: FlowGRPOConfig) -> str:
    """The command line that makes the calibration of these settings."""
    changes = ["--set", *args.set] if args.set else []
    words = ["cac-align", "calibrate", "--config", args.config, *changes, "--output", config.calibration]
    return shlex.join(str(word) for word in words)


def dry_run(config: FlowGRPOConfig, args: argparse.Namespace) -> None:
    """Prints the plan without loading a weight. Rewards are made, which finds options that cannot work; models that are
    not there are listed as missing.
    """
    from cac_align.flow_grpo.judging.reward_specs import build_reward
    from cac_align.flow_grpo.model_layout import planned_experts
    from cac_align.flow_grpo.needs import needs_text
    from cac_align.flow_grpo.plan import describe_plan, make_run_plan
    from cac_align.flow_grpo.run_prompts import prompt_lists
    from cac_align.rewards.base import check_num_frames

    world = int(os.environ.get("WORLD_SIZE", "1"))
    prompts, _ = prompt_lists(config, None, None)
    check_num_frames(build_reward(config.rewards, on_failure=config.reward_on_failure), config.num_frames)
    plan, experts = make_run_plan(config, world_size=world), planned_experts(config)
    print(describe_plan(config, plan, world_size=world, num_prompts=len(prompts), experts=experts))
    print(needs_text(config, calibration_command(args, config)))


def report(trainer: FlowGRPOTrainer, folder: Path, *, demo: bool) -> None:
    """Prints the result of the run and its folder."""
    print(f"\n{trainer.change()}")
    print(trainer.places(folder))
    if trainer.stopped_by:
        print(f"Stopped early: {trainer.stopped_by}")
    if demo:
        print(REAL.format(configs="recipes/configs/flow_grpo"))


def parser() -> CommandParser:
    """The options that are not settings."""
    found = settings_parser(__doc__, default=MINI, dry_run="print the plan without loading a weight, and stop")
    found.add_argument("--restart", action="store_true", help="refuse to continue an existing run")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    return parse_settings(parser(), arguments, presets=CONFIGS)


if __name__ == "__main__":
    sys.exit(run_program(main, "flow_grpo", resumes=True, level=logging.INFO, form="%(asctime)s %(message)s"))
