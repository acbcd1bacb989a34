"""Seconds per video of each hook against the real ``vbench`` package: same videos, same weights, one run.

    cac-align vbench install
    python benchmarks/metrics.py --videos outputs/videos --rounds 3 --output outputs/benchmarks/metrics.md
    python benchmarks/metrics.py --random-weights outputs/random-vbench --output benchmarks/results/metrics.md

Each measurement is a process of its own that loads the networks first and then scores every video, ours and the
package's in turns; what is printed is the median over the rounds of the scoring time, without imports and loading, and
the peak memory of the process. On a busy machine read the CPU seconds. ``ours, together`` decodes each video once for
all dimensions. The scores of both are compared, so that a faster wrong answer would show. A dimension whose weights are
missing is left out and said so. ``--random-weights`` makes weights of the real sizes, and two videos if there are none;
the package then still wants DINO's source code in FOLDER/dino_model/facebookresearch_dino_main.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cac_align.metrics.dimensions import NATIVE, check_dimension
from cac_align.metrics.environment import find_python
from cac_align.metrics.package import VBenchPackage
from cac_align.metrics.videos import find_videos
from cac_align.metrics.weights import WeightsError, cache_root
from reward_model.files import write_text

#: Both sides end with one JSON line: seconds, peak MiB of the process and of the GPU, scores by dimension. Linux only:
#: of the peak that getrusage reports, a child takes its parent's over.
_OURS = r"""
import json, re, sys, time
from pathlib import Path
import torch
from cac_align.metrics import MetricSuite
names, cache, device, batch, paths = json.loads(sys.argv[1])
suite = MetricSuite(names, cache_dir=cache, device=device, batch_size=batch, strict=True)
suite.load()
suite.evaluate(paths[:1])
cuda = str(device).startswith("cuda")
if cuda:
    torch.cuda.reset_peak_memory_stats()
start, start_cpu = time.perf_counter(), time.process_time()
found = suite.evaluate([Path(p) for p in paths])
seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
print(json.dumps({
    "seconds": seconds,
    "cpu_seconds": cpu,
    "peak_mib": int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024,
    "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
    "scores": {n: [f.scores[n] for f in found] for n in names},
}))
"""
#: The package loads its networks inside the call; they are timed by a call for the first video alone, which is taken
#: away: (all + first) - first.
_PACKAGE = r"""
import json, os, re, sys, time
names, cache, device, batch, paths = json.loads(sys.argv[1])
os.environ["VBENCH_CACHE_DIR"] = cache
sys.path.insert(0, sys.argv[2])
import tempfile, torch
from package_worker import score
device = torch.device(device)
[name] = names
job = {"videos": paths[:1], "prompts": [""], "cache_dir": cache, "work_dir": tempfile.mkdtemp()}
score(name, job, device)
start, start_cpu = time.perf_counter(), time.process_time()
score(name, job, device)
first, first_cpu = time.perf_counter() - start, time.process_time() - start_cpu
job |= {"videos": paths[:1] + paths, "prompts": [""] * (len(paths) + 1)}
start, start_cpu = time.perf_counter(), time.process_time()
found = score(name, job, device)
both, both_cpu = time.perf_counter() - start, time.process_time() - start_cpu
print(json.dumps({
    "seconds": both - first,
    "cpu_seconds": both_cpu - first_cpu,
    "peak_mib": int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024,
    "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
    "scores": {name: [found["values"][k + 1] for k in range(len(paths))]},  # 0 is the first video again
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=None, help="folder of mp4 files")
    parser.add_argument("--dimensions", nargs="+", default=list(NATIVE), metavar="NAME")
    parser.add_argument("--python", type=Path, default=None, help="of the package's environment")
    parser.add_argument("--cache-dir", type=Path, default=None, help="VBench's weights")
    parser.add_argument("--random-weights", type=Path, default=None, metavar="FOLDER", help="make weights here")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16, help="frames at once, ours; the package decides itself")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="write the tables as Markdown")
    args = parser.parse_args()
    if args.random_weights is not None:
        args.cache_dir = args.random_weights
        args.videos = make_material(args.random_weights, args.videos)
    if args.videos is None:
        parser.error("--videos FOLDER is missing; only --random-weights makes its own")

    paths = [str(entry.path.absolute()) for entry in find_videos(args.videos)]
    cache = str(cache_root(args.cache_dir).absolute())
    names = [n for n in args.dimensions if _has_weights(n, cache)]
    python = find_python(args.python)
    kinds: dict[str, tuple[Path, str, list[str]]] = {}
    for name in names:
        kinds[f"ours, {name}"] = (Path(sys.executable), _OURS, [name])
        kinds[f"package, {name}"] = (python, _PACKAGE, [name])
    kinds["ours, together"] = (Path(sys.executable), _OURS, names)
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        home = VBenchPackage(python, cache_dir=cache, device=args.device).make_torch_home(Path(folder))
        for _ in range(args.rounds):
            for kind, (interpreter, code, wanted) in kinds.items():
                question = json.dumps([wanted, cache, args.device, args.batch_size, paths])
                runs[kind].append(_run(interpreter, code, question, home))
    text = report(args, len(paths), {kind: _summary(found, len(paths)) for kind, found in runs.items()}, runs)
    print(text)
    if args.output:
        write_text(args.output, text)


