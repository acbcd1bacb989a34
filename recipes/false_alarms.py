"""Scans normal training videos with a judge and keeps its false alarms, as negative clips for another stage 2.

    python recipes/false_alarms.py --model outputs/stage2 --output outputs/false_alarms.jsonl
    python recipes/stage2_sft.py --config mini_again --model_name_or_path outputs/stage2 \\
        --false_alarms outputs/false_alarms.jsonl

Turn two is asked about what turn one suspects, so the clips it has to clear are the judge's own false alarms. Videos
are those of the procedural world, from training seeds; a stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from reward_model.judge import TwoTurnJudge

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Scans what is not scanned yet and says how many alarms there are."""
    args = parser().parse_args(arguments)
    for name, low in (("videos", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(args, name) < low:
            raise ValueError(f"{name}={getattr(args, name)} must be at least {low}")
    from reward_model.minis.false_alarms import AlarmFile, alarm_mark, find_alarms, normal_rows

    quiet_bars("transformers")
    warnings.filterwarnings("ignore", message=".*demo-scale")
    model, stories = located(args.model), _stories(args.stories)
    rows = normal_rows(args.videos, seed=args.seed, stories=stories, **({"kinds": args.kinds} if args.kinds else {}))
    mark = alarm_mark(_fingerprint(model), videos=args.videos, seed=args.seed, stories=stories, kinds=args.kinds)
    file = AlarmFile.open(args.output, mark)
    if file.scanned < len(rows):
        judge = _open(model, args.device)
        for alarms in find_alarms(judge, rows[file.scanned :], batch_size=args.batch_size):
            file.scanned = min(len(rows), file.scanned + args.batch_size)
            file.rows += alarms
            file.save()
            print(f"{file.scanned} of {len(rows)} normal videos scanned, {len(file.rows)} false alarms", flush=True)
    print(f"{len(file.rows)} false alarms among {len(rows)} normal videos: {args.output}")
    return 0


def parser() -> CommandParser:
    """The command line."""
    found = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", required=True, help="folder or hub id of the judge")
    found.add_argument("--output", type=Path, required=True, help="file of the alarms, JSON lines")
    found.add_argument("--videos", type=int, default=2000, help="normal videos to scan (default: 2000)")
    found.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    found.add_argument("--stories", default="{}", help="shares of stories as stage 2 takes them, as JSON")
    found.add_argument("--kinds", nargs="+", default=None, help="kinds of anomalies the videos could have had")
    found.add_argument("--batch-size", type=int, default=32, help="videos scanned at once (default: 32)")
    found.add_argument("--device", default=None, help="device of the judge (default: CUDA if available)")
    return found


def _stories(text: str) -> dict[str, float]:
    from reward_model.world.scripts import check_stories

    try:
        shares = json.loads(text)
    except ValueError:
        shares = None
    if not isinstance(shares, dict):
        raise ValueError(f'--stories {text!r} must be JSON, such as {{"zoom/fade": 0.8}}')
    check_stories(shares)
    return shares


def _fingerprint(model: str) -> str:
    from reward_model.digests import model_fingerprint

    return model_fingerprint(model)


def _open(model: str, device: str | None) -> TwoTurnJudge:
    """The judge with its scan alone: what turn two would say of an alarm does not matter."""
    from reward_model.backends.local import LocalBackend
    from reward_model.judge import TwoTurnJudge

    backend = LocalBackend(model, **({"device": device} if device else {}))
    return TwoTurnJudge(backend, backend.config, num_turns=1)


if __name__ == "__main__":
    sys.exit(run_program(main, "false_alarms", resumes=True))
