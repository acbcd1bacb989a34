"""The reward contract: what is accepted, what is refused, and with which words."""

import numpy as np
import pytest
import torch

from cac_align.rewards.base import Reward, RewardError, check_scores, evaluate, reward_name
from cac_align.rewards.composite import CompositeReward

VIDEOS = [np.zeros((4, 8, 8, 3), np.uint8), np.full((4, 8, 8, 3), 255, np.uint8)]


def brightness(videos, prompts=None, *, fps, **kwargs):
    return [float(v.mean()) / 255 for v in videos]


def half(videos, prompts=None, *, fps, **kwargs):
    return [0.5] * len(videos)


def skips_dark(videos, prompts=None, *, fps, **kwargs):
    return [None if not v.any() else 1.0 for v in videos]


@pytest.mark.parametrize(
    "answer",
    [[0.25, None], (0.25, None), [np.float32(0.25), None], [torch.tensor(0.25), None], [np.array(0.25), None]],
)
def test_accepts_numbers_of_any_library(answer):
    scores = check_scores(answer, 2, "r")
    assert scores == [0.25, None]
    assert type(scores[0]) is float


@pytest.mark.parametrize("answer", [np.array([0.0, 1.0]), torch.tensor([0.0, 1.0]), [False, True]])
def test_accepts_arrays_and_booleans(answer):
    assert check_scores(answer, 2, "r") == [0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([0.5], "1 scores for 2 videos"),
        ([0.5, float("nan")], "nan for video 1; return None"),
        ([0.5, float("inf")], "inf for video 1"),
        ([0.5, "high"], "'high' for video 1"),
        ([0.5, [1]], r"\[1\] for video 1"),
        (0.5, "float; it must return a list"),
        ("ab", "str; it must return a list"),
        (None, "NoneType; it must return a list"),
    ],
)
def test_refuses_and_names_the_reward(answer, words):
    with pytest.raises(RewardError, match="'mine'.*" + words):
        check_scores(answer, 2, "mine")


def test_names():
    class Named:
        name = "sharpness"

    assert [reward_name(r) for r in (brightness, Named(), CompositeReward([half]))] == [
        "brightness",
        "sharpness",
        "mean(half)",
    ]
    assert isinstance(brightness, Reward)


def test_evaluate_keeps_reasons():
    found = evaluate(skips_dark, VIDEOS, None, fps=16)
    assert found.scores == [None, 1.0]
    assert found.reasons == ["reward 'skips_dark' returned None", None]


def test_composite_is_the_mean_and_none_is_never_averaged_away():
    both = CompositeReward([brightness, half])
    assert both(VIDEOS, fps=16) == [0.25, 0.75]
    found = CompositeReward([brightness, skips_dark]).evaluate(VIDEOS, fps=16)
    assert found.scores == [None, 1.0]
    assert found.parts == {"brightness": [0.0, 1.0], "skips_dark": [None, 1.0]}
    assert found.reasons[0] == "skips_dark: reward 'skips_dark' returned None"


def test_composite_refuses_other_scales_and_nothing():
    def level(videos, prompts=None, *, fps, **kwargs):
        return [255.0] * len(videos)

    with pytest.raises(RewardError, match=r"'level' returned 255 for video 0.*rescale"):
        CompositeReward([half, level])(VIDEOS, fps=16)
    with pytest.raises(RewardError, match="at least one"):
        CompositeReward([])
    assert CompositeReward([half, half]).names == ["half 1", "half 2"]


def test_evaluate_refuses_what_cannot_be_called():
    with pytest.raises(RewardError, match="got int"):
        evaluate(3, VIDEOS, None, fps=16)
