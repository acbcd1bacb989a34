"""Runs inside the environment of the real ``vbench`` package, which shares no module with ours: standard library and
``vbench`` only.

    python package_worker.py JOB.json ANSWER.json

The job names videos (mp4 files), prompts, dimensions, device and cache folder. The answer holds, for each dimension,
the package's own per-video values and total, and for videos it broke on the reason. One broken video makes the package
drop a whole dimension; the list is then halved until the culprit stands alone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def main() -> None:
    """Reads the job, asks the package, writes the answer whole."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.environ["VBENCH_CACHE_DIR"] = job["cache_dir"]
    Path(job["work_dir"]).mkdir(parents=True, exist_ok=True)
    import torch

    device = torch.device(job["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    answer = {"dimensions": {dimension: score(dimension, job, device) for dimension in job["dimensions"]}}
    temporary = Path(sys.argv[2] + ".part")
    temporary.write_text(json.dumps(answer), encoding="utf-8")
    temporary.replace(sys.argv[2])


def score(dimension: str, job: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """``{"total", "values": {index: value}, "errors": {index: text}}`` of one dimension; ``total`` is None if a video
    broke it.
    """
    answer: dict[str, Any] = {"total": None, "values": {}, "errors": {}}
    everything = list(range(len(job["videos"])))
    waiting = [everything]
    while waiting:
        chosen = waiting.pop(0)
        try:
            total, results = compute(dimension, job, chosen, device)
        except Exception as error:  # the package raises whatever comes its way
            traceback.print_exc()
            if len(chosen) == 1:
                answer["errors"][chosen[0]] = f"{type(error).__name__}: {error}"
            else:
                middle = len(chosen) // 2
                waiting += [chosen[:middle], chosen[middle:]]
            continue
        if chosen == everything:
            answer["total"] = float(total)
        by_path = {Path(job["videos"][k]).absolute(): k for k in chosen}
        for entry in results:
            answer["values"][by_path[Path(entry["video_path"]).absolute()]] = float(entry["video_results"])
    return answer


def compute(dimension: str, job: dict[str, Any], chosen: list[int], device: torch.device | str) -> Any:
    """The package's own function for a dimension, on some of the videos."""
    from vbench.utils import init_submodules

    # Weights of these are read from the cache in "local mode" only, and downloaded otherwise.
    local = {
        "subject_consistency": "dino_model/facebookresearch_dino_main",
        "background_consistency": "clip_model/ViT-B-32.pt",
        "aesthetic_quality": "clip_model/ViT-L-14.pt",
    }.get(dimension)
    information = Path(job["work_dir"]) / f"{dimension}_full_info.json"
    entries = [
        {"prompt_en": job["prompts"][k], "dimension": [dimension], "video_list": [job["videos"][k]]} for k in chosen
    ]
    information.write_text(json.dumps(entries), encoding="utf-8")
    there = local is not None and (Path(job["cache_dir"]) / local).exists()
    modules = init_submodules([dimension], local=there, read_frame=False)[dimension]
    module = importlib.import_module(f"vbench.{dimension}")
    # Motion smoothness compares the device with a word.
    where = str(device) if dimension == "motion_smoothness" else device
    return getattr(module, f"compute_{dimension}")(str(information), where, modules)


if __name__ == "__main__":
    main()
