"""The table of the short way on own footage, from the rows that the evaluation writes."""

import json
import sys
from pathlib import Path

import numpy as np

from reward_model.evaluation.running.suite import run_suite
from reward_model.video.writing import write_video

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_verdicts_are_counted_by_kind_of_corruption(load_recipe, judge_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import own_footage

    lines = []
    for kind in ("normal", "freeze"):
        write_video(tmp_path / f"{kind}.mp4", np.zeros((9, 48, 48, 3), np.uint8), 8)
        found = [
            {"type": "Motion Anomalies", "frames": [2, 6], "boxes": {"2": [[0, 0, 500, 500]]}, "reason": "it stands"}
        ]
        facts = {"num_frames": 9, "fps": 8.0, "width": 48, "height": 48, "prompt": "", "operator": kind}
        stated = (
            {"status": "normal", "anomalies": []} if kind == "normal" else {"status": "abnormal", "anomalies": found}
        )
        lines.append(json.dumps({"video": f"{kind}.mp4", "video_id": f"clip-{kind}", **facts, **stated}))
    annotations = tmp_path / "annotations.jsonl"
    annotations.write_text("\n".join(lines) + "\n")
    arguments = ["--models", f"tiny={judge_folder}", "--bench", annotations, "--output", tmp_path / "out"]
    recipe = load_recipe("evaluate_reward")
    asked = recipe.parser().parse_args([*map(str, arguments)])
    run_suite(recipe._contestants(asked), recipe._benches(asked), asked.output, num_resamples=20)
    (rows,) = (tmp_path / "out").glob("rows/*/*.jsonl")
    counts = own_footage.by_kind(annotations, rows)
    assert {kind: n for kind, (_, n) in counts.items()} == {"normal": 1, "freeze": 1}
    assert sum(line.startswith("| recall of freeze |") for line in own_footage.table(counts)) == 1
    sys.modules.pop("own_footage")
