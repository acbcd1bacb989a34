"""Calibrates the cascade of a judge on labelled videos, and measures it against the full judge.

    python recipes/cascade.py calibrate --model outputs/stage3 --bench world --videos 2000 --error 0.005 --write
    python recipes/cascade.py calibrate --model my-org/cac-8b --bench data/dev.jsonl --output outputs/cascade
    python recipes/cascade.py measure --model outputs/stage3 --bench main --modes normal windows scores

``calibrate`` judges development videos in full, chooses the bounds beyond which the verdict before reasoning stands
(reward_model/statistics/cascade.py says how, and what is promised), prints the curve they were chosen on, and writes
calibration.json; with --write also into the checkpoint's judge.json, where ``CaCReward(cascade="off")`` switches them
off again. It never reads the benches that are reported. ``measure`` judges a bench by the full judge and by each mode
in turn, batch by batch, and prints videos per second, accuracy, AUROC and windows side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.files import check_output_folder
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from reward_model.evaluation.benches.bench import Bench
    from reward_model.judge import TwoTurnJudge

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Benches whose figures are reported: no setting is chosen on them.
REPORTED = ("main", "hard", "ood", "shift", "demanding", "second-look")
#: First seed of the world videos a calibration draws, away from every other bench.
SEED = 900_000
MODES = ("normal", "windows", "scores")


def main(arguments: list[str] | None = None) -> int:
    """Calibrates, or measures."""
    args = parser().parse_args(arguments)
    _check(args)
    quiet_bars("transformers")
    warnings.filterwarnings("ignore", message=".*demo-scale")
    return STEPS[args.step](args)


def parser() -> CommandParser:
    """The command line."""
    found = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("step", choices=tuple(STEPS), metavar="STEP", help="calibrate or measure")
    found.add_argument("--model", required=True, help="folder or hub id of the judge")
    found.add_argument("--device", default=None, help="device of the judge (default: CUDA if available)")
    found.add_argument(
        "--readout", choices=("direct", "log_odds"), default="log_odds", help="readout of the score (default: log_odds)"
    )
    found.add_argument(
        "--bench",
        default=None,
        help="calibrate: world (fresh seeds, the default), dev, dev-shift, ..., or FILE.jsonl; measure: as "
        "evaluate_reward.py names them (default: main)",
    )
    found.add_argument("--videos", type=int, default=None, help="videos of the bench (calibrate on world: 2000)")
    found.add_argument("--video-root", default=None, help="folder of the videos of an annotation file")
    found.add_argument("--batch-size", type=int, default=32, help="videos judged at once (default: 32)")
    found.add_argument(
        "--output", type=Path, default=Path("outputs/cascade"), help="folder of rows and tables; a run resumes there"
    )
    group = found.add_argument_group("calibrate")
    group.add_argument(
        "--error", type=float, default=0.005, help="share of videos that the cascade may harm (default: 0.005)"
    )
    group.add_argument(
        "--confidence", type=float, default=0.95, help="confidence that the error is kept (default: 0.95)"
    )
    group.add_argument("--mode", choices=MODES, default="normal", help="mode that --write sets (default: normal)")
    group.add_argument("--write", action="store_true", help="write bounds and mode into the model's judge.json")
    group = found.add_argument_group("measure")
    group.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="modes to compare (default: all)")
    group.add_argument("--bounds", type=Path, default=None, help="a calibration.json (default: the judge's own bounds)")
    return found


def _check(args: argparse.Namespace) -> None:
    for name, low in (("videos", 2), ("batch_size", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"{name}={value} must be at least {low}")
    args.model = located(args.model)
    args.bench = args.bench or ("world" if args.step == "calibrate" else "main")
    check_output_folder(args.output)
    if args.step == "calibrate":
        if args.bench in REPORTED:
            raise ValueError(f"--bench {args.bench} is reported; calibrate on world, dev or videos of your own")
        if args.write and not (Path(args.model) / "judge.json").is_file():
            raise ValueError(f"--write: {args.model!r} is not a folder with a judge.json; leave --write out")
    elif args.bounds is not None and not args.bounds.is_file():
        raise ValueError(f"--bounds {str(args.bounds)!r}: there is no such file; `calibrate` writes calibration.json")


def _open_bench(args: argparse.Namespace) -> tuple[str, Bench]:
    from reward_model.evaluation.benches.names import open_bench

    fresh = args.step == "calibrate" and args.bench == "world"
    seed, videos = (SEED, args.videos or 2000) if fresh else (None, args.videos)
    return open_bench(args.bench, videos=videos, seed=seed, video_root=args.video_root)


def _open_judge(args: argparse.Namespace) -> TwoTurnJudge:
    from reward_model.backends.local import LocalBackend
    from reward_model.judge import TwoTurnJudge

    backend = LocalBackend(args.model, **({"device": args.device} if args.device else {}))
    return TwoTurnJudge(backend, backend.config, cascade="off", readout=args.readout, batch_size=args.batch_size)


def _mark(args: argparse.Namespace, bench: Bench, judge: TwoTurnJudge, *more: object) -> str:
    """Digest of what the rows depend on; bounds written into the checkpoint by --write are not among it."""
    from reward_model.config import JUDGE_FILE, judge_json
    from reward_model.digests import json_digest, model_fingerprint
    from reward_model.evaluation.running.store import bench_fingerprint

    model = model_fingerprint(args.model, leave_out=(JUDGE_FILE,))
    return json_digest([model, judge_json(judge.config), bench_fingerprint(bench), args.readout, *more])


def calibrate(args: argparse.Namespace) -> int:
    """Judges development videos in full and chooses bounds on them."""
    from reward_model.evaluation.running.cascading import FULL, cases_of, run_settings
    from reward_model.files import write_json, write_text
    from reward_model.statistics.cascade import calibrate_cascade, cascade_curve

    name, bench = _open_bench(args)
    judge = _open_judge(args)
    path, mark = args.output / "rows.jsonl", _mark(args, bench, judge)
    rows = run_settings({FULL: judge}, bench, path, mark, batch_size=args.batch_size)
    cases, asked = cases_of(rows), {"error": args.error, "confidence": args.confidence}
    found = {"normal": calibrate_cascade(cases, **asked)}
    try:
        found |= dict.fromkeys(("windows", "scores"), calibrate_cascade(cases, **asked, both_sides=True))
    except ValueError as error:  # half of the error for each side takes more videos
        if args.mode != "normal":
            raise
        print(f"windows, scores: {error}")
    curve = cascade_curve(cases, confidence=args.confidence)
    print("normal above   decided early   harmed   its upper limit")
    for point in curve:
        print(f"{point.normal_above:12.3f}   {point.early:13.3f}   {point.harmed:6.4f}   {point.limit:.4f}")
    for mode, one in found.items():
        print(
            f"{mode}: normal above {one.normal_above}, abnormal below {one.abnormal_below}: "
            f"{one.num_early} of {one.num_videos} decided early, {one.num_harmed} harmed"
        )
    known = {mode: one.to_dict() for mode, one in found.items()}
    record = {"model": args.model, "bench": name, **bench.describe(), "bounds": known}
    write_json(args.output / "calibration.json", {**record, "curve": [point._asdict() for point in curve]})
    print(f"written: {args.output / 'calibration.json'}")
    if args.write:
        path = Path(args.model) / "judge.json"
        settings = {**json.loads(path.read_text(encoding="utf-8")), **_settings(known[args.mode], args.mode)}
        write_text(path, json.dumps(settings, indent=2) + "\n")
        print(f"written: {path}, cascade {args.mode}")
    return 0


def _settings(bounds: dict[str, Any], mode: str) -> dict[str, Any]:
    """Settings of the judge for the bounds of one mode."""
    sides = {name: bounds[name] for name in ("normal_above", "abnormal_below")}
    if set(sides.values()) == {None}:
        raise ValueError(
            f"no bound keeps the error of {bounds['error']:g} in mode {mode}: every video has to be judged"
        )
    return {"cascade": mode, **sides, "cascade_error": bounds["error"]}


def measure(args: argparse.Namespace) -> int:
    """Judges a bench with and without the cascade."""
    from reward_model.evaluation.running.cascading import FULL, cascade_table, run_settings
    from reward_model.files import write_json, write_text
    from reward_model.judge import TwoTurnJudge

    name, bench = _open_bench(args)
    full = _open_judge(args)
    own = {n: getattr(full.config, n) for n in ("normal_above", "abnormal_below")} | {"error": None}
    bounds = json.loads(args.bounds.read_text(encoding="utf-8"))["bounds"] if args.bounds else dict.fromkeys(MODES, own)
    settings = {mode: _settings(bounds[mode], mode) for mode in args.modes}
    judges = {FULL: full} | {mode: TwoTurnJudge(full.backend, full.config, **settings[mode]) for mode in args.modes}
    path, mark = args.output / f"{name}-rows.jsonl", _mark(args, bench, full, settings)
    rows = run_settings(judges, bench, path, mark, batch_size=args.batch_size)
    table = cascade_table(rows, f"Cascade on {name}, {len(bench)} videos")
    print(table.to_text())
    write_text(args.output / f"{name}.md", table.to_markdown())
    write_json(args.output / f"{name}.json", {"settings": settings, "table": table.to_dict()})
    print(f"written: {args.output / f'{name}.md'}")
    return 0


STEPS: dict[str, Callable[[argparse.Namespace], int]] = {"calibrate": calibrate, "measure": measure}

if __name__ == "__main__":
    sys.exit(run_program(main, "cascade", options=names_as_typed(parser()), resumes=True))
