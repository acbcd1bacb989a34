"""Digests of what the minis compute at fixed seeds, to show that a change of the code changes none of it.

    python benchmarks/golden.py --output before.json         # on the code before the change
    python benchmarks/golden.py --compare before.json        # after it: prints what differs, exit code 1 if anything
    python benchmarks/golden.py --part verdicts --compare before.json

Each part runs on one CPU thread, in two minutes or less:

- ``verdicts``: the embedded judge on 60 procedural videos: rewards, windows, boxes, reasons, the answers word for word;
- ``best_of_n``: five candidates drawn by wan-mini and judged: seeds, scores, frames, ``result.json``;
- ``flow_grpo``, ``stage3``: three steps each, and ``stage2``: twenty steps, of the mini presets cut short by their own
  settings: every tensor of the checkpoints, the states in JSON, the logged numbers, and the LoRA or judge written.

Only public names and documented commands are used, so the same script runs on both sides of a rearrangement. Digests
hold on one machine with the same versions of torch, diffusers and transformers: rounding differs between processors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before torch loads: the order of sums, and so their rounding, depends on the number of threads. The packages are those
# of this checkout, whatever else is installed.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="",
    TQDM_DISABLE="1",
)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
FORMAT = 1
PROMPT = "a yellow triangle moves right on a brown background"
#: Procedural videos of the judge's part; their seeds belong to no training and no bench.
NUM_VIDEOS, FIRST_SEED = 60, 910_000

#: Keys of JSON that change from run to run or from machine to machine: times, versions, places, and the digests that a
#: checkpoint holds of its files, those that are left out here among them.
VOLATILE = frozenset(
    {
        "digests",
        "seconds",
        "time",
        "date",
        "duration",
        "host",
        "hostname",
        "cac_align",
        "version",
        "versions",
        "diffusers_version",
        "_diffusers_version",
        "transformers_version",
        "peft_version",
        "output_dir",
        "logging_dir",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
    }
)
#: Names of logged numbers that begin so are times or memory.
VOLATILE_PREFIXES = ("seconds/", "memory/")
#: Files that hold prose, events with time stamps, pickled classes, or the random state of the whole process, which
#: starts anywhere: what is drawn comes from seeds of its own.
LEFT_OUT = ("README.md", "events.out.tfevents", "training_args.bin", "random_", "rng_state")


# --- digests ----------------------------------------------------------------------------------------------------------


def stable(value: Any, places: Mapping[str, str] | None = None) -> Any:
    """A JSON value without its volatile keys, and with the folders ``places`` in its texts by their names."""
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if k not in VOLATILE and not str(k).startswith(VOLATILE_PREFIXES)}
        return {k: stable(v, places) for k, v in kept.items()}
    if isinstance(value, list | tuple):
        return [stable(v, places) for v in value]
    if isinstance(value, str):
        for folder, name in (places or {}).items():
            value = value.replace(folder, name)
    return value


def digest(value: Any, places: Mapping[str, str] | None = None) -> str:
    """sha256 of a JSON value, whatever the order of its keys; numbers count to their last bit."""
    text = json.dumps(stable(value, places), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensors: Mapping[str, Any]) -> str:
    """sha256 of named tensors or arrays: names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = torch.as_tensor(tensors[name]).detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping, the way to a leaf as its name."""
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    else:
        return {name: value}
    return {key: leaf for k, v in pairs for key, leaf in flat(v, f"{name}/{k}" if name else str(k)).items()}


def state_digest(value: Any) -> str:
    """sha256 of what ``torch.save`` wrote: tensors by their bytes, everything else as JSON."""
    leaves = flat(value)
    tensors = {k: v for k, v in leaves.items() if isinstance(v, torch.Tensor)}
    plain = {
        k: v if isinstance(v, int | float | str | None) else repr(v) for k, v in leaves.items() if k not in tensors
    }
    return digest([tensor_digest(tensors), plain])


def file_digests(path: Path, name: str, places: Mapping[str, str]) -> dict[str, str]:
    """Digests of the content of one file by name; an object of JSON has one for each of its keys. Empty for a kind of
    file that is left out.
    """
    if path.name.startswith(LEFT_OUT):
        return {}
    match path.suffix:
        case ".safetensors":
            from safetensors.torch import load_file

            return {name: tensor_digest(load_file(path))}
        case ".pt" | ".bin":
            return {name: state_digest(torch.load(path, map_location="cpu", weights_only=True))}
        case ".mp4":
            return {name: tensor_digest({"frames": _decoded(path)})}
        case ".json" | ".jsonl":
            value = _json_of(path)
            entries = {f"{name}#{k}": v for k, v in stable(value).items()} if isinstance(value, dict) else {name: value}
            return {key: digest(entry, places) for key, entry in entries.items()}
    return {}


def _json_of(path: Path) -> Any:
    """The value of a JSON file, or the list of those of its lines."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def folder_digests(folder: Path) -> dict[str, str]:
    """Digests of all files of a folder by their relative paths."""
    places = {str(folder): "RUN", str(ROOT): "ROOT"}
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found |= file_digests(path, path.relative_to(folder).as_posix(), places)
    return found


