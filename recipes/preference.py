"""Preference pairs: trains a LoRA of Wan on judged videos, by flow-matching DPO or by fine-tuning on the winners.

    cac-align pairs outputs/candidates --output outputs/pairs.jsonl          # judged candidates of best-of-n, as pairs
    python recipes/preference.py --pairs outputs/pairs.jsonl                 # the mini, on one CPU core, in minutes
    python recipes/preference.py --pairs outputs/pairs.jsonl --localised     # where the judge sees a difference
    python recipes/preference.py --pairs outputs/pairs.jsonl --objective sft # the winners alone: rejection sampling
    python recipes/preference.py --config wan21_1p3b --dry-run

A stopped run (Ctrl-C, kill, full disk) continues from its last checkpoint when it is started again. Progress: the bar
on the terminal, ``tensorboard --logdir OUTPUT_DIR``, ``OUTPUT_DIR/metrics.jsonl`` and ``OUTPUT_DIR/videos``. The LoRA
is written to OUTPUT_DIR/lora for ``pipe.load_lora_weights``. ``--list-settings`` prints every setting with its meaning;
each is an option too (``--lora-r 16``), and ``--config`` takes a file or a preset's name.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.settings import changed, parse_settings, read_yaml, settings_parser
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import run_program

if TYPE_CHECKING:
    import argparse

    from cac_align.preference import PreferenceConfig, PreferenceTrainer

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CONFIGS = Path(__file__).resolve().parent / "configs" / "preference"
MINI = CONFIGS / "mini.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, builds the trainer, trains, and writes the LoRA. A run that a signal ended writes no
    LoRA, and its exit code is that of the signal: 130 for Ctrl-C, 143 for SIGTERM.
    """
    args = parse(arguments)
    from cac_align.preference.config import PreferenceConfig

    if args.list_settings:
        print(PreferenceConfig.help_text())
        return 0
    config = PreferenceConfig.from_dict(settings(args))
    if args.dry_run:
        dry_run(config)
        return 0
    from cac_align.preference.trainer import PreferenceTrainer

    trainer = PreferenceTrainer(config)
    trainer.train(resume=not args.restart)
    if trainer.interrupted:
        return 128 + trainer.interrupted
    folder = trainer.export(Path(config.output_dir) / "lora")
    if trainer.accelerator.is_main_process:
        report(trainer, folder)
    return 0


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The file's settings with those of the command line over them; models and presets work from any folder."""
    from dataclasses import fields

    from cac_align.preference.config import PreferenceConfig
    from reward_model.engine.trl_names import PREFERENCE, in_our_names
    from reward_model.shipped import located

    known = [f.name for f in fields(PreferenceConfig)]
    chosen = in_our_names(changed(read_yaml(args.config), args.set), known, PREFERENCE)
    paths = ("model", "frozen_adapter", "frozen_adapter_2", "sample_prompts")
    return {**chosen, **{name: located(chosen[name]) for name in paths if chosen.get(name)}}


def check(chosen: dict[str, Any]) -> None:
    """Raises ValueError for a setting that does not exist, or with a value that the rules refuse."""
    from cac_align.preference.config import PreferenceConfig

    PreferenceConfig.from_dict(chosen)


def dry_run(config: PreferenceConfig) -> None:
    """Prints the plan without loading a weight. Pairs are read and their videos opened; what is not there is listed."""
    from cac_align.flow_grpo.needs import Need
    from cac_align.preference.plan import check_model_size, preference_plan
    from cac_align.preference.trainer import pairs_of, preference_needs

    check_model_size(config)
    num_pairs, needs = 0, preference_needs(config)
    try:
        num_pairs = len(pairs_of(config)[0])
    except ValueError as error:
        needs.append(Need("missing", str(error)))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    print(preference_plan(config, num_pairs=num_pairs, world_size=world))
    missing = sum(need.state == "missing" for need in needs)
    last = [f"  {missing} missing: the run would stop here; make it, or fix the setting"] if missing else []
    print("\n".join(["Needs", *(f"  {need}" for need in needs), *last]))


def report(trainer: PreferenceTrainer, folder: Path) -> None:
    """Prints the result of the run and its folder."""
    if trainer.history:
        last = trainer.history[-1]
        print(f"\nOf {len(trainer.eval_pairs)} pairs not trained on: {last['accuracy']:.0%} told right.")
    print(trainer.places(folder))


def parser() -> CommandParser:
    """The options that are not settings."""
    found = settings_parser(__doc__, default=MINI, dry_run="print the plan without loading a weight, and stop")
    found.add_argument("--restart", action="store_true", help="refuse to continue an existing run")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    return parse_settings(parser(), arguments, presets=CONFIGS)


if __name__ == "__main__":
    sys.exit(run_program(main, "preference", resumes=True, level=logging.INFO, form="%(asctime)s %(message)s"))
