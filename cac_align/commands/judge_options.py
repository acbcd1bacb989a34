"""Options that several subcommands share: which judge, and how it is asked."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from reward_model.shipped import located

if TYPE_CHECKING:
    from cac_align.rewards.cac import CaCReward


def add_judge_arguments(parser: argparse.ArgumentParser, *, prefix: str = "") -> None:
    """The judge's options, in their own group; ``prefix`` is put before ``device`` and ``dtype`` where the command
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
        help="backend of the model; openai is any compatible server, also vLLM (default: local)",
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
        help="device of a local judge: cpu, cuda, cuda:1 (default: cuda if available)",
    )
    group.add_argument(
        f"--{prefix}dtype",
        dest="judge_dtype",
        metavar="DTYPE",
        help="of a local judge: bfloat16, float16, float32 (default: bfloat16 on cuda, else float32)",
    )
    group.add_argument(
        "--readout",
        choices=("direct", "paper", "log_odds"),
        help="readout of P(normal) (default: the best one the checkpoint was trained for)",
    )
    group.add_argument("--no-reasoning", action="store_true", help="verdict only: faster, without window and boxes")
    group.add_argument(
        "--scan-fps", type=float, metavar="N", help="frames per second of turn one (default: as trained, else 4)"
    )
    group.add_argument(
        "--zoom-fps", type=float, metavar="N", help="frames per second of turn two (default: as trained, else 8)"
    )
    group.add_argument(
        "--policy",
        choices=("two_turn", "active"),
        help="who decides where to look: two turns at fixed rates, or the judge itself (default: as trained)",
    )
    group.add_argument(
        "--cascade",
        choices=("off", "normal", "windows", "scores"),
        help="verdicts that stand without reasoning where the readout is sure beyond calibrated bounds: normal ones, "
        "also abnormal ones with a window, or without (default: as calibrated, else off)",
    )
    group.add_argument("--judge-batch-size", type=int, default=None, metavar="N", help="videos judged in one batch")


def judge_defaults() -> dict[str, Any]:
    """The judge's options by the names of their values, as they are where none is given."""
    parser = argparse.ArgumentParser()
    add_judge_arguments(parser)
    return vars(parser.parse_args([]))


def check_judge(args: argparse.Namespace) -> None:
    """Raises ValueError for settings of a judge that make no sense, before anything is loaded."""
    from reward_model.backends.devices import check_precision, torch_device

    if args.judge_batch_size is not None and args.judge_batch_size < 1:
        raise ValueError(f"--judge-batch-size {args.judge_batch_size} must be at least 1")
    for name in ("scan_fps", "zoom_fps"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1000:
            raise ValueError(f"{name}={value:g} must be above 0 and below 1000")
    if args.backend != "local":
        return
    if args.model is not None:
        args.model = located(args.model)
    try:
        check_precision(args.judge_dtype)
        if args.judge_device is not None:
            torch_device(args.judge_device)
    except ValueError as error:  # a pipeline beside the judge has options of the same names
        raise ValueError(re.sub(r"\b(device|dtype)=", r"judge_\1=", str(error), count=1)) from None


def build_judge_reward(args: argparse.Namespace, **more: Any) -> CaCReward:
    """The reward that the arguments describe. Its model is known to be there, and not loaded yet.

    Raises:
        ValueError, BackendError: if there is no such model, device or setting.
    """
    check_judge(args)
    from cac_align.rewards.cac import CaCReward

    if args.backend == "local":
        from reward_model.terminal.program import quiet_bars

        quiet_bars("transformers")
    given = {"revision": args.revision, "device": args.judge_device, "dtype": args.judge_dtype}
    reward = CaCReward(
        args.model,
        backend=args.backend,
        base_url=args.base_url,
        **{name: value for name, value in given.items() if value is not None},
        readout=args.readout,
        reasoning=False if args.no_reasoning else None,
        scan_fps=args.scan_fps,
        zoom_fps=args.zoom_fps,
        batch_size=args.judge_batch_size,
        policy=args.policy,
        cascade=args.cascade,
        **more,
    )
    reward.check_ready()
    return reward
