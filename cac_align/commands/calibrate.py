"""``cac-align calibrate``: the scale of a training's rewards, measured on videos of the base model."""

from __future__ import annotations

import argparse
from pathlib import Path

from reward_model.engine.settings import add_set_option, changed, find_config, read_yaml
from reward_model.shipped import recipes_folder

NAME = "calibrate"
HELP = "Measure the scale of a Flow-GRPO training's rewards on a bank of videos of its base model."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="settings of the training: a YAML file, or a preset's name"
    )
    add_set_option(parser)
    parser.add_argument(
        "--output", type=Path, metavar="JSON", help="the file to write (default: the setting calibration)"
    )
    parser.add_argument("--num-videos", type=int, default=64, help="videos of the bank (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bank (default: 0)")
    parser.add_argument("--device", help="device of drawing (default: CUDA where there is one)")
    parser.set_defaults(resumes=True)


def run(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from cac_align.flow_grpo.calibrate import calibrate_rewards
    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.loading import located_settings
    from reward_model.engine.trl_names import FLOW, in_our_names

    file = find_config(args.config, recipes_folder() / "configs" / "flow_grpo")
    known = [f.name for f in fields(FlowGRPOConfig)]
    chosen = located_settings(in_our_names(changed(read_yaml(file), args.set), known, FLOW))
    config = FlowGRPOConfig.from_dict(chosen)
    found = calibrate_rewards(config, args.output, num_videos=args.num_videos, seed=args.seed, device=args.device)
    print(f"{'reward':<16}{'videos':>8}{'median':>12}{'MAD':>12}{'clipped':>9}")
    for name, scale in found.scales.items():
        print(f"{name:<16}{scale.num_videos:>8}{scale.median:>12.6g}{scale.mad:>12.6g}{scale.clipped:>9.3f}")
    print(f"written: {args.output or config.calibration} (digest {found.digest})")
    return 0
