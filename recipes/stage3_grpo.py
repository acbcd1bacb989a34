"""Stage 3: trains a judge with two-turn GRPO on the rewards of the paper.

    python recipes/stage3_grpo.py                                                        # the mini judge, one CPU core
    python recipes/stage3_grpo.py --config recipes/configs/stage3/mini.yaml --set max_steps=10 beta=0
    accelerate launch --config_file recipes/configs/accelerate/fsdp2.yaml recipes/stage3_grpo.py \
        --config recipes/configs/stage3/full.yaml --set output_dir=outputs/stage3

``--variant NAME`` lays the settings of an ablation, a changed weight or a repair over the file
(``recipes/configs/stage3/variants.yaml``). A stopped run continues from its last checkpoint when it is started again.
Progress: the bar on the terminal, ``tensorboard --logdir OUTPUT_DIR``, ``OUTPUT_DIR/metrics.jsonl`` and
``OUTPUT_DIR/samples``. The trained judge is written to OUTPUT_DIR/judge. ``--list-settings`` prints every setting
with its meaning and source; each is an option too (``--max-steps 10``), and ``--config`` takes a file or a preset's
name.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.settings import changed, parse_settings, read_yaml, settings_parser
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import run_program

if TYPE_CHECKING:
    import argparse

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PRESETS = Path(__file__).resolve().parent / "configs" / "stage3"
MINI = PRESETS / "mini.yaml"


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, builds the trainer, says what it is about to do, and trains."""
    args = parse(arguments)
    from reward_model.training.grpo.config import GrpoConfig

    if args.list_settings:
        print(GrpoConfig.help_text())
        return
    chosen = settings(args)  # a misspelt setting is refused before torch and the trainer load
    from reward_model.training.grpo.card import grpo_card
    from reward_model.training.grpo.setup import describe_run, open_trainer, plan_config
    from reward_model.training.missing import print_missing
    from reward_model.training.plan import print_plan

    if args.dry_run:
        from reward_model.minis.stages import MINI

        plan = plan_config(chosen)
        print_plan(plan, MINI.shape(plan.model))
        print("One sample is one rollout's training pass; drawing the rollouts and the reference pass come on top.")
        data = chosen.get("data") or {}
        print_missing(chosen.get("model"), {"data.path": data.get("path")})
        return
    from reward_model.minis.collator import fast_vision

    with open_trainer(chosen, fast_vision=fast_vision) as trainer:
        main_process = trainer.accelerator.is_main_process
        if main_process:
            print(describe_run(trainer, chosen), flush=True)
        trainer.train(resume=not args.restart)
        card = grpo_card(trainer, chosen)
        folder = trainer.export(Path(trainer.config.output_dir) / "judge", card)
        if main_process:
            from reward_model.training.domain_file import DOMAIN_VIDEOS, domain_of_samples

            domain_of_samples(folder, trainer.dataset, trainer.load, chosen.get("domain_videos", DOMAIN_VIDEOS))
            print("judge:", folder)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The file's settings with those of the command line over them; unknown ones are refused here."""
    from dataclasses import fields

    from reward_model.engine.settings import check_known
    from reward_model.engine.trl_names import STAGE3, in_our_names
    from reward_model.training.grpo.config import OWN, GrpoConfig

    known = [*OWN, *(f.name for f in fields(GrpoConfig))]
    base = read_yaml(args.config)
    if args.variant:
        base = {**base, **variant(args.variant)}
        base["output_dir"] = f"{base.get('output_dir', GrpoConfig.output_dir)}-{args.variant}"
    chosen = in_our_names(changed(base, args.set), known, STAGE3)
    check_known(chosen, known)
    return {**chosen, **{name: located(chosen[name]) for name in ("model",) if chosen.get(name)}}


def variant(name: str) -> dict[str, Any]:
    """The settings of one of ``recipes/configs/stage3/variants.yaml``: ablations, sensitivity to weights, repairs."""
    known = read_yaml(PRESETS / "variants.yaml")
    if name not in known:
        raise ValueError(f"--variant {name!r} must be one of {', '.join(known)}")
    return dict(known[name])


def check(chosen: dict[str, Any]) -> None:
    """Raises ValueError for a setting with a value that the rules refuse."""
    from reward_model.training.grpo.config import OWN, GrpoConfig

    GrpoConfig.from_dict({k: v for k, v in chosen.items() if k not in OWN})


def parser() -> CommandParser:
    """The options that are not settings."""
    found = settings_parser(
        __doc__,
        default=MINI,
        dry_run="print the plan (parameters, memory, time) without loading anything, and stop",
    )
    found.add_argument(
        "--variant", help="an ablation, changed weight or repair by its name; see configs/stage3/variants.yaml"
    )
    found.add_argument("--restart", action="store_true", help="refuse to continue an existing run")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    return parse_settings(parser(), arguments, presets=PRESETS)


if __name__ == "__main__":
    sys.exit(run_program(main, "stage3_grpo", resumes=True, level=logging.INFO, form="%(asctime)s %(message)s"))
