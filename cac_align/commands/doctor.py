"""``cac-align doctor``: is everything here, does the judge load, and does its reward grade or only say yes and no?"""

from __future__ import annotations

import argparse
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from cac_align.commands.judge_options import add_judge_arguments, build_judge_reward

if TYPE_CHECKING:
    from cac_align.rewards.cac import CaCReward
    from reward_model.backends.base import Backend
    from reward_model.schema import Verdict

NAME, HELP = "doctor", "Check the installation, the judge's tokenizer, and how graded its reward is."
PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "peft", "numpy", "av")
SATURATED = (0.01, 0.99)
#: What the self-test shows: plain videos as the mini generator makes them, and what is easy to see in them.
SELF_TEST = ("squash", "split", "vanish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos", type=int, default=8, metavar="N", help="built-in test videos, half of them abnormal (default: 8)"
    )
    add_judge_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.videos < 2:
        raise ValueError(f"--videos={args.videos} must be at least 2: one normal, one abnormal")
    _show_versions()
    reward = build_judge_reward(args, all_readouts=not args.no_reasoning)
    _show_model(reward)
    sound = _check_tokens(reward.judge_model.backend)
    return 0 if _try_judge(reward, args.videos) and sound else 1


def _show_versions() -> None:
    import torch

    print(f"{'python':<14}{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            print(f"{name:<14}{version(name)}")
        except PackageNotFoundError:
            print(f"{name:<14}missing")
    gpu = (
        torch.cuda.get_device_name(0)
        if torch.cuda.is_available()
        else f"none, CPU with {torch.get_num_threads()} thread(s)"
    )
    print(f"{'GPU':<14}{gpu}")


def _show_model(reward: CaCReward) -> None:
    folder = Path(str(reward.model))
    print(f"{'judge':<14}{reward.model} ({reward.backend})")
    for file in sorted(f for f in folder.iterdir() if f.is_file()) if folder.is_dir() else ():
        print(f"{'':<14}{file.name:<34}{file.stat().st_size / 1e6:8.2f} MB")


def _check_tokens(backend: Backend) -> bool:
    """Shows how the two verdict words are cut into tokens after ``"status": "``; False when they cannot be told
    apart."""
    tokenizer = getattr(getattr(backend, "processor", None), "tokenizer", None)
    if tokenizer is None:
        print(f"{'verdict words':<14}not checked: the tokenizer is on the server")
        return True
    from reward_model.backends.answer_start import verdict_tokens

    normal, abnormal = verdict_tokens(tokenizer)
    for word, ids in (("normal", normal), ("abnormal", abnormal)):
        print(f"{'verdict words':<14}{word} = {' + '.join(repr(tokenizer.decode([i])) for i in ids)}")
    if len(abnormal) > 1 and abnormal[-len(normal) :] == normal:
        print(
            f"{'':<14}trap: 'abnormal' ends in the token of 'normal'; whole words are scored here, "
            "a single-token readout would be wrong"
        )
    return normal != abnormal


def _try_judge(reward: CaCReward, count: int) -> bool:
    """Judges built-in videos; prints accuracy, speed and saturation. False when one of them could not be judged."""
    from reward_model.evaluation import saturation_share
    from reward_model.world import make_video

    wanted = [None if k % 2 == 0 else SELF_TEST[k // 2 % len(SELF_TEST)] for k in range(count)]
    made = [make_video(900_000 + k // 2, kind, setting="single", size=32) for k, kind in enumerate(wanted)]
    started = time.perf_counter()
    verdicts = reward.judge_batch([frames for frames, _ in made], [truth.prompt for _, truth in made], fps=16)
    seconds = time.perf_counter() - started
    right = sum(v.status == truth.status for v, (_, truth) in zip(verdicts, made, strict=True))
    print(f"{'self-test':<14}{right} of {count} procedural videos judged right, {seconds / count:.2f} s each")
    for name, values in readouts(verdicts, reward.judge_model.config.log_odds_temperature).items():
        if values:
            share = saturation_share(values, *SATURATED)
            spread = f"{min(values):.3g} to {max(values):.3g}"
            limits = "-".join(map(str, SATURATED))
            print(f"{'saturation':<14}{name:<10}{share:5.0%} of P(normal) outside {limits} ({spread})")
            _say_both(verdicts, name)
    failed = [v.error for v in verdicts if v.score is None]
    for error in failed:
        print(f"{'failed':<14}{error}")
    return not failed


def _say_both(verdicts: list[Verdict], readout: str) -> None:
    """Warns where the two verdict words hold little of the probability: the judge was not trained to be read there."""
    from cac_align.report.view import FEW_BOTH
    from reward_model.chunks import final_turns
    from reward_model.turns import turn_score

    scores = [turn_score(turn, readout) for v in verdicts for turn in final_turns(v.turns)]
    held = [score.p_both for score in scores if score is not None]
    if held and min(held) < FEW_BOTH:
        print(
            f"{'':<14}{'':<10}the two verdict words hold only {min(held):.1g} of the probability there; was the judge "
            "trained with these prompts and for this readout?"
        )


def readouts(verdicts: list[Verdict], temperature: float) -> dict[str, list[float]]:
    """P(normal) of each readout over the turns that decide, as far as it was measured.

    ``temperature`` is that of the ``log_odds`` readout.
    """
    from reward_model.chunks import final_turns
    from reward_model.config import READOUTS
    from reward_model.turns import turn_value

    turns = [turn for v in verdicts for turn in final_turns(v.turns)]
    found = {name: [turn_value(turn, name) for turn in turns] for name in READOUTS}
    return {name: [value for value in values if value is not None] for name, values in found.items()}
