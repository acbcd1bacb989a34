"""What a CUDA device makes of the real sizes, in under eight minutes, with random weights.

    python benchmarks/device.py --output benchmarks/results           # writes device.json and device.md there
    python benchmarks/device.py --part judge

Four parts, each a process of its own under a time limit of its own; rows are written as they come, so that a part that
is stopped keeps what it has:

- ``judge``: Qwen3-VL-8B, two turns on eight clips of 81 frames 480x832, batched and one ``generate`` a turn, and the
  verdict without reasoning; answers of a fixed length;
- ``wan``: a forward of Wan-2.1-1.3B at 480x832x81 by every installed attention backend;
- ``step``: a step of Flow-GRPO at the size of the 80 GB preset, cut to few steps, beside a plain loop and the strict
  official path; peak memory beside the plan's, replay noise beside the clip range;
- ``vae``: the VAE in float32, and a file decoded on the CPU.

Without CUDA it says so and runs the same code at tiny sizes, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from device_models import FULL, SIZES, TINY
from device_parts import PARTS

from reward_model.files import write_text

PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "peft", "av")


def facts() -> dict[str, Any]:
    """The device and the software."""
    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if cuda else f"CPU, {platform.machine()}"}
    if cuda:
        found["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        found["cuda"] = torch.version.cuda
    return {**found, "cores": os.cpu_count(), "versions": {name: version(name) for name in PACKAGES}}


def run_part(name: str, size: str, limit: float) -> dict[str, Any]:
    """Rows of a part, how long it took and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        command = [sys.executable, __file__, "--part", name, "--size", size, "--rows", str(rows)]
        started, status = time.perf_counter(), "done"
        with log.open("w") as output:
            try:
                code = subprocess.run(command, stdout=output, stderr=output, timeout=limit, check=False).returncode
            except subprocess.TimeoutExpired:
                status = f"stopped at its limit of {limit:g} s"
            else:
                if code:
                    said = log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
                    status = f"failed: {said[-1]}"
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    seconds = round(time.perf_counter() - started, 1)
    return {"status": status, "seconds": seconds, "rows": [json.loads(line) for line in lines]}


def measure(name: str, size: str, rows: Path) -> None:
    """A part in this process: a line of JSON in ``rows`` for each figure, as soon as it is known."""
    job, _ = PARTS[name]
    with rows.open("a", encoding="utf-8") as output:
        for row in job(SIZES[size]):
            output.write(json.dumps(row) + "\n")
            output.flush()


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = ["# What a device makes of the real sizes", "", f"    {found['command']}", ""]
    lines += [f"{found['device']}, {found['cores']} cores; {versions}; {found['date']}. Random weights."]
    if found["size"] != FULL.name:
        lines += ["", "**No CUDA device: tiny sizes, to see that the code runs. The figures mean nothing.**"]
    for name, part in found["parts"].items():
        lines += ["", f"## {name}", "", f"{part['status']}, {part['seconds']:g} s", ""]
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
        if columns:
            lines += ["| " + " | ".join(["", *columns[1:]]) + " |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in part["rows"]]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else f"{value:.4g}"
    return text.replace("|", "\\|")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="this part alone; may be given more than once")
    parser.add_argument("--output", type=Path, default=None, help="folder for device.json and device.md")
    parser.add_argument("--size", choices=SIZES, default=None, help="by default full on CUDA, else tiny")
    parser.add_argument("--rows", type=Path, default=None, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = parser().parse_args()
    size = args.size or (FULL if torch.cuda.is_available() else TINY).name
    if args.rows:
        measure(args.part[0], size, args.rows)
        return
    if not torch.cuda.is_available():
        print("no CUDA device: the same code at tiny sizes, whose figures mean nothing", file=sys.stderr)
    command = " ".join(["python benchmarks/device.py", *sys.argv[1:]])
    found = {"command": command, "date": time.strftime("%Y-%m-%d"), "size": size, **facts(), "parts": {}}
    for name in args.part or PARTS:
        limit = PARTS[name][1] * (1 if size == FULL.name else 10)  # a busy CPU takes a minute to load the libraries
        print(f"{name}: at most {limit} s ...", file=sys.stderr, flush=True)
        found["parts"][name] = run_part(name, size, limit)
        print(f"{name}: {found['parts'][name]['status']}", file=sys.stderr, flush=True)
        if args.output:
            write_text(args.output / "device.json", json.dumps(found, indent=1) + "\n")
            write_text(args.output / "device.md", page(found))
    print(page(found), end="")
    if any(part["status"] != "done" for part in found["parts"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
