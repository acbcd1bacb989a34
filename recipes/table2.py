"""Table 2 of the paper for one's own models: base, Best-of-N and Flow-GRPO, each with other rewards, in one command.

    python recipes/table2.py                                        # the minis on two CPU cores
    python recipes/table2.py --config recipes/configs/table2/full.yaml --dry-run
    python recipes/table2.py --parts draw score tables --only-row "Flow-GRPO UR+CaC" --seed 1
    python recipes/table2.py --set rows='[{name: base}, {name: Best-of-N CaC, kind: best_of_n, rewards: [cac]}]'

Trains what is not trained (recipes/flow_grpo.py, in a process of its own), draws every video once, has each scored once
by every reward and metric, and writes table2.md, .tex, .json, correlations.md, .json, curves.png and table2.html with
videos before and after. A killed run continues; start the same line in a second process (or on another machine with the
same folder) and both share the work. People's ratings: cac-align rate OUTPUT/videos-mp4, --export, then --set
ratings=OUTPUT/videos-mp4/ratings/consensus.jsonl and the column anomaly_people.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from reward_model.training.settings_file import add_set_option

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
MINI = HERE / "configs" / "table2" / "mini.yaml"
PARTS = ("train", "draw", "score", "tables")


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, does the parts, prints the table."""
    args = parse(arguments)
    quiet()
    from cac_align.evaluation.job import TableJob
    from cac_align.evaluation.settings import read_settings

    changes = [*args.set, *([f"output_dir={args.output}"] if args.output else [])]
    settings = read_settings(args.config, changes)
    if args.dry_run:
        from cac_align.evaluation.forecast import forecast

        text, complete = forecast(settings)
        print(text)
        return 0 if complete else 1
    job = TableJob(settings, HERE / "flow_grpo.py", say)
    job.work([p for p in args.parts if p != "tables"], row=args.only_row, seed=args.seed)
    if "tables" in args.parts:
        from cac_align.evaluation.output import write_outputs

        written = write_outputs(job)
        print(written[0].read_text(encoding="utf-8"))
        print("written: " + ", ".join(str(path) for path in written))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=MINI, help="YAML file; see recipes/configs/table2")
    parser.add_argument("--output", type=Path, default=None, help="folder, in place of the config's output_dir")
    add_set_option(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--only-row", default=None, metavar="NAME", help="work for this row only")
    parser.add_argument("--seed", type=int, default=None, help="work for this training seed only")
    parser.add_argument("--dry-run", action="store_true", help="weights, plan and an estimate; then stop")
    return parser.parse_args(arguments)


def quiet() -> None:
    """Only what concerns the table is told."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    for name in ("httpx", "diffusers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")


def say(text: Any) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
