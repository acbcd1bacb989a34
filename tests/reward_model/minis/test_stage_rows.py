"""Rows of whole stages: annotations as people give them, a few thousand different samples, chosen kinds."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from reward_model.config import JudgeConfig
from reward_model.minis.collator import MiniCollator
from reward_model.minis.false_alarms import AlarmFile
from reward_model.minis.model import build_judge
from reward_model.minis.rows import draw_rows, make_example
from reward_model.minis.stage_rows import repeated, stage2_rows
from reward_model.minis.stages import MINI, MiniArguments
from reward_model.parsing import parse_turn
from reward_model.schema import BOX_SCALE
from reward_model.training.sft.config import parse_stage
from reward_model.training.sft.run import stage_data
from reward_model.world.scripts import Script
from reward_model.world.video import SIZE
from tests.campaigns import draws

JUDGE = JudgeConfig(prompts="compact", demo_scale=True)
SUITE = {"zoom/fade": 0.8}
BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")


def stage2(tmp_path, **settings):
    """The data of stage 2 under settings, as the recipe draws it: 12 steps of 2 x 8."""
    given = {
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "use_cpu": True,
        "seed": 0,
    }
    given |= {"output_dir": tmp_path, "model_name_or_path": "tiny", **settings}
    stage, config, _ = parse_stage(["--set", *(f"{k}={v}" for k, v in given.items())], options=MiniArguments)
    return stage_data("stage2", stage, config, None, JUDGE, MINI)


def scans(rows, num):
    """What the answers to whole videos say: status and windows in frames of the scan."""
    chosen = [row for row in rows if row["task"] == "scan" and row["kind"]][:num]
    reports = []
    for row in chosen:
        example = make_example(row)
        frames = sum(not isinstance(p, str) for p in example.conversation[0].content)
        reports.append(parse_turn(example.answer, turn=1, num_frames=frames))
    return reports


def test_people_blunt_what_answers_say_and_nothing_else():
    tasks = ["scan", "zoom"] * draws(40, 10)
    exact = draw_rows(tasks, seed=3, kinds=["squash", "teleport"])
    blunt = draw_rows(tasks, seed=3, kinds=["squash", "teleport"], people=True)
    assert [{k: v for k, v in row.items() if k != "people"} for row in blunt] == list(exact)
    moved = typed = 0
    for a, b in zip(exact, blunt, strict=True):
        one, other = make_example(a), make_example(b)
        if a["task"] == "scan":
            pairs = zip(one.conversation[0].content, other.conversation[0].content, strict=True)
            assert all(np.array_equal(x, y) for x, y in pairs), "the video and the question stay"
        moved += one.answer != other.answer
        typed += a["kind"] == "teleport" and "Object" in other.answer
    assert moved > 3 / 8 * len(tasks) and typed > 0
    assert make_example(blunt[0]).answer == make_example(blunt[0]).answer


def test_a_video_is_annotated_once():
    """Its scan and its zoom follow the same person."""
    row = draw_rows(["scan"], seed=5, kinds=["squash"], abnormal=1.0, people=True)[0]
    row = {**row, "kind": "squash", "cot": False}
    found = {
        task: parse_turn(make_example({**row, "task": task}).answer, turn=k, num_frames=40)
        for k, task in ((1, "scan"), (2, "zoom"))
    }
    assert found["scan"].types == found["zoom"].types


@pytest.mark.slow
def test_windows_are_off_by_half_a_second_at_most_and_a_quarter_in_the_mean():
    rows = draw_rows(["scan"] * 120, seed=8, kinds=["squash"], people=True)
    rows = [{**r, "num_frames": 81, "small": False} for r in rows if r["kind"] and r["strength"] < 0]
    exact = [{**r, "people": False} for r in rows]
    num = draws(50, 14)
    pairs = list(zip(scans(rows, num), scans(exact, num), strict=True))
    off = [
        abs(getattr(a.anomalies[0].frames, end) - getattr(b.anomalies[0].frames, end)) / 4
        for a, b in pairs
        if a.anomalies and b.anomalies
        for end in ("start", "end")
    ]
    assert len(off) > 1.2 * num and max(off) <= 0.75 and 0.15 < np.mean(off) < 0.35, (
        "half a second, and the grid's rounding"
    )


def test_the_suite_is_two_fifths_of_each_and_a_tenth_of_each():
    """Winks, fades, long vanishings and plain videos of docs/second_look.md."""
    rows = stage2_rows(draws(100, 50), 16, seed=1, stories=SUITE, kinds=("vanish",), replay=False, curriculum=0.0)
    assert set(rows["task"]) == {"scan", "zoom"} and set(rows["kind"]) == {"", "vanish"}
    scan = [row for row in rows if row["task"] == "scan"]
    shares = Counter((row["story"], bool(row["kind"])) for row in scan)
    expected = {("fade", True): 0.4, ("fade", False): 0.4, ("plain", True): 0.1, ("plain", False): 0.1}
    assert set(shares) == set(expected)
    assert {k: v / len(scan) for k, v in shares.items()} == pytest.approx(expected, abs=0.04)
    assert {row["stratum"] for row in scan if row["story"] == "fade"} == {"zoom"}


def test_normal_clips_of_the_suite_look_suspicious():
    """A zoom on a fade shows what the scan may suspect, and the answer is normal."""
    rows = stage2_rows(40, 16, seed=2, stories=SUITE, kinds=("vanish",), replay=False, curriculum=0.0)
    fades = [row for row in rows if row["task"] == "zoom" and row["story"] == "fade" and not row["kind"]][:20]
    assert len(fades) == 20
    examples = [make_example(row) for row in fades]
    for example in examples:
        frames = sum(not isinstance(p, str) for p in example.conversation[0].content)
        assert parse_turn(example.answer, turn=2, num_frames=frames).status == "normal"
    told = ["".join(p for m in e.conversation for p in m.content if isinstance(p, str)) for e in examples]
    assert sum("vanishes" in text for text in told) > 10


def test_a_few_thousand_samples_come_back_pass_after_pass(tmp_path):
    data = stage2(
        tmp_path, samples=64, stories='{"zoom/fade": 0.8}', kinds="vanish", replay=False, supervision="people"
    )
    rows = list(data.rows)
    counts = Counter(row["draw"] for row in rows)
    assert len(rows) == 192 and len(counts) == 64 and set(counts.values()) == {3}
    assert "192 procedural samples, 64 of them different, annotated as people do" in data.summary
    assert all(row["people"] for row in rows) and "people" not in data.held_out.column_names
    blocks = [[row["draw"] for row in rows[k : k + 16]] for k in range(0, 192, 16)]
    assert [sorted(map(tuple, blocks[k : k + 4])) for k in (4, 8)] == [sorted(map(tuple, blocks[:4]))] * 2
    assert blocks[:4] != blocks[4:8], "each pass has its own order"
    tasks = [row["task"] for row in rows]
    assert all(set(tasks[k : k + 8]) == {"zoom" if k % 16 else "scan"} for k in range(0, 192, 8))
    assert {row["num_frames"] for row in rows} & {81}, "no short videos first"


def test_without_new_settings_rows_are_what_they_were(tmp_path):
    assert list(stage2(tmp_path).rows) == list(stage2_rows(12, 16, seed=2))
    assert "of them different" not in stage2(tmp_path, samples=192).summary


def test_a_pass_is_cut_where_the_steps_end():
    rows = draw_rows(["scan"] * 6, seed=0)
    found = repeated(rows, 2, 5, seed=0)
    assert len(found) == 10 and max(Counter(found["draw"]).values()) == 2
    with pytest.raises(ValueError, match="6 rows are not whole batches of 4"):
        repeated(rows, 4, 5, seed=0)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"supervision": "people"}, "supervision='people': splices and single frames have exact truth"),
        ({"kinds": "vanished"}, r"kinds=\['vanished'\] must name some of squash"),
        ({"samples": 3}, "samples=3 must be at least one batch, 16"),
        ({"kinds": "vanish"}, "the task 'frame' can show none of them, only squash"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, settings, rule):
    with pytest.raises(ValueError, match=rule):
        stage2(tmp_path, **settings)


def test_false_alarms_are_among_the_clips_of_stage_2_alone(tmp_path):
    path = tmp_path / "alarms.jsonl"
    drawn = draw_rows(["zoom"] * 3, seed=1, abnormal=-1.0, stories={"zoom/fade": 1.0}, kinds=["vanish"])
    rows = [{**row, "alarm": [8, 24], "said": "Frame 4: the object is missing."} for row in drawn]
    AlarmFile(path, "mark", 3, rows).save()
    suite = {"stories": '{"zoom/fade": 0.8}', "kinds": "vanish", "replay": False}
    data = stage2(tmp_path / "out", false_alarms=path, false_alarm_share=1.0, samples=64, **suite)
    clips = [row for row in data.rows if row["task"] == "zoom" and not row["kind"]]
    assert clips and all(row["alarm"] == [8, 24] for row in clips)
    assert f"false alarms of {path} among the normal clips" in data.summary and len(data.rows) == 192
    assert not any(row["alarm"] for row in data.rows if row["task"] == "scan" or row["kind"])
    with pytest.raises(ValueError, match=r"false_alarm_share=2\.0 must be a number above 0 and at most 1"):
        stage2(tmp_path / "out", false_alarms=path, false_alarm_share=2.0, **suite)
    words = ["--set", "max_steps=2", f"output_dir={tmp_path}", "model_name_or_path=tiny", "use_cpu=true"]
    stage, config, _ = parse_stage([*words, f"false_alarms={path}"], options=MiniArguments)
    with pytest.raises(ValueError, match="false_alarms is a setting of stage 2"):
        stage_data("stage1", stage, config, None, JUDGE, MINI)


def test_stage_1_needs_exact_truth(tmp_path):
    words = ["--set", "max_steps=2", f"output_dir={tmp_path}", "model_name_or_path=tiny", "use_cpu=true"]
    stage, config, _ = parse_stage([*words, "supervision=people", "replay=false"], options=MiniArguments)
    with pytest.raises(ValueError, match="supervision='people' is a setting of stage 2"):
        stage_data("stage1", stage, config, None, JUDGE, MINI)


def test_a_script_of_the_suite_suspects_the_wink():
    script = Script(7, story="fade", stratum="zoom", draw=1)
    truth = script.suspicion()
    assert truth is not None and truth.anomalies[0].reason.endswith("vanishes")


def test_blunt_boxes_stand_on_the_pixels_that_the_judge_can_name():
    """Its tokens know no others: a box beside them is written in pieces, and the boxes it reads have another length."""
    rows = draw_rows(["zoom", "clip"] * draws(16, 8), seed=6, kinds=["squash", "split"], abnormal=1.0, people=True)
    _, processor = build_judge("tiny")
    examples = [make_example(row) for row in rows]
    batch = MiniCollator(processor, lambda k: examples[k])(range(len(rows)))
    assert len(batch["input_ids"]) == len(rows)
    numbers = {int(n) for example in examples for box in BOX.findall(example.answer) for n in box}
    on_pixels = {int(k * BOX_SCALE / SIZE + d) for k in range(SIZE + 1) for d in (0, 0.999)}
    assert len(numbers) > 20 and numbers <= on_pixels
