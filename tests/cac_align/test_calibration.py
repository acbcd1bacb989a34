"""The fixed scale of rewards: numbers against numpy and scipy, its file, and the composite that counts by it."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from cac_align import CaCReward, CompositeReward
from cac_align.rewards.base import describe_reward
from cac_align.rewards.calibration import (
    CLIP,
    Calibration,
    CalibrationError,
    Scale,
    measure_scale,
    reward_identity,
)
from reward_model.shipped import shipped_folder
from tests.cac_align.test_composite_reward import VIDEOS, Blind, Brightness, Contrary

BANK = {"model": "m", "height": 16}


def calibration(**rewards):
    """Scales whose medians and MADs are .1 and .05 times the place of the reward, from 1."""
    scales = {
        name: Scale(0.1 * k, 0.05 * k, 64, 0.0, reward_identity(reward))
        for k, (name, reward) in enumerate(rewards.items(), 1)
    }
    return Calibration(scales, BANK)


def test_scales_against_scipy():
    scores = np.random.default_rng(0).standard_t(1, 65)
    scale = measure_scale([*scores, None], "mine")
    assert scale.median == np.median(scores) and scale.num_videos == 65
    assert scale.mad == pytest.approx(median_abs_deviation(scores), rel=1e-12)
    robust = (scores - np.median(scores)) / median_abs_deviation(scores, scale="normal")
    assert [scale.standardise(s) for s in scores] == pytest.approx(robust, rel=1e-4)
    placed = np.array([scale.place(s) for s in scores])
    assert placed == pytest.approx(0.5 + np.clip(robust, -CLIP, CLIP) / 10, abs=1e-4)
    assert scale.clipped == np.mean(np.abs(robust) > CLIP) > 0


def test_what_is_not_a_scale_is_refused():
    with pytest.raises(CalibrationError, match=r"'mine' scored 7 of 9 videos of the bank; a scale needs 8"):
        measure_scale([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, None, None], "mine")
    with pytest.raises(CalibrationError, match=r"half of the bank or more the score 1: .* that does not saturate"):
        measure_scale([1.0] * 5 + [0.1, 0.2, 0.3], "mine")


def test_the_file_holds_all_of_it_and_notices_a_change(tmp_path):
    made = calibration(bright=Brightness(), calm=Contrary())
    path = made.save(tmp_path / "a" / "calibration.json")
    assert Calibration.load(path) == made and Calibration.load(path).digest == made.digest
    data = json.loads(path.read_text())
    for change, said in (
        ({"version": 2}, "version 2, known here is 1"),
        ({"rewards": {"bright": {**data["rewards"]["bright"], "median": 0.9}}}, "was changed after it was measured"),
        ({"rewards": {"bright": {**data["rewards"]["bright"], "mad": 0}}}, "are not a scale"),
        ({"bank": None}, "is not a calibration"),
        ({"rewards": {"bright": {"centre": 1}}}, "is not a calibration"),
    ):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(CalibrationError, match=said):
            Calibration.load(path)
    path.write_text("[")
    with pytest.raises(CalibrationError, match="is not a calibration"):
        Calibration.load(path)
    with pytest.raises(CalibrationError, match="there is no calibration"):
        Calibration.load(tmp_path / "none.json")


def test_the_composite_is_the_weighted_mean_on_the_fixed_scale(tmp_path):
    members = {"bright": Brightness(times=0.4), "calm": Contrary()}
    scale = calibration(**members)
    reward = CompositeReward(members, weights={"bright": 3, "calm": 1}, calibration=scale.save(tmp_path / "c.json"))
    found = reward.evaluate(VIDEOS, fps=16)
    bright, calm = found.parts["bright"], found.parts["calm"]
    assert bright == pytest.approx([0, 0.08, 0.16, 0.4])
    places = [
        [0.5 + np.clip((s - 0.1) / (1.4826 * 0.05), -5, 5) / 10 for s in bright],
        [0.5 + np.clip((s - 0.2) / (1.4826 * 0.1), -5, 5) / 10 for s in calm],
    ]
    assert found.scores == pytest.approx(np.average(places, axis=0, weights=[3, 1]), rel=1e-12)
    assert found.parts["bright/calibrated"] == pytest.approx(places[0], rel=1e-12)
    assert found.parts["calm/calm"] == pytest.approx([s / 2 for s in calm]) and found.group_scores is None
    alone = reward.evaluate(VIDEOS[1:2], fps=16).scores
    assert alone == [found.scores[1]], "a video's score does not depend on the others"
    assert reward.name == "calibrated mean(3 bright, 1 calm)" and scale.digest in repr(reward)
    assert pickle.loads(pickle.dumps(reward))(VIDEOS, fps=16) == found.scores


def test_members_may_answer_in_any_scale_and_one_that_saturates_does_not_outweigh():
    members = {"bright": Brightness(times=100), "calm": Contrary()}
    found = CompositeReward(members, calibration=calibration(**members)).evaluate(VIDEOS, fps=16)
    assert found.parts["bright/calibrated"][1:] == [1.0, 1.0, 1.0]
    assert all(0 <= s <= 1 for s in found.scores)


def test_what_could_not_be_judged_stays_unknown_and_a_watched_member_needs_no_scale():
    members = {"bright": Brightness(), "blind": Blind(1)}
    scale = calibration(bright=Brightness(), blind=Blind())
    assert CompositeReward(members, calibration=scale)(VIDEOS, fps=16)[1] is None
    dropped = CompositeReward(members, calibration=scale, on_failure="drop").evaluate(VIDEOS, fps=16)
    assert dropped.scores[1] == dropped.parts["bright/calibrated"][1]
    watched = CompositeReward(
        members, weights={"bright": 1, "blind": 0}, calibration=calibration(bright=Brightness())
    ).evaluate(VIDEOS, fps=16)
    assert watched.parts["blind"][0] == 0.8 and "blind/calibrated" not in watched.parts
    assert watched.scores == watched.parts["bright/calibrated"]


def test_without_a_calibration_nothing_is_different():
    reward = CompositeReward({"bright": Brightness(), "calm": Contrary()})
    assert reward.name == "mean(bright, calm)" and "calibration" not in describe_reward(reward)
    assert set(reward.evaluate(VIDEOS, fps=16).parts) == {"bright", "calm", "calm/calm"}


def test_a_calibration_of_other_rewards_is_refused():
    scale = calibration(bright=Brightness())
    with pytest.raises(CalibrationError, match="no scale for reward 'calm', only for bright"):
        CompositeReward({"bright": Brightness(), "calm": Contrary()}, calibration=scale)
    with pytest.raises(CalibrationError, match="'bright' is that of another one: reward was 'brightness' and is now"):
        CompositeReward({"bright": Contrary()}, calibration=scale)
    with pytest.raises(ValueError, match="standardises in the group, which leaves nothing to a calibration"):
        CompositeReward({"bright": Brightness()}, normalise="zscore", calibration=scale)


def test_a_judge_counts_by_its_content_and_readout_and_not_by_its_folder(tmp_path):
    mini = shipped_folder("cac-mini")
    moved = shutil.copytree(mini, tmp_path / "elsewhere")
    known = reward_identity(CaCReward(mini, readout="direct"))
    assert reward_identity(CaCReward(moved, readout="direct", batch_size=3)) == known
    assert reward_identity(CaCReward(mini, readout="log_odds")) != known
    (moved / "note.txt").write_text("another file")
    assert reward_identity(CaCReward(moved, readout="direct")) != known
    served = [CaCReward("cac", backend="openai", base_url=f"http://{k}/v1", readout="direct") for k in "ab"]
    assert reward_identity(served[0]) == reward_identity(served[1]) != known
