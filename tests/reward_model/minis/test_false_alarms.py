"""A judge's false alarms: found on normal training videos, kept, and shown to stage 2 as clips to clear."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reward_model.minis.false_alarms import AlarmFile, find_alarms, normal_rows, read_alarms, with_alarms
from reward_model.minis.rows import TRAIN_SEEDS, make_example, shot_of
from reward_model.minis.stage_rows import stage2_rows
from reward_model.parsing import parse_turn
from reward_model.world.scripts import Script

SUITE = {"zoom/fade": 0.8}
NAMES = ("seed", "kind", "setting", "story", "stratum", "draw")


class Suspicious:
    """A judge that takes every fade for a wink, as a scan may, and everything else for what it is."""

    def __init__(self, rows, verdict_of):
        self.rows, self.verdict_of, self.seen = list(rows), verdict_of, []

    def judge(self, videos, prompts=None, *, fps=None):
        found = []
        for video, rate in zip(videos, fps, strict=True):
            row = self.rows[len(self.seen)]
            script = Script(**{name: row[name] for name in NAMES})
            truth = script.suspicion() or shot_of(row).truth
            assert len(video) == truth.num_frames and rate == truth.fps
            found.append(self.verdict_of(truth, -3.0 if truth.anomalies else 3.0, "Frame 4: the object is missing."))
            self.seen.append(video)
        return found


@pytest.fixture(scope="module")
def rows():
    return normal_rows(10, seed=1, stories=SUITE, kinds=("vanish",))


@pytest.fixture(scope="module")
def alarms(rows, verdict_of):
    batches = list(find_alarms(Suspicious(rows, verdict_of), rows, batch_size=4))
    assert len(batches) == 3
    return [row for batch in batches for row in batch]


def test_normal_videos_of_training_are_scanned(rows):
    assert len(rows) == 10 and all(row["seed"] in TRAIN_SEEDS for row in rows)
    assert all(shot_of(row).truth.status == "normal" for row in rows)
    assert normal_rows(10, seed=1, stories=SUITE, kinds=("vanish",)) == rows
    drawn = normal_rows(40, kinds=("squash",))
    assert all(shot_of(row).truth.status == "normal" for row in drawn), "some are drawn squashed, which is left out"


def test_what_the_scan_suspected_becomes_a_clip_to_clear(rows, alarms):
    assert len(alarms) == sum(row["story"] == "fade" for row in rows) > 5
    for alarm in alarms:
        window = shot_of(alarm).suspicion.anomalies[0].frames
        first, last = alarm["alarm"]
        assert first <= window.end and window.start <= last, "the window that was named, in native frames"
        example = make_example(alarm)
        text = "".join(p for m in example.conversation for p in m.content if isinstance(p, str))
        frames = [p for m in example.conversation for p in m.content if not isinstance(p, str)]
        assert "Frame 4: the object is missing." in text, "turn two is told what turn one said"
        assert parse_turn(example.answer, turn=2, num_frames=len(frames)).status == "normal"


def test_they_take_the_place_of_a_share_of_the_normal_clips(alarms):
    drawn = stage2_rows(20, 16, seed=3, stories=SUITE, kinds=("vanish",), replay=False, curriculum=0.0)
    mixed = with_alarms(drawn, alarms, 0.5, seed=0)
    taken = [k for k, row in enumerate(mixed) if row["alarm"]]
    normal = [k for k, row in enumerate(drawn) if row["task"] == "zoom" and not row["kind"]]
    assert set(taken) <= set(normal) and 0.3 < len(taken) / len(normal) < 0.7
    assert {mixed[k]["draw"] for k in taken} == {row["draw"] for row in alarms}, "each alarm is there"
    rest = [k for k in range(len(drawn)) if k not in taken]
    assert all({**mixed[k], "alarm": None} == {**drawn[k], "alarm": None, "said": ""} for k in rest)
    one, other = (make_example(rows[rest[0]]).conversation[0].content for rows in (mixed, drawn))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="false_alarm_share=0 must be above 0"):
        with_alarms(drawn, alarms, 0, seed=0)


def test_a_file_is_continued_and_never_mixed(tmp_path, alarms):
    path = tmp_path / "alarms.jsonl"
    file = AlarmFile.open(path, "a")
    file.scanned, file.rows = 4, alarms[:2]
    file.save()
    again = AlarmFile.open(path, "a")
    assert (again.scanned, again.rows) == (4, alarms[:2]) and read_alarms(path) == alarms[:2]
    with pytest.raises(ValueError, match="another judge or of other videos"):
        AlarmFile.open(path, "b")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, "is not a file; recipes/false_alarms.py writes one"),
        ('{"video": "a.mp4"}\n', "is not a file of recipes/false_alarms.py"),
        ("nonsense", "is not a file of recipes/false_alarms.py"),
        ('{"mark": "a", "scanned": 4}\n', "holds no alarm: the judge suspected no normal video"),
    ],
)
def test_other_files_are_refused(tmp_path, text, rule):
    path = tmp_path / "x.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rule):
        read_alarms(path)


def test_the_command_scans_and_resumes(load_recipe, judge_folder, tmp_path, capsys):
    """The tiny judge answers garbage, so it suspects nothing; the shipped one is for the slow tests."""
    recipe, output = load_recipe("false_alarms"), tmp_path / "alarms.jsonl"
    words = ["--model", str(judge_folder), "--videos", "3", "--batch-size", "2", "--output", str(output)]
    words += ["--stories", '{"zoom/fade": 0.8}', "--kinds", "vanish"]
    assert recipe.main(words) == 0
    assert "3 of 3 normal videos scanned, 0 false alarms" in capsys.readouterr().out
    assert json.loads(output.read_text())["scanned"] == 3
    recipe.main(words)
    assert "scanned" not in capsys.readouterr().out
    for wrong, rule in ((["--stories", "fade"], "must be JSON"), (["--videos", "0"], "videos=0 must be at least 1")):
        with pytest.raises(ValueError, match=rule):
            recipe.main([*words, *wrong])
