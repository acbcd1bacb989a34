"""Number of threads of a command: small models on a CPU lose time to threads that wait for each other."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from reward_model.shipped import located

#: Checkpoints below this many bytes run on one thread.
SMALL = 200_000_000


def settle_threads(args: argparse.Namespace) -> None:
    """Sets ``OMP_NUM_THREADS=1`` where the models of a command are small and the user has not said otherwise.

    Two clips judged by the mini judge beside another busy process took 10 s on one thread and 130 s on two. Must run
    before torch is imported.
    """
    if "OMP_NUM_THREADS" in os.environ or "model" not in vars(args):
        return
    asked = [args.model or os.environ.get("CAC_REWARD_MODEL"), getattr(args, "pipe", None)]
    if all(_small(model) for model in asked if model is not None):
        os.environ["OMP_NUM_THREADS"] = "1"


def _small(model: str) -> bool:
    """True if a folder holds few weights; a model that is not a folder may be of any size."""
    folder = Path(located(model))
    if not folder.is_dir():
        return False
    return sum(f.stat().st_size for f in folder.rglob("*.safetensors") if f.is_file()) < SMALL
