"""Stage 3: trains a judge with two-turn GRPO on the rewards of the paper.

    python recipes/stage3_grpo.py                                                        # the mini judge, one CPU core
    python recipes/stage3_grpo.py --config recipes/configs/stage3/mini.yaml --set max_steps=10 beta=0
    accelerate launch --config_file recipes/configs/accelerate/fsdp2.yaml recipes/stage3_grpo.py \
        --config recipes/configs/stage3/full.yaml --set output_dir=outputs/stage3

A stopped run continues from its last checkpoint when it is started again. Progress: the bar on the terminal,
``tensorboard --logdir OUTPUT_DIR``, ``OUTPUT_DIR/metrics.jsonl`` and ``OUTPUT_DIR/samples``. The trained judge is
written to OUTPUT_DIR/judge. ``--list-settings`` prints every setting with its meaning and source.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from reward_model.training.settings_file import add_set_option, changed, read_yaml

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MINI = Path(__file__).parent / "configs" / "stage3" / "mini.yaml"


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, builds the trainer, says what it is about to do, and trains."""
    args = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in ("httpx", "accelerate"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("accelerate.utils").setLevel(logging.ERROR)  # tied weights, at every checkpoint

    from reward_model.training.grpo_card import grpo_card
    from reward_model.training.grpo_config import GrpoConfig
    from reward_model.training.grpo_setup import describe, open_trainer, plan_config
    from reward_model.training.plan import print_plan

    if args.list_settings:
        print(GrpoConfig.help_text())
        return
    settings = changed(read_yaml(args.config), args.set)
    if args.dry_run:
        print_plan(plan_config(settings))
        print("One sample is one rollout's training pass; drawing the rollouts and the reference pass come on top.")
        return
    with open_trainer(settings) as trainer:
        main_process = trainer.accelerator.is_main_process
        if main_process:
            print(describe(trainer, settings), flush=True)
        trainer.train(resume=not args.restart)
        card = grpo_card(trainer, settings)
        folder = trainer.export(Path(trainer.config.output_dir) / "judge", card)
        if main_process:
            print("judge:", folder)


def parse(arguments: list[str] | None) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=MINI, help="YAML file; see recipes/configs/stage3")
    add_set_option(parser)
    parser.add_argument("--restart", action="store_true", help="refuse to continue an existing run")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan (parameters, memory, time) without loading anything, and stop",
    )
    parser.add_argument("--list-settings", action="store_true", help="print every setting and its meaning")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
