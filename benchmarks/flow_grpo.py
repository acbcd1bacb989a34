"""How fast a Flow-GRPO step is, phase by phase, each figure beside its alternatives in the same run.

    python benchmarks/flow_grpo.py
    python benchmarks/flow_grpo.py --output benchmarks/results/flow_grpo.md

Ways to do a step on the same number of videos of one size, with wan-mini and the embedded judge, in alternating rounds:

1. ``fast``: our trainer with the preset for 80 GB (``wan21_1p3b_80gb.yaml``), brought to mini size;
2. ``plain``: the same maths (kernel, window, samples, objective), written as a first version would be
   (``flow_grpo_plain.py``): the texts encoded at every call, all latents kept, two calls for guidance, and no drawing
   while the judge works;
3. ``strict``: our trainer with the public Flow-GRPO formula for Wan (``strict_official.yaml``), brought to mini size;
4. ``fast, shared`` and ``fast, not shared``: as ``fast``, but all videos of a group from the same first latents, with
   the steps before the window drawn once for a group, and without;
5. ``grpo``, ``guard``, ``dppo``, ``nft``, ``rvm``: the preset of each objective (six steps, no guidance), the first
   three with the window of ``grpo.yaml``, shared and not.

Before anything is timed, ``fast`` and ``plain`` take a step from the same weights, and the largest differences of their
latents, log-probs and updated adapters are printed. Seconds are given twice: on the clock, which overlapped judging
shortens, and of the processor, which hardly depends on what else the machine does. Memory is that of a process of its
own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

# Before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import torch
from flow_grpo_timed import CONFIGS, MINI, PHASES, PRESETS, WAYS, Clock, Ours, watched_plain

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import build_reward
from reward_model.engine.settings import read_yaml
from reward_model.files import write_text

MIB = 2**20


def way_settings(name: str, *, batch: str, call: int, folder: str) -> dict[str, Any]:
    """Settings of a way: its preset, brought to the minis and to videos of one size, judged as the next are drawn."""
    file, changes = WAYS[name]
    amount = {"batch": batch, "sample_batch_size": call, "reward_mode": "thread", "output_dir": folder}
    return {**read_yaml(CONFIGS / file), **MINI, **changes, **amount}


class Contestant:
    """One way of doing a step: :meth:`measure` does one and says what it took."""

    def __init__(self, name: str, args: argparse.Namespace, reward: Any) -> None:
        self.name, self.clock = name, Clock()
        self._folder = tempfile.TemporaryDirectory()
        chosen = way_settings(name, batch=args.batch, call=args.call, folder=self._folder.name)
        self.config = FlowGRPOConfig.from_dict(chosen)
        self.run: Any = (watched_plain if name == "plain" else Ours)(self.config, reward, self.clock)
        self.rows = 0
        self.run.transformer.blocks[0].register_forward_pre_hook(self._count)

    def _count(self, module: Any, args: tuple[Any, ...]) -> None:
        self.rows += len(args[0])

    def measure(self) -> dict[str, float]:
        """Seconds of each phase and of all of one step, and ``forwards``: one video, one side of guidance each."""
        self.rows = 0
        began = time.process_time()
        self.clock.start()
        self.run.step()
        seconds, busy = self.clock.stop(), time.process_time() - began
        return {**seconds, "all": sum(seconds.values()), "processor": busy, "forwards": float(self.rows)}


def differences(fast: Contestant, plain: Contestant) -> dict[str, float]:
    """The largest differences between two contestants that have taken the same step from the same weights."""
    found = {"latents": 0.0, "next latents": 0.0, "log-prob": 0.0, "adapter after the update": 0.0}
    for ours, theirs in zip(fast.run.records(), plain.run.records(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if a.step != b.step or len(a.latents) != len(b.latents):
                raise RuntimeError(f"step {a.step} of {len(a.latents)} videos meets step {b.step} of {len(b.latents)}")
            for name, one, other in (
                ("latents", a.latents, b.latents),
                ("next latents", a.next_latents, b.next_latents),
                ("log-prob", a.log_prob, b.log_prob),
            ):
                found[name] = max(found[name], float((one.cpu() - other.cpu()).abs().max()))
    for one, other in zip(fast.run.parameters, plain.run.parameters, strict=True):
        found["adapter after the update"] = max(
            found["adapter after the update"], float((one.detach().cpu() - other.detach().cpu()).abs().max())
        )
    return found


def peak_memory(name: str, args: argparse.Namespace) -> dict[str, float]:
    """MiB of a process that takes a step: ``ready`` before it, ``peak`` at most, ``records`` what the step keeps."""
    command = [sys.executable, __file__, "--batch", args.batch, "--call", str(args.call), "--memory-of", name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure_memory(name: str, args: argparse.Namespace) -> None:
    """What :func:`peak_memory` starts: prints its figures as JSON."""
    contestant = Contestant(name, args, build_reward(MINI["rewards"]))
    process, over = psutil.Process(), threading.Event()
    ready = peak = process.memory_info().rss / MIB

    def look() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, process.memory_info().rss / MIB)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    contestant.run.step()
    over.set()
    watcher.join()
    if torch.cuda.is_available():
        ready, peak = 0.0, torch.cuda.max_memory_allocated() / MIB
    print(json.dumps({"ready": ready, "peak": peak, "records": contestant.run.record_bytes() / MIB}))


def spread(values: list[float], digits: int = 1) -> str:
    """``min / median / max``."""
    return " / ".join(f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))


def report(runs: dict[str, Contestant], rows: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> str:
    """The tables as Markdown."""
    first = next(iter(runs.values())).config
    lines = [
        f"{first.samples_per_step} videos a step, {first.num_frames} frames of {first.height}x{first.width}, "
        f"{first.sample_batch_size} a call; {args.repeats} rounds in turn after one that does not count. Seconds of a "
        "step: min / median / max.",
        "",
        "| | steps, trained | forwards | on the clock | of the processor | clock: " + " | ".join(PHASES) + " |",
        "|---" * (5 + len(PHASES)) + "|",
    ]
    for name, run in runs.items():
        phases = " | ".join(f"{statistics.median(r[p] for r in rows[name]):.2f}" for p in PHASES)
        lines.append(
            f"| {name} | {run.config.num_inference_steps}, {run.config.num_trained_steps} "
            f"| {statistics.fmean(r['forwards'] for r in rows[name]):.0f} | {spread([r['all'] for r in rows[name]])} "
            f"| {spread([r['processor'] for r in rows[name]])} | {phases} |"
        )
    lines += [
        "",
        "Forwards: of the transformer, for one video and one side of guidance, with and without gradient, the mean of",
        "the rounds. Phases: median seconds of the thread that draws; `judge` is its wait; `text` of all but `plain`",
        "reads the cache.",
        "",
        "| ratio of | forwards | clock, round by round: min / median / max | clock, fastest | processor, fastest |",
        "|---|---|---|---|---|",
    ]
    for slow, quick in compared(list(runs)):
        pairs = [b["all"] / a["all"] for a, b in zip(rows[quick], rows[slow], strict=True)]
        lows = [min(r[kind] for r in rows[slow]) / min(r[kind] for r in rows[quick]) for kind in ("all", "processor")]
        counts = [statistics.fmean(r["forwards"] for r in rows[name]) for name in (slow, quick)]
        lines.append(
            f"| {slow} / {quick} | {counts[0] / counts[1]:.2f} | {spread(pairs, 2)} | {lows[0]:.2f} | {lows[1]:.2f} |"
        )
    return "\n".join(lines)


def compared(names: list[str]) -> list[tuple[str, str]]:
    """Pairs of ways, the slower first: plain with fast, strict with every other way of ours, shared with not shared."""
    pairs = [("plain", "fast")]
    pairs += [("strict", name) for name in names if name not in ("plain", "strict") and not name.endswith("not shared")]
    pairs += [(name.replace("shared", "not shared"), name) for name in names if name.endswith(", shared")]
    return [(slow, quick) for slow, quick in pairs if slow in names and quick in names]


def memory_table(names: list[str], args: argparse.Namespace) -> str:
    """Peak memory of each in a process of its own."""
    lines = [
        "| | process before the steps (MiB) | at most (MiB) | added | records of a step |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        found = peak_memory(name, args)
        added = found["peak"] - found["ready"]
        lines.append(f"| {name} | {found['ready']:.0f} | {found['peak']:.0f} | {added:.0f} | {found['records']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds; every way takes one step in each")
    parser.add_argument("--batch", default="2x2", help="prompts x videos of each in a step")
    parser.add_argument("--call", type=int, default=1, help="videos of one pipeline call")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="the ways to do a step")
    parser.add_argument("--output", type=Path, default=None, help="write the tables as Markdown")
    parser.add_argument("--memory-of", choices=PRESETS, default=None, help="print the memory of one way as JSON")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} must be at least 1")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    if args.memory_of:
        measure_memory(args.memory_of, args)
        return
    reward = build_reward(MINI["rewards"])  # one judge for all
    runs = {name: Contestant(name, args, reward) for name in args.only}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    found: dict[str, float] = {}
    for number in range(args.repeats + 1):
        for name, run in runs.items():
            measured = run.measure()
            print(f"round {number}, {name}: {measured['all']:.1f} s", file=sys.stderr, flush=True)
            if number:  # the first round warms up, and is the one whose weights are equal
                rows[name].append(measured)
        if {"fast", "plain"} <= runs.keys():
            found = found or differences(runs["fast"], runs["plain"])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"
    kept = [name for name in PRESETS if name in runs]
    same = "".join(f"- {name}: {value:.2g}\n" for name, value in found.items())
    text = (
        f"# Flow-GRPO, a step with the minis\n\n    python benchmarks/flow_grpo.py {shlex.join(sys.argv[1:])}\n\n"
        f"{device} of {os.cpu_count()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the end\n\n"
        f"{report(runs, rows, args)}\n\n"
        + (f"Largest differences of `fast` and `plain` in the first step:\n\n{same}\n" if same else "")
        + (f"{memory_table(kept, args)}\n" if kept else "")
    )
    print(text)
    if args.output:
        write_text(args.output, text)


if __name__ == "__main__":
    main()