def report(args: argparse.Namespace, count: int, figures: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> str:
    """All figures as Markdown."""
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    weights = "random weights of the real sizes" if args.random_weights else f"weights of {args.cache_dir}"
    lines = [
        "# VBench's metrics, here and in the package",
        "",
        f"    {' '.join(['python', 'benchmarks/metrics.py', *sys.argv[1:]])}",
        "",
        f"{args.device}, {threads} thread(s) of {os.cpu_count()}, torch {version('torch')}, load "
        f"{os.getloadavg()[0]:.1f} at the end; {count} videos, {weights}, {args.rounds} round(s) in turn.",
        "",
        "| | s/video | range | processor s/video | peak MiB | GPU MiB |",
        "|---|---|---|---|---|---|",
    ]
    for kind, f in figures.items():
        gpu = "-" if f["gpu_mib"] is None else f"{f['gpu_mib']:.0f}"
        lines.append(
            f"| {kind} | {f['seconds_per_video']:.2f} | {f['low']:.2f} to {f['high']:.2f} "
            f"| {f['cpu_seconds_per_video']:.2f} | {f['peak_mib']:.0f} | {gpu} |"
        )
    lines += [
        "",
        "| package / ours | seconds | processor | largest difference of a score |",
        "|---|---|---|---|",
    ]
    names = [kind.removeprefix("package, ") for kind in figures if kind.startswith("package, ")]
    for name in names:
        ratios = (_ratio(figures, key, [name], f"ours, {name}") for key in ("seconds", "cpu_seconds"))
        lines.append("| {} | {:.2f} | {:.2f} | {:.1e} |".format(name, *ratios, _gap(name, runs)))
    ratios = (_ratio(figures, key, names, "ours, together") for key in ("seconds", "cpu_seconds"))
    return "\n".join([*lines, "| all, ours together | {:.2f} | {:.2f} | |".format(*ratios), ""])


def _ratio(figures: dict[str, Any], key: str, names: list[str], ours: str) -> float:
    """How many times as long the package takes for these dimensions, one after another."""
    package = sum(figures[f"package, {name}"][f"{key}_per_video"] for name in names)
    return float(package / figures[ours][f"{key}_per_video"])


def make_material(folder: Path, videos: Path | None) -> Path:
    """Random weights of the real sizes in ``folder``, unless they are there, and two videos if none are given: 9 frames
    of 240 x 416 at 8 fps. Returns the folder of the videos.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cac_align" / "metrics"))
    from vbench_standins import moving_texture, write_weights

    from reward_model.video.writing import LOSSLESS_H264, write_video

    done = folder / "complete"
    if not done.is_file():
        write_weights(folder, full_clip=True)
        write_text(done, "random weights of the real sizes\n")
    if videos is None:
        videos = folder / "videos"
        videos.mkdir(exist_ok=True)
        for seed, speed in ((1, 2), (2, 9)):
            write_video(
                videos / f"texture-{seed}.mp4", moving_texture(9, 240, 416, speed, seed=seed), 8.0, LOSSLESS_H264
            )
    return videos


def _has_weights(name: str, cache: str) -> bool:
    try:
        for weights in check_dimension(name).weights:
            weights.find(cache)
    except WeightsError as error:
        print(f"left out: {name}: {error}")
        return False
    return True


def _run(interpreter: Path, code: str, question: str, torch_home: Path) -> dict[str, Any]:
    home = Path(__file__).resolve().parents[1]
    ours = interpreter == Path(sys.executable)
    environment = {**os.environ, "PYTHONPATH": str(home) if ours else "", "TORCH_HOME": str(torch_home)}
    command = [str(interpreter), "-c", code, question, str(home / "cac_align" / "metrics")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{interpreter} failed: {done.stderr.strip()[-800:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _summary(runs: list[dict[str, Any]], count: int) -> dict[str, Any]:
    seconds = [run["seconds"] / count for run in runs]
    gpu = [run["gpu_mib"] for run in runs if run["gpu_mib"] is not None]
    return {
        "seconds_per_video": statistics.median(seconds),
        "cpu_seconds_per_video": statistics.median(run["cpu_seconds"] / count for run in runs),
        "low": min(seconds),
        "high": max(seconds),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "gpu_mib": max(gpu) if gpu else None,
    }


def _gap(name: str, runs: dict[str, list[dict[str, Any]]]) -> float:
    """The largest difference of a video's score, on the scale of the package's total."""
    ours, theirs = (runs[f"{side}, {name}"][0]["scores"][name] for side in ("ours", "package"))
    scale = check_dimension(name).per_video_scale
    return max(abs(a - b / scale) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
