"""Several rewards as one: normalisations against independent references, weights, parts, and failures."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from scipy.stats import norm

from cac_align import CompositeReward
from cac_align.rewards.base import Evaluation, RewardError, evaluate
from cac_align.rewards.normalise import group_zscores, per_reward_scores, weighted_mean

VIDEOS = [np.full((4, 8, 8, 3), level, np.uint8) for level in (0, 51, 102, 255)]
PROMPTS = ["a", "a", "b", "b"]


class Brightness:
    """0, 0.2, 0.4 and 1 on the videos above; ``times`` leaves [0, 1] where it is large."""

    name = "brightness"

    def __init__(self, times=1.0):
        self.times = times

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        return [self.times * float(v.mean()) / 255 for v in videos]


class Contrary:
    """What brightness is not, with a fifth of its spread and a part of its own."""

    name = "contrary"

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        return self.evaluate(videos, prompts, fps=fps).scores

    def evaluate(self, videos, prompts=None, *, fps):
        scores = [0.5 - 0.2 * float(v.mean()) / 255 for v in videos]
        return Evaluation(scores, [None] * len(videos), [None] * len(videos), {"calm": [s / 2 for s in scores]})


class Blind:
    """Cannot judge the videos at the given positions."""

    name = "blind"

    def __init__(self, *lost):
        self.lost = lost

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        return [None if k in self.lost else 0.8 for k in range(len(videos))]


# --- the maths -------------------------------------------------------------------------------------------------------


def test_zscores_against_numpy_whatever_the_order_of_the_videos():
    rng = np.random.default_rng(0)
    scores, groups = rng.random(40), rng.integers(0, 5, 40)
    expected = np.empty(40)
    for g in range(5):
        expected[groups == g] = (scores[groups == g] - scores[groups == g].mean()) / scores[groups == g].std()
    assert group_zscores(scores.tolist(), groups.tolist()) == pytest.approx(expected.tolist(), abs=1e-12)


def test_zscores_of_equal_scores_are_zero_and_never_amplified_rounding():
    assert group_zscores([0.1 + 0.2, 0.3, 0.3], "aaa") == [0.0, 0.0, 0.0]
    assert group_zscores([None, 0.7, None], "aab") == [None, 0.0, None]


def test_unknown_scores_do_not_move_their_group():
    assert group_zscores([0.0, None, 1.0], "aaa") == [-1.0, None, 1.0]


def test_per_reward_counts_rewards_alike_whatever_their_spread_or_scale():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 8))
    groups = [0] * 4 + [1] * 4

    def reference(*rewards):
        halves = [np.stack(rewards)[:, :4], np.stack(rewards)[:, 4:]]
        z = [(h - h.mean(1, keepdims=True)) / h.std(1, keepdims=True) for h in halves]
        return np.concatenate(z, axis=1).mean(0)

    found = per_reward_scores([first.tolist(), second.tolist()], [1, 1], groups)
    assert found == pytest.approx(reference(first, second).tolist())
    stretched = per_reward_scores([first.tolist(), (900 * second - 40).tolist()], [1, 1], groups)
    assert stretched == pytest.approx(found)
    assert per_reward_scores([first.tolist()], [3], groups) == pytest.approx(group_zscores(first.tolist(), groups))


def test_per_reward_tells_apart_what_the_sum_confounds():
    """Sums of (0, 1) and (1, 0) are equal; their standing in either reward is not."""
    first, second = [0, 1, 0, 0], [1, 0, 0, 1]
    total = group_zscores([(a + b) / 2 for a, b in zip(first, second, strict=True)], "aaaa")
    assert total[0] == total[1]
    apart = per_reward_scores([first, second], [1, 1], "aaaa")
    assert apart[1] > apart[0] + 0.1


def test_weighted_mean_without_anything_known_is_unknown():
    assert weighted_mean([None, None], [1, 1]) is weighted_mean([None, 0.5], [1, 0]) is None


# --- the reward ------------------------------------------------------------------------------------------------------


def test_weights_by_name_and_in_order():
    rewards = {"bright": Brightness(), "blind": Blind()}
    named = CompositeReward(rewards, weights={"blind": 1, "bright": 3})
    assert named(VIDEOS, fps=16) == pytest.approx([0.2, 0.35, 0.5, 0.95])
    assert CompositeReward([Brightness(), Blind()], weights=[0.75, 0.25])(VIDEOS, fps=16) == named(VIDEOS, fps=16)
    assert named.name == "mean(3 bright, 1 blind)"


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("nan")], {"blind": 1}, {"blind": 1, "dark": 1}])
def test_weights_that_do_not_fit(weights):
    with pytest.raises(ValueError, match="weights"):
        CompositeReward([Brightness(), Blind()], weights=weights)


def test_bad_options_fail_at_once():
    with pytest.raises(ValueError, match="normalise='rank' must be one of affine, zscore, per_reward"):
        CompositeReward([Blind()], normalise="rank")
    with pytest.raises(ValueError, match="on_failure='skip'"):
        CompositeReward([Blind()], on_failure="skip")
    with pytest.raises(RewardError, match="got int"):
        CompositeReward([Blind(), 3])


def test_sub_scores_are_kept_under_their_reward():
    found = evaluate(CompositeReward([Brightness(), Contrary()]), VIDEOS[:2], None, fps=16)
    assert list(found.parts) == ["brightness", "contrary", "contrary/calm"]
    assert found.parts["contrary/calm"] == pytest.approx([0.25, 0.23])
    assert found.group_scores is None


@pytest.mark.parametrize("normalise", ["zscore", "per_reward"])
def test_standardised_scores_stay_in_their_range_and_order(normalise):
    reward = CompositeReward([Brightness(), Contrary()], weights=[2, 1], normalise=normalise)
    found = reward.evaluate(VIDEOS, PROMPTS, fps=16)
    assert found.scores == pytest.approx(norm.cdf(found.group_scores).tolist())
    assert all(0 < s < 1 for s in found.scores)
    assert found.group_scores[0] < found.group_scores[1]
    for k in (0, 2):
        assert sum(found.group_scores[k : k + 2]) == pytest.approx(0, abs=1e-12)
    assert reward.name == f"{normalise}(2 brightness, 1 contrary)"


def test_a_reward_of_small_spread_counts_fully_per_reward_and_hardly_in_the_mean():
    rewards = [Brightness(), Contrary()]
    total = CompositeReward(rewards, normalise="zscore").evaluate(VIDEOS, PROMPTS, fps=16)
    assert total.group_scores == pytest.approx([-1, 1, -1, 1])
    even = CompositeReward(rewards, normalise="per_reward").evaluate(VIDEOS, PROMPTS, fps=16)
    assert even.group_scores == pytest.approx([0, 0, 0, 0], abs=1e-9)


def test_groups_are_equal_prompts_or_what_is_given():
    reward = CompositeReward([Brightness()], normalise="zscore")
    one = reward.evaluate(VIDEOS, "a", fps=16).group_scores
    assert one == pytest.approx(((np.array([0, 0.2, 0.4, 1]) - 0.4) / np.std([0, 0.2, 0.4, 1])).tolist())
    assert reward.evaluate(VIDEOS, "a", fps=16, groups=[1, 1, 2, 2]).group_scores == pytest.approx([-1, 1, -1, 1])
    assert reward(VIDEOS, fps=16, groups=[1, 1, 2, 2], seed=3) == reward(VIDEOS, PROMPTS, fps=16)


def test_groups_that_cannot_be_compared_are_refused_before_any_reward_is_asked():
    def costly(videos, prompts=None, *, fps, **kwargs):
        raise AssertionError("asked")

    reward = CompositeReward([costly], normalise="per_reward")
    with pytest.raises(ValueError, match=r"one of 'b'.*normalise='affine'"):
        reward(VIDEOS[:3], ["a", "a", "b"], fps=16)
    with pytest.raises(ValueError, match="got none for 4 videos"):
        reward(VIDEOS, fps=16)
    with pytest.raises(ValueError, match="got 2 for 4 videos"):
        reward(VIDEOS, ["a", "b"], fps=16)


def test_other_scales_need_per_reward():
    with pytest.raises(RewardError, match=r"'brightness' returned 20 for video 1.*normalise='per_reward'"):
        CompositeReward([Brightness(100)], normalise="zscore")(VIDEOS, PROMPTS, fps=16)
    scores = CompositeReward([Brightness(100)], normalise="per_reward")(VIDEOS, PROMPTS, fps=16)
    assert scores == pytest.approx([norm.cdf(-1), norm.cdf(1)] * 2)


# --- failures --------------------------------------------------------------------------------------------------------


def test_failure_none_leaves_the_video_without_score_and_says_so(caplog):
    reward = CompositeReward([Brightness(), Blind(1, 2)])
    with caplog.at_level(logging.WARNING):
        found = reward.evaluate(VIDEOS, fps=16)
    assert found.scores == [0.4, None, None, 0.9]
    assert found.parts["brightness"] == pytest.approx([0, 0.2, 0.4, 1])
    assert "'blind' could not judge 2 of 4 videos (video 1: reward 'blind' returned None)" in caplog.text


def test_failure_drop_is_the_mean_of_the_rest_and_is_reported(caplog):
    reward = CompositeReward([Brightness(), Contrary(), Blind(3)], weights=[1, 3, 4], on_failure="drop")
    with caplog.at_level(logging.WARNING):
        found = reward.evaluate(VIDEOS, fps=16)
    assert found.scores[3] == pytest.approx((1 + 3 * 0.3) / 4)
    assert found.scores[0] == pytest.approx((0 + 3 * 0.5 + 4 * 0.8) / 8)
    assert found.reasons == [None, None, None, "blind: reward 'blind' returned None"]
    assert "left out" in caplog.text
    assert CompositeReward([Blind(0), Blind(0)], on_failure="drop")(VIDEOS[:2], fps=16) == [None, 0.8]


def test_failure_raise_names_reward_video_and_reason():
    with pytest.raises(RewardError, match=r"'blind' could not judge 1 of 4 videos \(video 2: "):
        CompositeReward([Brightness(), Blind(2)], on_failure="raise")(VIDEOS, fps=16)


def test_a_failed_video_does_not_move_its_group():
    """Were its other parts still counted, the mean of the group would include a video that has no score."""
    reward = CompositeReward([Brightness(), Blind(2)], normalise="per_reward")
    found = reward.evaluate(VIDEOS, "a", fps=16)
    levels = np.array([0, 0.2, 1])
    expected = (levels - levels.mean()) / levels.std() / 2
    assert found.group_scores[2] is None
    assert [found.group_scores[k] for k in (0, 1, 3)] == pytest.approx(expected.tolist())


def test_a_reward_of_weight_zero_is_reported_and_decides_nothing():
    reward = CompositeReward([Brightness(), Blind(0)], weights=[1, 0], on_failure="raise")
    found = reward.evaluate(VIDEOS, fps=16)
    assert found.scores == found.parts["brightness"]
    assert found.parts["blind"] == [None, 0.8, 0.8, 0.8]


def test_pickled_copy_scores_the_same():
    reward = CompositeReward({"b": Brightness(), "c": Contrary()}, weights=[1, 2], normalise="per_reward")
    assert pickle.loads(pickle.dumps(reward))(VIDEOS, PROMPTS, fps=16) == reward(VIDEOS, PROMPTS, fps=16)


def test_files_are_read_once_for_all_members(tmp_path):
    from reward_model.video.writing import write_mp4

    seen = []

    def looks(videos, prompts=None, *, fps, **kwargs):
        seen.append(([v.shape for v in videos], prompts, fps))
        return [float(v.mean()) / 255 for v in videos]

    paths = [tmp_path / "dark.mp4", tmp_path / "bright.mp4"]
    for path, level in zip(paths, (20, 200), strict=True):
        write_mp4(path, np.full((6, 32, 32, 3), level, np.uint8), 16)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    both = CompositeReward({"a": looks, "b": looks})
    found = both.evaluate([*map(str, paths), tmp_path / "broken.mp4"], ["x", "y", "z"])
    assert found.scores[0] < 0.2 and found.scores[1] > 0.7 and found.scores[2] is None
    assert "broken.mp4" in found.reasons[2] and found.parts["a"][2] is None
    assert seen[0][1:] == (["x", "y"], 16.0) and len(seen[0][0]) == 2
    with pytest.raises(ValueError, match=r"no video file at 'absent\.mp4'"):
        both(["absent.mp4"])
    write_mp4(tmp_path / "slow.mp4", np.zeros((6, 32, 32, 3), np.uint8), 8)
    with pytest.raises(ValueError, match="8 and 16 frames per second"):
        both([paths[0], tmp_path / "slow.mp4"])
    with pytest.raises(ValueError, match="fps is required"):
        both([np.zeros((4, 8, 8, 3), np.uint8)])


def test_a_composite_shows_what_it_is_made_of():
    both = CompositeReward({"a": half, "b": half}, weights={"a": 3, "b": 1})
    assert repr(both).startswith("CompositeReward({'a': 3 x ") and "normalise='affine'" in repr(both)


def half(videos, prompts=None, *, fps, **kwargs):
    return [0.5] * len(videos)
