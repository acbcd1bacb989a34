"""Options that several subcommands share: which judge, and how it is asked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.shipped import located

if TYPE_CHECKING:
    from cac_align.rewards.cac import CaCReward


def add_judge_arguments(parser: argparse.ArgumentParser, *, prefix: str = "") -> None:
    """The judge's options, in a group of their own; ``prefix`` is put before ``device`` and ``dtype`` where the command
    has others of that name.
    """
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--model",
        help="checkpoint folder, hub id or served name (default: $CAC_REWARD_MODEL, else the embedded mini judge)",
    )
    group.add_argument(
        "--backend",
        choices=("local", "openai", "replay"),
        default="local",
        help="where the model runs; openai is any compatible server, vLLM too (default: local)",
    )
    group.add_argument(
        "--base-url",
        help="server address for --backend openai, such as http://judge:8000/v1; the key is $OPENAI_API_KEY",
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument(
        f"--{prefix}device",
        dest="judge_device",
        metavar="DEVICE",
        help="where a local judge runs: cpu, cuda, cuda:1 (default: cuda if there is one)",
    )
    group.add_argument(
        f"--{prefix}dtype",
        dest="judge_dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of a local judge (default: bfloat16 on cuda, else float32)",
    )
    group.add_argument(
        "--readout",
        choices=("direct", "paper", "log_odds"),
        default="direct",
        help="how P(normal) is read (default: direct)",
    )
    group.add_argument("--no-reasoning", action="store_true", help="verdict only: faster, without window and boxes")
    group.add_argument(
        "--scan-fps", type=float, metavar="N", help="frames per second of turn one (default: as trained, else 4)"
    )
    group.add_argument(
        "--zoom-fps", type=float, metavar="N", help="frames per second of turn two (default: as trained, else 8)"
    )
    group.add_argument("--judge-batch-size", type=int, default=None, metavar="N", help="videos judged at once")


def check_judge(args: argparse.Namespace) -> None:
    """Raises ValueError for a judge that cannot be there, before anything is loaded."""
    if args.judge_batch_size is not None and args.judge_batch_size < 1:
        raise ValueError(f"--judge-batch-size {args.judge_batch_size} must be at least 1")
    for name in ("scan_fps", "zoom_fps"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1000:
            raise ValueError(f"{name}={value:g} must be above 0 and below 1000")
    if args.model is None or args.backend == "openai":
        return
    args.model = located(args.model)
    path = Path(args.model)
    looks_like_path = args.model.startswith((".", "/", "~")) or args.model.count("/") > 1 or args.model.endswith("/")
    if args.backend == "replay" and not path.is_file():
        raise ValueError(f"--model {args.model!r}: there is no recording of that name")
    if args.backend == "local" and not path.exists() and looks_like_path:
        raise ValueError(f"--model {args.model!r}: there is no such folder; check the path, or name a hub id")


def build_reward(args: argparse.Namespace, **more: Any) -> CaCReward:
    """The reward that the arguments describe. Its model is not loaded yet."""
    check_judge(args)
    from cac_align.rewards.cac import CaCReward

    if args.backend == "local":
        from reward_model.terminal import quiet_bars

        quiet_bars("transformers")
    given = {"revision": args.revision, "device": args.judge_device, "dtype": args.judge_dtype}
    return CaCReward(
        args.model,
        backend=args.backend,
        base_url=args.base_url,
        **{name: value for name, value in given.items() if value is not None},
        readout=args.readout,
        reasoning=False if args.no_reasoning else None,
        scan_fps=args.scan_fps,
        zoom_fps=args.zoom_fps,
        batch_size=args.judge_batch_size,
        **more,
    )
