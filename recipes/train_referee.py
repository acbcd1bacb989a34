"""Trains a referee of evidence: two pictures and a claim in, grades of relevance and localisation out.

    python recipes/train_referee.py --config recipes/configs/referee/smoke.yaml        # two steps, to see it run
    torchrun --nproc_per_node 2 recipes/train_referee.py --config recipes/configs/referee/mini.yaml
    accelerate launch recipes/train_referee.py --config recipes/configs/referee/full.yaml --data data/annotations.jsonl

It learns from claims drawn around true boxes, right ones and wrong ones, so boxes are needed here, and not in stage 3,
which the referee then serves (``recipes/configs/stage3/ser_full.yaml``). Every setting of the YAML file is an option
too, ``--list-settings`` prints them, ``--dry-run`` prints the plan. The same command continues a stopped run. Progress:
the bar on the terminal, and ``tensorboard --logdir <output_dir>/training``. ``recipes/check_referee.py`` measures the
result.
"""

from __future__ import annotations

import logging
import os
import sys

from reward_model.terminal.program import run_program

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Parses, trains, exports, and says where the referee is. Models of any size; the minis' parts are handed in."""
    from reward_model.minis.referee import REFEREE
    from reward_model.training.sft.run import run_recipe

    return run_recipe("referee", arguments, REFEREE)


if __name__ == "__main__":
    sys.exit(run_program(main, "train_referee", resumes=True, level=logging.INFO, form="%(asctime)s %(message)s"))
