"""Active evidence: trains a judge that asks for the frames it needs, from a two-turn judge.

    python recipes/active.py                                             # the mini judge, one CPU core
    python recipes/active.py --config smoke                              # everything once, in a minute
    python recipes/active.py --config full --dry-run                     # Qwen3-VL-2B: modules, memory, time
    accelerate launch --config_file recipes/configs/accelerate/ddp.yaml recipes/active.py --config full

A cold start on scripted episodes, then rounds of interactive preference optimisation (docs/method.md). ``--variant
NAME`` lays an ablation over the file. A stopped run continues from its last checkpoint when it is started again.
Progress: the bar on the terminal, ``tensorboard --logdir OUTPUT_DIR``, ``OUTPUT_DIR/metrics.jsonl`` and
``OUTPUT_DIR/rounds.jsonl``. The trained judge is written to OUTPUT_DIR/judge, that of the cold start to
OUTPUT_DIR/cold_start; ``recipes/evaluate_active.py`` measures them. ``--list-settings`` prints every setting.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.settings import changed, check_known, parse_settings, read_yaml, settings_parser
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import run_program

if TYPE_CHECKING:
    import argparse

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PRESETS = Path(__file__).resolve().parent / "configs" / "active"
MINI = PRESETS / "mini.yaml"

#: Ablations, as settings over those of the file.
VARIANTS: dict[str, dict[str, Any]] = {
    "no-information": {"information": "none"},
    "no-cost": {"cost_operator": 0.0, "cost_frames": 0.0, "cost_redundant": 0.0},
    "no-branches": {"num_branches": 0, "quota_branch": 0.0},
    "no-at-once": {"num_at_once": 0},
    "dmpo": {"phi": "dmpo"},
    "entropy": {"information": "entropy"},
}


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, builds the trainer, says what it is about to do, and trains."""
    args = parse(arguments)
    from reward_model.training.active.config import ActiveConfig

    if args.list_settings:
        print(ActiveConfig.help_text())
        return
    chosen = settings(args)  # a misspelt setting is refused before torch and the trainer load
    from reward_model.training.active.card import active_card
    from reward_model.training.active.setup import (
        active_plan_config,
        describe_active_run,
        drawing_note,
        open_active_trainer,
    )

    if args.dry_run:
        from reward_model.minis.stages import MINI as PARTS
        from reward_model.training.missing import print_missing
        from reward_model.training.plan import print_plan

        plan = active_plan_config(chosen)
        print_plan(plan, PARTS.shape(plan.model))
        print(drawing_note(chosen))
        data = chosen.get("data") or {}
        print_missing(chosen.get("model"), {"data.path": data.get("path")})
        return
    from reward_model.minis.active import add_active_pieces
    from reward_model.minis.collator import fast_vision

    with open_active_trainer(chosen, fast_vision=fast_vision, add_tokens=add_active_pieces) as trainer:
        main_process = trainer.accelerator.is_main_process
        if main_process:
            print(describe_active_run(trainer, chosen), flush=True)
        trainer.train(resume=not args.restart)
        card = active_card(trainer, chosen)
        folder = trainer.export(Path(trainer.config.output_dir) / "judge", card)
        if main_process:
            print("judge:", folder)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The file's settings with those of the command line over them; unknown ones are refused here."""
    from dataclasses import fields

    from reward_model.training.active.config import OWN, ActiveConfig

    base = read_yaml(args.config)
    if args.variant:
        base = {**base, **VARIANTS[args.variant]}
        base["output_dir"] = f"{base.get('output_dir', ActiveConfig.output_dir)}-{args.variant}"
    chosen = changed(base, args.set)
    check_known(chosen, [*OWN, *(f.name for f in fields(ActiveConfig))])
    check(chosen)
    return {**chosen, **{name: located(chosen[name]) for name in ("model",) if chosen.get(name)}}


def check(chosen: dict[str, Any]) -> None:
    """Raises ValueError for a setting with a value that the rules refuse."""
    from reward_model.training.active.config import OWN, ActiveConfig

    ActiveConfig.from_dict({k: v for k, v in chosen.items() if k not in OWN})


def parser() -> CommandParser:
    """The options that are not settings."""
    found = settings_parser(
        __doc__,
        default=MINI,
        dry_run="print the plan (parameters, memory, time) without loading anything, and stop",
    )
    found.add_argument("--variant", choices=tuple(VARIANTS), help="an ablation by its name")
    found.add_argument("--restart", action="store_true", help="refuse to continue an existing run")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    return parse_settings(parser(), arguments, presets=PRESETS)


if __name__ == "__main__":
    sys.exit(run_program(main, "active", resumes=True, level=logging.INFO, form="%(asctime)s %(message)s"))
