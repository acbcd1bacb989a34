"""Measures judges that look themselves on the aliasing suite: pairs that 2 frames per second cannot tell apart, and
easy videos beside them.

    python recipes/evaluate_active.py --run outputs/active-mini --output outputs/active-evaluation
    python recipes/evaluate_active.py --run outputs/active-mini outputs/active-mini-1 outputs/active-mini-2 \\
        --ablation no-cost=outputs/active-mini-no-cost entropy=outputs/active-mini-entropy

Every run folder of recipes/active.py is measured: its judge, the judge of its cold start, and beside them a passive
judge, random operators at the same number of frames, always-zoom and a script that knows the truth, whose answers the
judge gives. Prints accuracy, utility, operators and frames with 95 % intervals, and the acceptance line by line; writes
tables.md and tables.json, and a row for every episode. What is played stays played: the same call continues a stopped
run. Choose with --dev; read the reserved videos once a checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reward_model.files import check_output_folder, write_text
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from reward_model.backends.base import Backend
    from reward_model.config import JudgeConfig

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Plays what is not played yet and writes the tables. Returns 1 if a judge misses something."""
    args = parser().parse_args(arguments)
    runs, ablations = check(args.run, args.ablation)
    check_output_folder(args.output)
    from reward_model.evaluation.active.play import DEV_SUITE_SEED, SUITE_SEED, Suite
    from reward_model.evaluation.active.report import criteria_table, implicit_accuracy, seeds_table, suite_table
    from reward_model.evaluation.active.run import Acceptance

    quiet_bars("transformers")
    suite = Suite(args.videos, DEV_SUITE_SEED if args.dev else SUITE_SEED)
    tables, lines, judges = [], [], {}
    for number, run in enumerate(runs):
        name = run.name if len({r.name for r in runs}) == len(runs) else str(run)
        accepted = Acceptance(
            str(run / "judge"), suite, lambda folder: _open(folder, args.device), Path(args.output) / f"run-{number}",
            seed=number, batch_size=args.batch_size, say=_say,
        )  # fmt: skip
        cold = run / "cold_start"
        played = accepted.run(cold=str(cold) if cold.is_dir() else None, ablations={} if number else ablations)
        note = f"{len(suite.rows())} videos, 95 % bootstrap intervals over them; utility by the beliefs of the judge."
        tables.append(suite_table(played, title=f"Active evidence: {name}", notes=(note,)))
        lines += [(name, criterion) for criterion in accepted.criteria(implicit_accuracy(run))]
        judges[name] = played["judge"]
    tables += [seeds_table(judges)] if len(judges) > 1 else []
    tables.append(criteria_table(lines))
    output = Path(args.output)
    write_text(output / "tables.md", "\n".join(t.to_markdown() for t in tables))
    write_text(output / "tables.json", json.dumps([t.to_dict() for t in tables], indent=1) + "\n")
    print("\n" + "\n".join(t.to_text() for t in tables))
    print(f"written: {output / 'tables.md'}, {output / 'tables.json'}")
    return int(any(criterion.met is False for _, criterion in lines))


def check(runs: list[str], ablations: list[str]) -> tuple[list[Path], dict[str, str]]:
    """The run folders, and the judges of ablations by name.

    Raises:
        ValueError: if a folder holds no judge, or an ablation has no name.
    """
    folders = [Path(run) for run in runs]
    named = {}
    for text in ablations:
        name, equals, folder = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--ablation {text!r} must be NAME=RUN_FOLDER")
        named[name] = Path(folder)
    for place in (*folders, *named.values()):
        if not (place / "judge" / "judge.json").is_file():
            raise ValueError(
                f"{str(place)!r} holds no judge; give a run folder of recipes/active.py that was trained to its end"
            )
    return folders, {name: str(folder / "judge") for name, folder in named.items()}


def _open(folder: str, device: str | None) -> tuple[Backend, JudgeConfig]:
    from reward_model.backends.local import LocalBackend

    backend = LocalBackend(folder, device=device)
    return backend, backend.config


def _say(name: str, done: int, count: int) -> None:
    print(f"\r{name}: {done}/{count}", end="\n" if done == count else "", file=sys.stderr, flush=True)


def parser() -> CommandParser:
    """The command line."""
    from argparse import RawDescriptionHelpFormatter

    found = CommandParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    found.add_argument("--run", nargs="+", required=True, metavar="FOLDER", help="run folders of recipes/active.py")
    found.add_argument(
        "--ablation", nargs="*", default=[], metavar="NAME=FOLDER", help="run folders whose judges are rows beside"
    )
    found.add_argument("--videos", type=int, default=400, metavar="N", help="videos of the suite (default: 400)")
    found.add_argument("--dev", action="store_true", help="the videos for choices, not those to be reported")
    found.add_argument("--batch-size", type=int, default=16, metavar="N", help="videos in step (default: 16)")
    found.add_argument("--device", help="device of the judges (default: cuda if available)")
    found.add_argument("--output", default="outputs/active-evaluation", metavar="FOLDER", help="folder of the tables")
    return found


if __name__ == "__main__":
    sys.exit(run_program(main, "evaluate_active", resumes=True))
