"""What is written of a reward beside its scores: enough to ask the same again, and no key."""

import json

import numpy as np

from cac_align import BestOfNOutput, CaCReward, CompositeReward, UnifiedReward
from cac_align.rewards.base import describe_reward
from reward_model.data.annotations import read_annotations
from reward_model.data.records import is_generated
from reward_model.data.synthesis.world_records import write_world_records

KEY = "sk-test-must-never-be-seen"


def sharp(videos, prompts=None, *, fps, **_):
    return [0.5 for _ in videos]


def test_model_revision_and_settings_are_told_and_no_key():
    judge = CaCReward("org/judge", revision="abc123", readout="paper")
    told = describe_reward(judge)
    assert (told["model"], told["revision"], told["backend"]) == ("org/judge", "abc123", "local")
    assert told["settings"]["readout"] == "paper"
    rater = UnifiedReward(
        "served", backend="openai", base_url="http://me:secret@judge/v1", api_key=KEY, protocol="video5"
    )
    members = {"cac": judge, "ur": rater, "sharp": sharp}
    both = describe_reward(CompositeReward(members, weights={"cac": 2, "ur": 1, "sharp": 1}))
    assert both["members"]["cac"]["weight"] == 2 and both["members"]["ur"]["protocol"] == "video5"
    assert both["members"]["sharp"]["reward"] == "sharp" and both["normalise"] == "affine"
    assert both["members"]["ur"]["base_url"] == "http://judge/v1"
    assert KEY not in json.dumps(both), "and everything is JSON"


def test_a_saved_result_names_its_reward(tmp_path):
    settings = {"reward": "sharp", "reward_settings": describe_reward(sharp)}
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    page = BestOfNOutput("p", [frames], [0.5], 0, [1], [None], [None], 16.0, settings=settings).save(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["settings"]["reward_settings"] == {"reward": "sharp"}
    assert "reward settings" in page.read_text()


def test_records_that_no_person_made_say_so(tmp_path):
    path = write_world_records(tmp_path, 2)
    assert all(map(is_generated, read_annotations(path)))
    assert all(json.loads(line)["annotation"] == "generated annotation" for line in path.read_text().splitlines())
