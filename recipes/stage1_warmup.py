"""Stage 1, warm-up on single frames: judgment, reasoning and boxes of what one frame can show (section 3.2, C.2).

    accelerate launch recipes/stage1_warmup.py --config recipes/configs/stage1/mini.yaml        # CPU, from scratch
    accelerate launch recipes/stage1_warmup.py --config recipes/configs/stage1/full.yaml --dry-run
    accelerate launch recipes/stage1_warmup.py --config recipes/configs/stage1/full.yaml --data data/annotations.jsonl

Every setting of the YAML file can be given on the command line too (``--max-steps 10``, ``--set max_steps=10``), and
``--list-settings`` prints them. ``--config`` takes a file or a preset's name. The same command continues a stopped run.
Progress: the bar on the terminal, and ``tensorboard --logdir <output_dir>/training``. The result is
``CaCReward("<output_dir>")``.
"""

from __future__ import annotations

import logging
import os
import sys

from reward_model.terminal.program import run_program

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

STAGE = "stage1"


def main(arguments: list[str] | None = None) -> int:
    """Parses, trains, exports, and says where the judge is. Models of any size; the minis' parts are handed in."""
    from reward_model.minis.stages import MINI
    from reward_model.training.sft.run import run_recipe

    return run_recipe(STAGE, arguments, MINI)


if __name__ == "__main__":
    sys.exit(run_program(main, "stage1_warmup", resumes=True, level=logging.INFO, form="%(asctime)s %(message)s"))
