"""Records what the real ``vbench`` package says of the stand-in videos and weights, into ``vbench_recorded.json``.

    cac-align vbench install
    git clone https://github.com/facebookresearch/dino /tmp/dino
    python tests/cac_align/metrics/record_vbench.py --dino /tmp/dino

``--dino`` is the code that the package fetches through torch.hub for subject consistency.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from vbench_standins import DIMENSIONS, write_videos, write_weights

from cac_align.metrics.package import VBenchPackage
from cac_align.metrics.weights import RAFT_THINGS
from reward_model.files import write_json

RECORDED = Path(__file__).with_name("vbench_recorded.json")

#: The package keeps the strengths of the motion to itself; this lets its own class say them.
_STRENGTHS = """
import json, sys, torch
from easydict import EasyDict
from vbench.dynamic_degree import DynamicDegree
args = EasyDict(model=sys.argv[1], small=False, mixed_precision=False, alternate_corr=False)
model = DynamicDegree(args, torch.device("cpu"))
kept = []
model.check_move = kept.append
for path in sys.argv[2:]:
    model.infer(path)
print(json.dumps(kept))
"""


def record(folder: Path, python: Path | None, dino: Path | None) -> dict[str, Any]:
    """The package's values and totals by dimension; without DINO's code, without subject consistency.

    Args:
        folder: scratch space, 0.5 GB.
    """
    cache = write_weights(folder / "cache")
    dimensions = [d for d in DIMENSIONS if dino is not None or d != "subject_consistency"]
    if dino is not None:
        shutil.copytree(
            dino, cache / "dino_model" / "facebookresearch_dino_main", ignore=shutil.ignore_patterns(".git")
        )
    videos = write_videos(folder / "videos")
    # Torch's own cache would win over the stand-in.
    os.environ["TORCH_HOME"] = str(folder / "torch")
    package = VBenchPackage(python, cache_dir=cache, device="cpu")
    answer = package.run([str(p) for p in videos.values()], dimensions, list(videos), folder)["dimensions"]
    found = {}
    for dimension in dimensions:
        if answer[dimension]["errors"]:
            raise SystemExit(f"{dimension}: {answer[dimension]['errors']}")
        values = answer[dimension]["values"]
        found[dimension] = {
            "total": answer[dimension]["total"],
            "videos": {n: values[str(k)] for k, n in enumerate(videos)},
        }
    command = [str(package.python), "-c", _STRENGTHS, str(cache / RAFT_THINGS.path), *map(str, videos.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    strengths = json.loads(done.stdout.strip().splitlines()[-1])
    return {"dimensions": found, "strengths": dict(zip(videos, strengths, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=None, help="of the package's environment")
    parser.add_argument("--dino", type=Path, required=True, help="a checkout of facebookresearch/dino")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_json(RECORDED, record(Path(folder), args.python, args.dino))
    print(RECORDED)


if __name__ == "__main__":
    main()
