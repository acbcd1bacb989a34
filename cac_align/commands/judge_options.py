"""Options that several subcommands share: which judge, and how it is asked."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cac_align.rewards.cac import CaCReward


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """The judge's options, in a group of their own."""
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--model",
        help="checkpoint folder, hub id or served name (default: $CAC_REWARD_MODEL, else the embedded mini judge)",
    )
    group.add_argument(
        "--backend",
        choices=("local", "openai", "replay"),
        default="local",
        help="where the model runs (default: local)",
    )
    group.add_argument(
        "--base-url",
        help="server address for --backend openai, such as http://judge:8000/v1; the key is $OPENAI_API_KEY",
    )
    group.add_argument(
        "--readout",
        choices=("direct", "paper", "log_odds"),
        default="direct",
        help="how P(normal) is read (default: direct)",
    )
    group.add_argument("--no-reasoning", action="store_true", help="verdict only: faster, without window and boxes")
    group.add_argument("--judge-batch-size", type=int, default=None, metavar="N", help="videos judged at once")


def build_reward(args: argparse.Namespace, **more: Any) -> CaCReward:
    """The reward that the arguments describe."""
    from cac_align.rewards.cac import CaCReward

    return CaCReward(
        args.model,
        backend=args.backend,
        base_url=args.base_url,
        readout=args.readout,
        reasoning=False if args.no_reasoning else None,
        batch_size=args.judge_batch_size,
        **more,
    )
