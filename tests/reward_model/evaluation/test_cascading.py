"""The recipe of the cascade on a tiny judge: bounds into judge.json, a comparison in one run, resumed."""

import json
import shutil

import pytest

from reward_model.config import load_judge_config
from reward_model.evaluation.running.cascading import FULL, CascadeRow, cascade_table
from reward_model.minis.model import build_judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge")
    for part in build_judge("tiny"):
        part.save_pretrained(path)
    limits = {"max_scan_tokens": 4, "max_zoom_tokens": 4, "max_scan_frames": 5}
    settings = {"prompts": "compact", "frame_size": 32, "readouts": ["log_odds", "paper"], "demo_scale": True, **limits}
    (path / "judge.json").write_text(json.dumps(settings))
    return path


@pytest.mark.slow
def test_calibrate_writes_bounds_and_measure_compares_in_one_run(folder, load_recipe, tmp_path, capsys):
    recipe, model, output = load_recipe("cascade"), tmp_path / "judge", tmp_path / "out"
    shutil.copytree(folder, model)
    common = ["--model", str(model), "--device", "cpu", "--output", str(output), "--batch-size", "6"]
    asked = [*common, "--videos", "12", "--error", "0.4", "--confidence", "0.8", "--mode", "scores", "--write"]
    assert recipe.main(["calibrate", *asked]) == 0
    record = json.loads((output / "calibration.json").read_text())
    told = record["bounds"]["scores"]
    known = load_judge_config(model)
    assert (known.cascade, known.cascade_error) == ("scores", 0.4)
    assert (known.normal_above, known.abnormal_below) == (told["normal_above"], told["abnormal_below"])
    assert told["num_videos"] == 12 and record["curve"] and record["seed"] == 900_000
    # The videos are judged already: the same call judges none of them again.
    stamp = (output / "rows.jsonl").read_bytes()
    assert recipe.main(["calibrate", *asked[:-1], "--error", "0.5"]) == 0
    assert (output / "rows.jsonl").read_bytes() == stamp
    assert recipe.main(["measure", *common, "--bench", "dev", "--videos", "4", "--modes", "scores"]) == 0
    lines = [json.loads(line) for line in (output / "dev-rows.jsonl").read_text().splitlines()]
    assert [line["setting"] for line in lines] == ["full"] * 4 + ["scores"] * 4
    assert {line["decided_by"] for line in lines[:4]} == {"reasoning"}
    assert "scores" in capsys.readouterr().out


def test_what_cannot_work_is_said_before_a_model_loads(folder, load_recipe, tmp_path):
    recipe = load_recipe("cascade")
    for step, rest, said in (
        ("calibrate", ["--bench", "main"], "is reported"),
        ("calibrate", ["--model", str(tmp_path), "--write"], "not a folder with a judge.json"),
        ("measure", ["--bounds", str(tmp_path / "none.json")], "there is no such file"),
        ("measure", ["--batch-size", "0"], "batch_size=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            recipe.main([step, "--model", str(folder), *rest])


def test_the_table_compares_with_the_full_judge():
    def row(index, setting, status, normal, window, seconds, decided="reasoning", boxes=0):
        score = 0.9 if status == "normal" else 0.1
        return CascadeRow(index, setting, normal, status, score, decided, 0.0, window, boxes, seconds)

    rows = [
        row(0, FULL, "normal", True, None, 3.0),
        row(1, FULL, "abnormal", False, (4, 8), 6.0, boxes=2),
        row(0, "windows", "normal", True, None, 1.0, "readout"),
        row(1, "windows", "abnormal", False, (4, 8), 2.0, "readout"),
    ]
    table = cascade_table(rows, "two videos")
    full, windows = (dict(zip(table.columns, r, strict=True)) for r in table.rows)
    assert (windows["times full"], windows["decided early"], windows["same window"]) == (3.0, 1.0, 1.0)
    assert (windows["with boxes"], full["with boxes"], full["AUROC"], windows["accuracy"].value) == (0.0, 1.0, 1.0, 1.0)
