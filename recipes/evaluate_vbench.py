"""Has alignment helped? VBench's dimensions on folders of videos: base model, Best-of-N, LoRA; with intervals.

    python recipes/evaluate_vbench.py --videos base=outputs/base bon=outputs/best_of_n lora=outputs/lora
    python recipes/evaluate_vbench.py --config recipes/configs/evaluate_vbench/mini.yaml --videos base=outputs/demo
    accelerate launch --multi_gpu --num_processes 8 recipes/evaluate_vbench.py \\
        --config recipes/configs/evaluate_vbench/full.yaml --videos base=runs/base lora=runs/lora

The first folder is the base the others are compared with. A folder holds ``<prompt>-<index>.mp4`` as VBench names them,
``seed<k>/<prompt>.mp4``, or results of best_of_n, whose best videos count; several seeds of a prompt belong together
and are resampled together. Writes tables.md, tables.tex and tables.json, and rows/<folder>/rows.jsonl with a line for
every video and metric. What is scored stays scored: the same call continues a stopped run; changed videos, weights or
settings are noticed. A video that a metric cannot score is named below the table and left out of that column only.

With --judge the share of videos that are probably abnormal (P(normal) below one half) has its own column. Weights
are looked for in VBench's cache; --dry-run lists them. Two processes on a CPU: torchrun --nproc_per_node 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.settings import find_config, read_yaml
from reward_model.files import check_output_folder
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from cac_align.metrics.suite import MetricSuite

PRESETS = Path(__file__).resolve().parent / "configs" / "evaluate_vbench"
FULL = PRESETS / "full.yaml"
#: The judge's column: 1 for a video that is probably abnormal.
JUDGE, ANOMALY = "p_normal", "anomaly_rate"


def main(arguments: list[str] | None = None) -> int:
    """Scores what is not scored yet and writes the tables."""
    args = parser().parse_args(arguments)
    args.config = find_config(args.config, PRESETS)
    settings = _settings(args)
    if args.dry_run:
        return _show_weights(settings)
    from cac_align.metrics.folder import evaluate_videos, failures, process_device, this_process
    from cac_align.metrics.suite import MetricSuite
    from cac_align.metrics.videos import find_videos

    quiet_bars("transformers")
    check_output_folder(args.output)
    folders = _folders(args.videos)
    entries = {name: find_videos(folder, unreadable=True) for name, folder in folders.items()}
    process = this_process()
    device = settings["device"] or process_device(process)
    suite = MetricSuite(_metrics(settings, device, MetricSuite))
    suite.check_files()
    results = {
        name: evaluate_videos(found, suite, args.output / "rows" / name, process=process, say=_speaker(name))
        for name, found in entries.items()
    }
    if process.first:
        _write(args.output, {name: _anomalies(rows) for name, rows in results.items()}, settings, suite)
    return 1 if any(failures(rows) for rows in results.values()) else 0


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos", nargs="+", action="extend", default=[], metavar="NAME=DIR", help="folders, the base first"
    )
    parser.add_argument(
        "--config", default=FULL, metavar="FILE_OR_PRESET", help="YAML file, or the name of a preset (default: full)"
    )
    parser.add_argument("--dimensions", nargs="+", default=None, metavar="NAME", help="in place of the config's")
    parser.add_argument("--backend", choices=("native", "package"), default=None, help="in place of the config's")
    parser.add_argument("--cache-dir", default=None, help="VBench's weights ($VBENCH_CACHE_DIR, ~/.cache/vbench)")
    parser.add_argument("--device", default=None, help="default: CUDA if available")
    parser.add_argument("--judge", default=None, metavar="MODEL", help="add the anomaly rate; 'mini' for the embedded")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/evaluate_vbench"),
        help="folder of tables and rows; a run resumes there",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the weights and stop")
    return parser


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    found = read_yaml(args.config)
    known = {"dimensions", "backend", "cache_dir", "device", "batch_size", "strict", "judge", "num_resamples", "seed"}
    if set(found) - known:
        raise ValueError(f"{args.config} takes the keys {', '.join(sorted(known))}, got {sorted(found)}")
    for name in ("dimensions", "backend", "cache_dir", "device", "judge"):
        if getattr(args, name) is not None:
            found[name] = getattr(args, name)
    return {name: found.get(name) for name in sorted(known)}


def _metrics(settings: dict[str, Any], device: str | None, suite: type[MetricSuite]) -> dict[str, Any]:
    options = {name: settings[name] for name in ("backend", "batch_size", "strict") if settings[name] is not None}
    metrics = suite(settings["dimensions"], cache_dir=settings["cache_dir"], device=device, **options).metrics
    if settings["judge"]:
        from cac_align import CaCReward

        metrics[JUDGE] = CaCReward(None if settings["judge"] == "mini" else settings["judge"], device=device)
    return metrics


def _folders(pairs: list[str]) -> dict[str, Path]:
    found = {}
    for text in pairs:
        name, equals, folder = text.partition("=")
        if not equals or not name or name in found or "/" in name:
            raise ValueError(f"--videos {text!r} must read like base=outputs/base, each name once")
        found[name] = Path(folder)
    if not found:
        raise ValueError("--videos is missing; for instance --videos base=outputs/base lora=outputs/lora")
    return found


def _show_weights(settings: dict[str, Any]) -> int:
    from cac_align.metrics.dimensions import check_dimension
    from cac_align.metrics.weights import WeightsError

    missing = []
    for weights in dict.fromkeys(w for d in settings["dimensions"] for w in check_dimension(d, "package").weights):
        try:
            print("found   ", weights.find(settings["cache_dir"]))
        except WeightsError as error:
            missing.append(weights)
            print("missing ", error)
    return 1 if missing else 0


def _anomalies(rows: list[Any]) -> list[Any]:
    """The judge's probabilities as verdicts, whose mean is a rate."""
    return [
        replace(r, metric=ANOMALY, score=None if r.score is None else float(r.score < 0.5)) if r.metric == JUDGE else r
        for r in rows
    ]


def _write(output: Path, results: dict[str, Any], settings: dict[str, Any], suite: MetricSuite) -> None:
    import cac_align
    from cac_align.metrics.report import report_to_dict, vbench_tables
    from reward_model.files import write_text

    options = {name: settings[name] for name in ("num_resamples", "seed") if settings[name] is not None}
    tables = vbench_tables(results, **options)
    write_text(output / "tables.md", "\n".join(table.to_markdown() for table in tables))
    write_text(output / "tables.tex", "\n".join(table.to_latex() for table in tables))
    # What each column was made with: dimension and digests of weights, or the judge's model and settings.
    made_with = {name: _maker(suite, name) for name in suite.metrics}
    data = {
        "settings": settings,
        "cac_align": cac_align.__version__,
        "made_with": made_with,
        **report_to_dict(results, tables),
    }
    write_text(output / "tables.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    print("\n".join(table.to_text() for table in tables) + f"\nwritten: {output}/tables.md, .tex, .json")


def _maker(suite: MetricSuite, name: str) -> dict[str, Any]:
    from cac_align.rewards.base import describe_reward

    return describe_reward(suite.metrics[name]) if name == JUDGE else dict(suite.describe(name))


def _speaker(name: str) -> Callable[[str], None]:
    return lambda text: print(f"[{name}] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main, "evaluate_vbench", options=names_as_typed(parser()), resumes=True))
