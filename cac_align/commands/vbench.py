"""``cac-align vbench``: VBench's dimensions, here or by the real package, and the files its scripts want."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from cac_align.commands.data import print_problems
from cac_align.commands.steps import add_steps, run_step
from reward_model.files import check_output_folder
from reward_model.terminal.program import printable

NAME, HELP = "vbench", "Score folders of videos by VBench, install the real package, write what its scripts accept."
DEFAULT = ("subject_consistency", "imaging_quality", "dynamic_degree")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_steps(parser, STEPS)


def run(args: argparse.Namespace) -> int:
    return run_step(args)


def _add_dimensions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dimensions", nargs="+", default=list(DEFAULT), metavar="NAME", help=f"default: {' '.join(DEFAULT)}"
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="VBench's weights (default: $VBENCH_CACHE_DIR or ~/.cache/vbench)"
    )


def _add_install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="folder of the environment (default: ~/.cache/cac-align/vbench-0.1.5)",
    )


def _install(args: argparse.Namespace) -> int:
    from cac_align.metrics.environment import PINS, install

    print(f"installing {', '.join(PINS)} (about 6 GB) ...", flush=True)
    print(install(args.folder, quiet=False))
    return 0


def _add_weights(parser: argparse.ArgumentParser) -> None:
    _add_cache(parser)


def _weights(args: argparse.Namespace) -> int:
    from cac_align.metrics.dimensions import DIMENSIONS
    from cac_align.metrics.weights import WeightsError

    missing = 0
    for dimension in DIMENSIONS.values():
        for weights in dimension.weights:
            try:
                print(f"{dimension.name:<24}found    {weights.find(args.cache_dir)}")
            except WeightsError as error:
                missing += 1
                print(f"{dimension.name:<24}missing  {error}")
        if not dimension.weights:
            print(f"{dimension.name:<24}needs none")
    return 1 if missing else 0


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", type=Path, metavar="DIR", help="folder of videos")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="rows and table; a run resumes there")
    parser.add_argument("--backend", choices=("native", "package"), default="native", help="default: native")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="frames in one batch (default: 16)")
    parser.add_argument(
        "--strict", action="store_true", help="repeat the package's answer where it decides without looking"
    )
    _add_dimensions(parser)
    _add_cache(parser)
    parser.set_defaults(resumes=True)


def _score(args: argparse.Namespace) -> int:
    from cac_align.metrics.folder import evaluate_videos, failures, process_device, this_process
    from cac_align.metrics.report import vbench_tables
    from cac_align.metrics.suite import MetricSuite
    from cac_align.metrics.videos import find_videos
    from reward_model.files import write_text

    if args.batch_size < 1:
        raise ValueError(f"batch_size={args.batch_size} must be at least 1")
    check_output_folder(args.output)
    videos = find_videos(args.videos, unreadable=True)
    process = this_process()
    options = {"backend": args.backend, "batch_size": args.batch_size, "strict": args.strict}
    device = args.device or process_device(process)
    suite = MetricSuite(args.dimensions, cache_dir=args.cache_dir, device=device, **options)
    suite.check_files()
    rows = evaluate_videos(videos, suite, args.output, process=process)
    if not process.first:
        return 0
    tables = vbench_tables({args.videos.name or str(args.videos): rows})
    write_text(args.output / "vbench.md", "\n".join(table.to_markdown() for table in tables))
    print("\n".join(table.to_text() for table in tables), end="")
    bad = failures(rows)
    print_problems(f"{r.video}: no {r.metric}: {r.reason}" for found in bad.values() for r in found)  # type: ignore[misc]
    return 1 if bad else 0


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", type=Path, metavar="DIR", help="folder of videos, or of best-of-n results")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="videos/ and prompt files")
    parser.add_argument(
        "--layout",
        choices=("standard", "custom"),
        default="standard",
        help="<prompt>-<0..4>.mp4, or numbered files with prompts.json (default: standard)",
    )
    parser.add_argument("--link", action="store_true", help="symbolic links instead of copies")
    parser.add_argument(
        "--full-info", type=Path, metavar="FILE", help="VBench_full_info.json: report the videos it would miss"
    )
    _add_dimensions(parser)


def _export(args: argparse.Namespace) -> int:
    from cac_align.metrics.export import export_videos, missing_videos, standard_prompts
    from cac_align.metrics.videos import find_videos

    check_output_folder(args.output)
    entries = find_videos(args.videos)
    folder = export_videos(entries, args.output, layout=args.layout, dimensions=args.dimensions, link=args.link)
    print(folder)
    command = ["python", "-m", "vbench.launch.evaluate", "--videos_path", str(folder)]
    if args.layout == "custom":
        command += ["--mode", "custom_input", "--prompt_file", str(args.output / "prompts.json")]
    else:
        command += ["--full_json_dir", str(args.full_info or args.output / "full_info.json")]
    print("in the package's environment, on a GPU:", shlex.join([*command, "--dimension", *args.dimensions]))
    if args.full_info is None:
        return 0
    missing = missing_videos(entries, standard_prompts(args.full_info, args.dimensions))
    for name in missing[:10]:
        print(f"missing  {printable(name)}")
    print(f"{len(missing)} videos of VBench's own list are missing")
    return 1 if missing else 0


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("full_info", type=Path, metavar="FILE", help="VBench's own VBench_full_info.json")
    parser.add_argument("--output", type=Path, required=True, metavar="TXT", help="one prompt per line")
    _add_dimensions(parser)


def _prompts(args: argparse.Namespace) -> int:
    from cac_align.metrics.export import standard_prompts, write_prompts

    prompts = standard_prompts(args.full_info, args.dimensions)
    print(f"{len(prompts)} prompts: {write_prompts(args.output, prompts)}")
    return 0


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="JSON", help="a *_eval_results.json of the package")


def _results(args: argparse.Namespace) -> int:
    from cac_align.metrics.results import read_results

    for dimension, result in read_results(args.results).items():
        print(f"{dimension:<24}{result.total:9.4f}  {len(result.videos)} videos")
        for path, score in sorted(result.videos.items()):
            print(f"{'':<24}{score:9.4f}  {printable(os.path.basename(path))}")  # noqa: PTH119 - a path of another machine
    return 0


STEPS = (
    ("score", "Score the videos of a folder; resumable, and parallel under accelerate.", _add_score, _score),
    ("install", "Create the environment of the real vbench package.", _add_install, _install),
    ("weights", "List the weights that exist, and the sources of the others.", _add_weights, _weights),
    ("export", "Write a folder of videos and prompt files for VBench's own scripts.", _add_export, _export),
    ("prompts", "Write VBench's prompts for some dimensions, one per line.", _add_prompts, _prompts),
    ("results", "Print a result file of the package.", _add_results, _results),
)
