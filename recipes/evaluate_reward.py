"""Measures judges and baselines on benches with exact truth; every figure has its interval.

    python recipes/evaluate_reward.py --model assets/cac-mini --bench main hard ood --output outputs/evaluation
    python recipes/evaluate_reward.py --models ours=outputs/stage3 base=Qwen/Qwen3-VL-8B-Instruct --bench main \\
        --baseline single-turn no-reasoning normal random unified-aps=openai:UnifiedReward@http://judge:8000/v1
    python recipes/evaluate_reward.py --bench data/test.jsonl --model my-org/cac-8b --batch-size 4
    python recipes/evaluate_reward.py --bench main --models rl=outputs/stage3 sft=outputs/stage2 --temperature 0.8
    python recipes/evaluate_reward.py --bench main --ablation base=runs/base no-grpo=runs/c,runs/d full=runs/a,runs/b

Writes tables.md, tables.tex and tables.json with the paper's rows, marked as such, beside ours; reliability.png; and
rows/<judge>/<bench>.jsonl with a row for every video. What is judged stays judged: the same call continues a stopped
run, and a changed model, setting or bench is noticed and judged anew.

Benches: main (500 + 500), hard (400 in four cells), ood (another style of drawing), shift (other lengths, rates, shapes
and colours, each reported apart), demanding (look-alikes and short anomalies, by the grid that decides), second-look
(videos that turn one cannot decide, docs/second_look.md), world (what --videos, --seed, --kinds and --size say; the
default), an annotation file, or vif=FILE.json (ViF-CoT-4K, with --video-root and --video-pattern). Choose on dev,
dev-shift, dev-demanding and dev-second-look; read the others once a checkpoint. The procedural benches are the world
the mini judges were trained on, with other seeds; a judge of real footage is measured there on an unfamiliar subject. A
single judge on a single bench also gets evaluation.md and evaluation.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.files import check_output_folder
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from reward_model.evaluation.running.suite import Results

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Judges what is not judged yet and writes the tables."""
    args = parser().parse_args(arguments)
    check(args)
    from reward_model.evaluation.running.suite import run_suite

    quiet_bars("transformers")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    benches = _benches(args)
    rows = _ablation(args)
    # The full judge first: what the others are compared with.
    groups = sorted(rows, key=lambda key: key != "full")
    contestants = [c for key in groups for c in rows[key]] if rows else _contestants(args)
    results = run_suite(contestants, benches, args.output, batch_size=args.batch_size, say=_say)
    tables, written = _report(args, results, rows)
    print("\n" + "\n".join(t.to_text() for t in tables))
    print("written: " + ", ".join(map(str, written)))
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for numbers and files that cannot be meant, before a model loads. Shipped models are found from
    any folder.
    """
    for name, low in (("batch_size", 1), ("videos", 2), ("size", 8), ("sampling_seed", 0), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"{name}={value} must be at least {low}")
    if not 0 <= args.temperature < 10:
        raise ValueError(f"temperature={args.temperature} must be at least 0 and below 10")
    check_output_folder(args.output)
    for name in args.bench or ():
        path = name.partition("=")[2] or name
        if path.endswith((".jsonl", ".json")) and not Path(path).is_file():
            raise ValueError(f"--bench {name}: there is no file {path!r}")
    if args.model is not None:
        args.model = located(args.model)
    args.models = [f"{n}{equals}{located(model)}" for n, equals, model in (m.partition("=") for m in args.models)]


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=None, help="folder, hub id or served name (default: the embedded mini judge)"
    )
    parser.add_argument(
        "--models", nargs="+", action="extend", default=[], metavar="NAME=MODEL", help="several, in place of --model"
    )
    parser.add_argument(
        "--backend",
        choices=("local", "openai", "replay"),
        default="local",
        help="backend of the models (default: local)",
    )
    parser.add_argument("--base-url", default=None, help="address of the server, for --backend openai")
    parser.add_argument("--device", default=None, help="device of local models (default: CUDA if available)")
    parser.add_argument(
        "--baseline",
        nargs="+",
        action="extend",
        default=[],
        help="single-turn, no-reasoning, normal, abnormal, random, or KIND=MODEL with KIND zero-shot, common (the "
        "judge's question, asked once), unified-aps, unified-video5, unified-think, vr-thinker, skyra, videoveritas",
    )
    parser.add_argument(
        "--wording",
        nargs="+",
        action="extend",
        default=[],
        metavar="PROTOCOL=FILE",
        help="the question of aps or video5 as a text file, {prompt} in the prompt's place (default: ours)",
    )
    parser.add_argument(
        "--ablation", nargs="+", action="extend", default=[], metavar="ROW=FOLDER[,FOLDER]", help="Table 3, by rows"
    )
    parser.add_argument(
        "--bench",
        nargs="+",
        action="extend",
        default=None,
        help="main, hard, ood, shift, demanding, second-look, dev, dev-shift, dev-demanding, dev-second-look, world "
        "(the default), vif=FILE.json, FILE.jsonl",
    )
    parser.add_argument("--video-root", default=None, help="folder of the videos of an annotation file")
    parser.add_argument("--video-pattern", default=None, help="of vif, such as {source}/{label}/*{video_id}*.mp4")
    parser.add_argument(
        "--readout",
        choices=("direct", "paper", "log_odds"),
        help="readout used as the score (default: the best one a checkpoint was trained for)",
    )
    parser.add_argument("--no-reasoning", action="store_true", help="verdicts without chain of thought")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="sampling temperature; 0 (default) is greedy, above it answers are sampled as in RL",
    )
    parser.add_argument("--sampling-seed", type=int, default=0, help="of drawn answers")
    parser.add_argument(
        "--videos", type=int, default=None, help="videos of each bench (world: 400); even, half of them normal"
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="seed of the first world video; those below 400000 are for training"
    )
    parser.add_argument("--kinds", nargs="*", default=None, help="anomalies of the world (default: all)")
    parser.add_argument("--setting", default=None, help="setting of the world bench: single, objects, person, ...")
    parser.add_argument("--size", type=int, default=None, help="height and width of the world's videos in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="videos judged at once; 4 to 8 for an 8B model")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/evaluation"), help="folder of tables and rows; a run resumes there"
    )
    return parser


def _benches(args: argparse.Namespace) -> dict[str, Any]:
    from reward_model.evaluation.benches.names import open_bench

    options = {name: getattr(args, name) for name in ("videos", "seed", "kinds", "size", "setting")}
    options |= {"video_root": args.video_root, "video_pattern": args.video_pattern}
    return dict(open_bench(name, **options) for name in args.bench or ["world"])


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    reasoning = {"reasoning": False, "all_readouts": False} if args.no_reasoning else {}
    drawn = {"temperature": args.temperature, "seed": args.sampling_seed} if args.temperature else {}
    return {"readout": args.readout, "batch_size": args.batch_size, **reasoning, **drawn}


def _contestants(args: argparse.Namespace) -> list[Any]:
    from cac_align.rewards.cac import mini_judge_folder
    from reward_model.evaluation.running.contestants import distinct, judge_contestant, parse_baseline, parse_source

    options = {k: v for k, v in (("base_url", args.base_url), ("device", args.device)) if v is not None}
    asked = args.models + ([args.model] if args.model is not None else [])
    mini = mini_judge_folder()
    if not asked and mini is None:
        raise ValueError("no judge available: pass --model; the mini judge (assets/cac-mini) is not installed here")
    sources = dict(parse_source(text, args.backend, options) for text in asked or [str(mini)])
    if len(sources) < len(asked):
        raise ValueError("two models have the same name; write NAME=MODEL")
    if args.temperature:
        sources = {f"{name}, temperature {args.temperature:g}": source for name, source in sources.items()}
    settings = _settings(args)
    found = [judge_contestant(name, source, settings) for name, source in sources.items()]
    local = {"device": args.device} if args.device else {}
    wordings = dict(text.partition("=")[::2] for text in args.wording)
    for text in args.baseline:
        found += parse_baseline(
            text, sources, settings=settings, options=local, batch_size=args.batch_size, wordings=wordings
        )
    return distinct(found)


def _ablation(args: argparse.Namespace) -> dict[str, list[Any]]:
    from reward_model.evaluation.tables.ablation import parse_ablation

    if args.ablation and (args.models or args.model or args.baseline):
        raise ValueError("--ablation brings its own models; leave out --model, --models and --baseline")
    return parse_ablation(args.ablation, _settings(args), {"device": args.device} if args.device else None)


def _report(args: argparse.Namespace, results: Results, rows: dict[str, list[Any]]) -> tuple[list[Any], list[Path]]:
    from reward_model.evaluation.tables.ablation import ablation_table
    from reward_model.evaluation.tables.reports import make_tables, to_json, write_report
    from reward_model.files import write_text

    tables = make_tables(results)
    if rows:
        by_row = [
            ablation_table(bench, {key: [by_judge[c.name] for c in group] for key, group in rows.items()})
            for bench, by_judge in results.items()
        ]
        tables = by_row + tables
    written = write_report(args.output, tables, results)
    judged = [(name, result) for by_judge in results.values() for name, result in by_judge.items()]
    if len(judged) == 1:
        name, result = judged[0]
        text = f"# {name} on {len(result.videos)} videos\n\n{result.to_markdown()}"
        written.append(write_text(args.output / "evaluation.md", text))
        written.append(write_text(args.output / "evaluation.json", to_json(result.to_dict())))
    return tables, written


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main, "evaluate_reward", options=names_as_typed(parser()), resumes=True))
