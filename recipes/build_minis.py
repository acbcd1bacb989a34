"""Trains the two mini checkpoints of ``assets/``, the judge (cac-mini) and the generator (wan-mini). CPU is enough.

    python recipes/build_minis.py --only judge --output assets --work-dir outputs/minis
    python recipes/build_minis.py --scale 0.01 --output outputs/smoke      # the whole path in minutes, useless weights

A stopped run continues where it was. Progress: the bar on the terminal, and ``tensorboard --logdir <work-dir>``.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

# One thread each: the models are so small that threads spend their time waiting for each other. Must be set before
# torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and builds what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("judge", "generator", "all"), default="all", help="which checkpoint to train"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("assets"), help="checkpoints go to OUTPUT/cac-mini and OUTPUT/wan-mini"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/minis"), help="logs and resumable state")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all step counts; 0.01 is a smoke test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None, help="cpu or cuda; by default cuda if there is one")
    parser.add_argument("--restart", action="store_true", help="throw away what the work folder holds")
    args = parser.parse_args(arguments)
    if not args.scale > 0:
        parser.error(f"--scale must be above zero, got {args.scale}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = {"seed": args.seed, "device": args.device, "scale": args.scale, "resume": not args.restart}
    if args.only in ("judge", "all"):
        from reward_model.training.build_judge_mini import build_cac_mini

        print("judge:", build_cac_mini(args.output, args.work_dir / "judge", **options))
    if args.only in ("generator", "all"):
        from cac_align.minis.wan_mini import build_wan_mini

        build_wan_mini(args.output / "wan-mini", args.work_dir / "generator", **options)
        print("generator:", args.output / "wan-mini")


if __name__ == "__main__":
    main()