def _decoded(path: Path) -> np.ndarray:
    """All frames of a video file, (T, H, W, 3) uint8."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# --- the parts --------------------------------------------------------------------------------------------------------


def verdicts(_: Path) -> dict[str, str]:
    """The embedded judge on procedural videos, every other one abnormal, all kinds in turn."""
    from cac_align import CaCReward
    from reward_model.world import KINDS, make_video

    kinds = list(KINDS)
    videos = [make_video(FIRST_SEED + k, kinds[k // 2 % len(kinds)] if k % 2 else None) for k in range(NUM_VIDEOS)]
    reward = CaCReward(str(ROOT / "assets/cac-mini"), all_readouts=True)
    said = reward.judge_batch([frames for frames, _ in videos], [truth.prompt for _, truth in videos], fps=16)
    rows = [verdict.to_dict() for verdict in said]
    anomalies = [row["anomalies"] for row in rows]
    return {
        "rewards": digest([[row["score"], row["log_odds"]] for row in rows]),
        "statuses": digest([row["status"] for row in rows]),
        "windows": digest([row["window"] for row in rows]),
        "boxes": digest([[[a["type"], a["frames"], a["boxes"]] for a in found] for found in anomalies]),
        "reasons": digest([[[a["reason"], a["region"], a["objects"]] for a in found] for found in anomalies]),
        "answers": digest([[turn["text"] for turn in row["turns"]] for row in rows]),
        "turns": digest([row["turns"] for row in rows]),
    }


def best_of_five(folder: Path) -> dict[str, str]:
    """The demo: five candidates of one prompt, with everything that is saved of them."""
    from diffusers import WanPipeline

    from cac_align import CaCReward, best_of_n

    pipe = WanPipeline.from_pretrained(ROOT / "assets/wan-mini")
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(str(ROOT / "assets/cac-mini"), all_readouts=True)
    size = {"height": 32, "width": 32, "num_frames": 81, "num_inference_steps": 20, "guidance_scale": 3.0}
    out = best_of_n(pipe, PROMPT, reward=reward, n=5, seed=0, output_dir=folder, progress_bar=False, **size)
    told = {
        "seeds": digest(out.seeds),
        "scores": digest(out.scores),
        "ranking": digest(out.ranking),
        "frames": tensor_digest({f"{k}": frames for k, frames in enumerate(out.candidates)}),
    }
    return told | folder_digests(folder)


def flow_grpo(folder: Path) -> dict[str, str]:
    """Three steps of the mini preset, with evaluations before and after, checkpoints and the LoRA."""
    small = ["batch=2x2", "sample_batch_size=2", "max_steps=3", "save_every=1", "eval_every=3", "eval_num_prompts=2"]
    return _trained(folder, "flow-grpo", "--config", "mini", "--set", *small, "log_videos_every=3")


def stage3(folder: Path) -> dict[str, str]:
    """Three steps of the mini preset, with checkpoints and the judge."""
    small = ["max_steps=3", "prompts_per_step=4", "num_generations=4", "data.rows=64", "save_steps=1", "warmup_steps=1"]
    return _trained(folder, "stage3", "--config", "mini", "--set", *small, "log_samples_every=1")


def stage2(folder: Path) -> dict[str, str]:
    """Twenty steps of the mini preset from the embedded judge, with a checkpoint, an evaluation and the judge."""
    small = ["max_steps=20", "per_device_train_batch_size=2", "warmup_steps=2", "save_steps=10", "eval_steps=20"]
    start = [f"model_name_or_path={ROOT / 'assets/cac-mini'}", "eval_samples=2", "dataloader_num_workers=0"]
    return _trained(folder, "stage2", "--config", "mini", "--set", *small, *start, "logging_steps=1")


def _trained(folder: Path, stage: str, *options: str) -> dict[str, str]:
    """``cac-align train STAGE`` into a folder, in a process of its own: its random state is nobody else's."""
    command = [sys.executable, "-m", "cac_align.cli", "train", stage, *options, f"output_dir={folder}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return folder_digests(folder)


PARTS: dict[str, Callable[[Path], dict[str, str]]] = {
    "verdicts": verdicts,
    "best_of_n": best_of_five,
    "flow_grpo": flow_grpo,
    "stage3": stage3,
    "stage2": stage2,
}


# --- the comparison ---------------------------------------------------------------------------------------------------


def run(names: Iterable[str]) -> dict[str, Any]:
    """The digests of these parts, and what they were made with."""
    parts = {}
    for name in names:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            parts[name] = PARTS[name](Path(folder) / "run")
        seconds = time.perf_counter() - began
        print(f"{name}: {len(parts[name])} digests in {seconds:.0f} s", file=sys.stderr, flush=True)
    packages = ("torch", "numpy", "diffusers", "transformers", "accelerate", "peft", "trl", "av")
    made_with = {"machine": platform.machine(), **{name: version(name) for name in packages}}
    return {"format": FORMAT, "made_with": made_with, "parts": parts}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A line for each digest of the parts in ``after`` that differs, is new or is gone."""
    lines = []
    for part, digests in after["parts"].items():
        known = before["parts"].get(part)
        if known is None:
            lines.append(f"{part}: not in the earlier file")
            continue
        for name in sorted(known.keys() | digests.keys()):
            if name not in digests:
                lines.append(f"{part}: {name} is gone")
            elif name not in known:
                lines.append(f"{part}: {name} is new")
            elif known[name] != digests[name]:
                lines.append(f"{part}: {name} differs")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts, writes or compares their digests; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="only these parts")
    parser.add_argument("--output", type=Path, help="write the digests to this JSON file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print what differs from an earlier --output")
    args = parser.parse_args(arguments)
    if args.output is None and args.compare is None:
        parser.error("give --output FILE to keep the digests, or --compare FILE to compare with kept ones")
    before = json.loads(args.compare.read_text(encoding="utf-8")) if args.compare else None
    if before is not None and before.get("format") != FORMAT:
        parser.error(f"--compare {args.compare} has format {before.get('format')!r}; make it again with --output")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    torch.set_num_threads(1)
    after = run(args.part)
    if args.output:
        args.output.write_text(json.dumps(after, indent=1) + "\n", encoding="utf-8")
    if before is None:
        return 0
    for package, found in after["made_with"].items():
        if before["made_with"].get(package) != found:
            print(f"made with {package} {before['made_with'].get(package)} before, {found} now: digests may differ")
    lines = differences(before, after)
    count = sum(len(digests) for digests in after["parts"].values())
    print("\n".join(lines) if lines else f"all {count} digests are the same")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
