"""docs/reasoning_example.md shows what the narrator answers and what it was asked, to the letter."""

import json
import re
from dataclasses import replace

import numpy as np
from documents import DOCS

from reward_model.data.records import Record
from reward_model.data.synthesis.config import AskConfig
from reward_model.data.synthesis.form_check import find_leak, frame_fault
from reward_model.data.synthesis.full_reasoning import three_steps
from reward_model.data.synthesis.rule_check import rule_check
from reward_model.data.synthesis.tasks import conversation, plan
from reward_model.parsing import format_report, parse_turn
from reward_model.video.clip import Video
from reward_model.world import KINDS, make_video
from reward_model.world.narration import narrate_scan, narrate_zoom

#: The second video of ``--world``.
SEED, KIND = 40_001, next(iter(KINDS))


def tasks():
    frames, truth = make_video(SEED, KIND)
    return Video(frames, truth.fps), plan([Record("videos/00001.mkv", truth)])


def answers():
    found = []
    for task in tasks()[1]:
        report = (narrate_scan if task.turn == "scan" else narrate_zoom)(task.record.truth, task.indices)
        cot = three_steps(report.anomalies, len(task.indices), task.record.truth.prompt)
        found.append((task, format_report(replace(report, cot=cot), boxes=task.turn == "zoom")))
    return found


def question():
    video, [_, zoom] = tasks()
    content = conversation(zoom, video, AskConfig(max_crops=0))[0].content
    text = "".join(p if isinstance(p, str) else " [picture]\n" for p in content)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def shown():
    """The text blocks of the page, in order."""
    page = (DOCS / "reasoning_example.md").read_text(encoding="utf-8")
    return re.findall(r"^````text\n(.*?)\n````$", page, re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_question_and_both_answers():
    scan, asked, zoom = shown()
    assert asked == question()
    for block, (_, answer) in zip((scan, zoom), answers(), strict=True):
        assert block == readable(answer)


def readable(answer):
    """An answer with the line breaks of its reasoning shown as such."""
    data = json.loads(answer)
    rest = json.dumps({k: v for k, v in data.items() if k != "COT"}, indent=1)
    rest = re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3, \4]", rest)
    return '{"COT": "' + data["COT"] + '",\n' + rest.removeprefix("{\n")


def test_the_example_keeps_every_rule_of_the_form():
    for task, answer in answers():
        report = parse_turn(answer, turn=1 if task.turn == "scan" else 2, num_frames=len(task.indices))
        assert frame_fault(report.cot, len(task.indices)) is None and find_leak(report) is None
        assert rule_check(report, task.truth, num_frames=len(task.indices), boxes=task.turn == "zoom").passed
        assert all(f"\n{step}" in f"\n{report.cot}" for step in ("Step 1,", "Step 2,", "Step 3,"))


def test_a_person_is_spoken_of_where_there_is_one():
    assert "no visible person" in three_steps((), 2, "a red ball moves left")
    text = three_steps((), 2, "a purple person dances")
    assert "no visible person" not in text and text.count("Frame ") == 2 and text.count("no anomaly") == 10
    assert np.char.count(text, "not anomalous") == 6
