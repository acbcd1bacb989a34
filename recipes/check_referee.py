"""Measures referees of evidence: against exact truth, and against each other on judges' answers.

    python recipes/check_referee.py --referees outputs/referee-mini oracle                  # 600 claims, two minutes
    python recipes/check_referee.py --referees mini=outputs/referee-mini big=openai:my-org/vlm@http://referee:8000/v1
    python recipes/check_referee.py --referees outputs/referee-mini oracle:flip=0.2 oracle \\
        --judges ser=outputs/stage3-mini-ser/judge plain=outputs/stage3-mini-answer_only/judge

The first table says how valid a referee is: claims about reserved videos of the procedural world, right and wrong in
known ways, with the share it rightly calls relevant, the rank correlation of its localisation with the true overlap,
and the calibration of its relevance. With --judges, the second table has the worth of each judge's evidence under each
referee: a judge that learned to please the referee it was trained under shows there. Writes referees.md and
referees.json to the output folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.files import check_output_folder
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from reward_model.evidence.answer import Evidence
    from reward_model.evidence.referee import Referee
    from reward_model.statistics.table import Table

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Scenes of the claims and videos here start at this seed; no training draws from there.
RESERVED_SEEDS = 900_000


def main(arguments: list[str] | None = None) -> int:
    """Asks the referees and writes the tables."""
    args = parser().parse_args(arguments)
    for name, low in (("claims", 2), ("videos", 2), ("seed", 0)):
        if getattr(args, name) < low:
            raise ValueError(f"{name}={getattr(args, name)} must be at least {low}")
    check_output_folder(args.output)
    quiet_bars("transformers")
    warnings.filterwarnings("ignore", message=".*demo-scale")
    from reward_model.evidence.opening import open_referee
    from reward_model.files import write_json, write_text

    specs = dict(referee_spec(text) for text in args.referees)
    judges = dict(_named(text) for text in args.judges or ())
    referees = {name: open_referee(settings) for name, settings in specs.items()}
    tables = [_validity(referees, args)]
    if judges:
        tables.append(_swap(judges, referees, args))
    write_text(args.output / "referees.md", "\n".join(t.to_markdown() for t in tables))
    described = {name: referee.describe() for name, referee in referees.items()}
    write_json(args.output / "referees.json", {"referees": described, "tables": [t.to_dict() for t in tables]})
    print("\n".join(t.to_text() for t in tables) + f"\nwritten: {args.output}/referees.md, .json")
    return 0


def referee_spec(text: str) -> tuple[str, Any]:
    """Name and settings of ``[NAME=]oracle[:flip=0.2]``, ``[NAME=]FOLDER`` or ``[NAME=]openai:MODEL@URL``.

    Raises:
        ValueError: if it is something else.
    """
    from reward_model.evidence.opening import RefereeSettings

    head, _, rest = text.partition(":")
    name, what = _named(head) if "=" in head else (head, head)
    if what == "oracle":
        changes = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
        if rest and len(changes) != len(rest.split(",")):
            raise ValueError(f"--referees {text!r}: the oracle takes settings such as oracle:flip=0.2,bias=0.1")
        return (name if name != head else text), RefereeSettings.of({"kind": "oracle", **_numbers(changes)})
    if what == "openai":
        model, _, url = rest.partition("@")
        return (name if name != head else model), RefereeSettings.of(
            {"kind": "openai", "model": model, "base_url": url or None}
        )
    name, folder = _named(text)
    return name, RefereeSettings.of({"kind": "local", "model": located(folder)})


def _numbers(changes: Mapping[str, str]) -> dict[str, Any]:
    return {key: int(value) if value.isdigit() else value for key, value in changes.items()}


def _named(text: str) -> tuple[str, str]:
    """``NAME=FOLDER``, or a folder that names itself."""
    name, separator, folder = text.partition("=")
    return (name, folder) if separator else (Path(text).name, text)


def _validity(referees: Mapping[str, Referee], args: argparse.Namespace) -> Table:
    from reward_model.evaluation.tables.referee_tables import validity_table
    from reward_model.minis.referee import practice_rows, world_practice

    rows = practice_rows(args.claims, seed=args.seed, first_seed=RESERVED_SEEDS, kinds=args.kinds)
    pairs = [world_practice(row) for row in rows]
    questions, practice = [q for q, _ in pairs], [p for _, p in pairs]
    opinions = {}
    for name, referee in referees.items():
        started = time.perf_counter()
        opinions[name] = referee.check(questions)
        print(f"{name}: {(time.perf_counter() - started) / len(questions):.3f} s a claim", flush=True)
    title = f"Referees on {len(questions)} claims about reserved procedural videos"
    return validity_table(practice, opinions, [row["kind"] for row in rows], title)


def _swap(judges: Mapping[str, str], referees: Mapping[str, Referee], args: argparse.Namespace) -> Table:
    from reward_model.backends.local import LocalBackend
    from reward_model.evaluation.tables.referee_tables import answer_of_verdict, swap_table
    from reward_model.evidence.answer import score_answers
    from reward_model.judge import TwoTurnJudge
    from reward_model.minis.referee import practice_rows
    from reward_model.world import make_annotation, make_scene
    from reward_model.world.video import render

    rows = practice_rows(args.videos, seed=args.seed + 1, first_seed=RESERVED_SEEDS, kinds=args.kinds)
    scenes = [make_scene(row["seed"], row["kind"], setting=row["setting"]) for row in rows]
    truths = [make_annotation(scene) for scene in scenes]
    videos = [render(scene, range(truth.num_frames)) for scene, truth in zip(scenes, truths, strict=True)]
    found: dict[tuple[str, str], Sequence[Evidence]] = {}
    for judge, folder in judges.items():
        backend = LocalBackend(located(folder))
        verdicts = TwoTurnJudge(backend, backend.config).judge(
            videos, [t.prompt for t in truths], fps=[t.fps for t in truths]
        )
        answers = [
            answer_of_verdict(verdict, truth, _frames_of(video))
            for verdict, truth, video in zip(verdicts, truths, videos, strict=True)
        ]
        for name, referee in referees.items():
            found[judge, name] = score_answers(answers, referee)
    return swap_table(found, f"Evidence of judges on {len(videos)} abnormal procedural videos, under each referee")


def _frames_of(video: Any) -> Any:
    """Native indices -> frames of a video (T, H, W, 3)."""
    return lambda indices: video[list(indices)]


def parser() -> CommandParser:
    """The command line."""
    found = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(
        "--referees",
        nargs="+",
        required=True,
        metavar="[NAME=]SPEC",
        help="oracle, oracle:flip=0.2, a folder, or openai:MODEL@URL",
    )
    found.add_argument(
        "--judges", nargs="+", metavar="[NAME=]FOLDER", help="judges whose evidence is scored under each referee"
    )
    found.add_argument("--claims", type=int, default=600, help="number of claims of the first table (600)")
    found.add_argument("--videos", type=int, default=100, help="number of videos of the second table (100)")
    found.add_argument("--kinds", nargs="+", help="kinds of anomaly, for instance squash split; by default all")
    found.add_argument("--seed", type=int, default=0, help="seed of claims and videos (0)")
    found.add_argument("--output", type=Path, default=Path("outputs/referees"), help="folder of the tables")
    return found


if __name__ == "__main__":
    sys.exit(run_program(main, "check_referee"))
