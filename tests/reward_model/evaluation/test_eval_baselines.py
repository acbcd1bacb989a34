"""Constants, thresholds, and UnifiedReward's protocols over a backend that answers from a script."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.conversation import Completion
from reward_model.evaluation import CalibrationBench, WorldBench, auroc, evaluate_judge
from reward_model.evaluation.running.baselines import (
    ConstantJudge,
    RandomJudge,
    Threshold,
    ThresholdJudge,
    calibrate,
    fit_threshold,
)
from reward_model.unified.protocols import APS, VIDEO5, ScoreError
from reward_model.unified.score import UnifiedJudge

BENCH = WorldBench(4, seed=910_000)
VIDEOS = list(BENCH)


def measured(judge):
    return evaluate_judge(judge, BENCH, progress=False, num_resamples=10)


def test_constants_have_the_rates_they_must_have():
    normal, abnormal = measured(ConstantJudge("normal")), measured(ConstantJudge("abnormal"))
    assert normal.value("recall, normal") == abnormal.value("recall, abnormal") == 1.0
    assert normal.value("recall, abnormal") == 0.0 and normal.value("precision, abnormal") is None
    assert normal.value("status accuracy") == normal.value("AUROC, score") == 0.5
    assert normal.value("temporal IoU, scan") is normal.value("spatial IoU") is normal.value("parse rate") is None
    with pytest.raises(ValueError, match="'fine'"):
        ConstantJudge("fine")


def test_chance_depends_on_the_video_and_the_seed_only():
    frames = [v.frames for v in VIDEOS]
    one = RandomJudge().judge_batch(frames)
    assert [v.score for v in RandomJudge().judge_batch(frames[::-1])] == [v.score for v in one][::-1]
    assert [v.score for v in RandomJudge(1).judge_batch(frames)] != [v.score for v in one]
    draws = RandomJudge().judge_batch([np.full((1,), k) for k in range(400)])
    assert 160 < sum(v.status == "normal" for v in draws) < 240


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_threshold_has_the_best_balanced_accuracy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        normal = np.append(rng.random(30) < 0.3, [True, False])
        scores = np.round(rng.random(32) + 0.4 * normal, 1)
        found = fit_threshold(scores, normal)

        def balanced(cut, scores=scores, normal=normal):
            said = scores >= cut
            return ((said & normal).sum() / normal.sum() + (~said & ~normal).sum() / (~normal).sum()) / 2

        best = max(balanced(c) for c in np.arange(-0.05, 1.6, 0.05))
        assert found.balanced_accuracy == pytest.approx(best) == pytest.approx(balanced(found.value))


def test_scores_at_the_threshold_are_normal_and_missing_ones_unparsed():
    judge = ThresholdJudge(lambda videos, prompts, fps: [0.5, 0.49, None, float("nan")], Threshold(0.5, 1.0, 9))
    verdicts = judge.judge_batch([np.zeros(k + 1) for k in range(4)])
    assert [v.status for v in verdicts] == ["normal", "abnormal", None, None]
    assert verdicts[2].error == "no score" and verdicts[0].provenance["calibrated_on"] == 9


@pytest.mark.parametrize("scores", [[0.1, np.nan], [0.1, np.inf]])
def test_thresholds_need_finite_scores_of_both_classes(scores):
    with pytest.raises(ValueError):
        fit_threshold(scores, [True, False])
    with pytest.raises(ValueError, match="normal and of abnormal"):
        fit_threshold([0.1, 0.2], [True, True])


def brightness(videos, prompts=None, *, fps=None):
    return [float(v.mean()) for v in videos]


def test_a_video_that_set_the_threshold_cannot_be_tested():
    calibration = CalibrationBench(4, size=24)
    judge = calibrate(brightness, calibration, batch_size=3)
    assert judge.threshold.num == 4
    with pytest.raises(ValueError, match="set the threshold"):
        judge.judge_batch([calibration[1].frames])
    assert judge.judge_batch([VIDEOS[0].frames])[0].status in ("normal", "abnormal")


# --- UnifiedReward ---------------------------------------------------------------------------------------------------


class Scripted:
    """A backend that remembers what it is asked and answers by how bright the first frame is."""

    name = "scripted"

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def generate(self, conversations, sampling):
        self.asked += [(c, sampling) for c in conversations]
        return [self.answer(c) for c in conversations]

    def score(self, conversations, prefixes):
        raise AssertionError("the protocols read text only")

    def describe(self):
        return {"model": "scripted"}


def test_aps_shows_sixteen_frames_then_one_text_and_reads_the_mean_of_three():
    text = "Alignment Score (1-5): 2.4036\nPhysics Score (1-5): 3\nStyle Score (1-5): 5.0"
    backend = Scripted(lambda c: Completion(text))
    [found] = UnifiedJudge(backend).score([VIDEOS[0].frames], ["a {caption} <|im_end|>"], fps=16)
    assert found.score == pytest.approx(((2.4036 + 3 + 5) / 3 - 1) / 4)
    [(conversation, sampling)] = backend.asked
    *frames, question = conversation[0].content
    assert len(frames) == 16 and sampling.temperature == 0
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame, VIDEOS[0].frames[int(k * 81 / 16)])
    # The caption is data: its braces stay, its chat marker does not.
    assert question.endswith("Text Caption: [a {caption} < |im_end|>]")


def test_video5_shows_eight_large_frames_and_ignores_the_untrained_total():
    lines = [f"{axis}: {k}" for axis, k in zip(VIDEO5.axes, (1, 2, 3, 4, 4), strict=True)]
    backend = Scripted(lambda c: Completion("\n".join([*lines, "Final Score: 1"])))
    assert UnifiedJudge(backend, "video5")([VIDEOS[1].frames], "p", fps=16) == [pytest.approx((14 / 5 - 1) / 3)]
    frames = backend.asked[0][0][0].content[:-1]
    assert len(frames) == 8 and frames[0].shape == (512, 512, 3)
    assert VIDEO5.pick(81)[0] == 0 and VIDEO5.pick(81)[-1] == 80


def aps(physics: str) -> str:
    return f"Alignment Score (1-5): 3\n{physics}\nStyle Score (1-5): 3"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("Physics Score (1-5): 2.0", 0.25),
        ("**Physics Score (1-5):** 2.0", 0.25),
        ("physics score: 5", 1.0),
        ("Physics Score (1.0-10.0): 4.8017", 3.8017 / 9),  # a range of its own, seen in the wild
        ("Physics Score (1–5): 3", 0.5),
    ],
)
def test_lines_are_read_with_the_range_they_declare(line, value):
    assert APS.read(aps(line))["Physics Score"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("", "no 'Physics Score'"),
        ("Physics Score (1-5)", "no 'Physics Score'"),
        ("Physics Score (1-5): nan", "nan, outside 1 to 5"),
        ("Physics Score (1-5): 7", "7, outside 1 to 5"),
        ("Physics Score (1-5): -5", "-5, outside 1 to 5"),
        ("Physics Score (5-5): 5", "outside 5 to 5"),
        ("Physics Score (1-5): 2\nPhysics Score (1-5): 4", "more than once"),
    ],
)
def test_unusable_lines_are_errors_and_never_a_number(line, match):
    with pytest.raises(ScoreError, match=match):
        APS.read(aps(line))


def test_failures_have_a_reason_and_spoil_no_other():
    def answer(conversation):
        dark = conversation[0].content[0].mean() < VIDEOS[1].frames[0].mean() + 1e-9
        return Completion(aps("Physics Score (1-5): 3")) if dark else Completion("", error="server down")

    reward = UnifiedJudge(Scripted(answer))
    bright = np.full((20, 8, 8, 3), 255, np.uint8)
    found = reward.explain([VIDEOS[1].frames, bright, "nowhere.mp4"], ["a", "b", "c"], fps=[16, 16, None])
    assert found[0] == (0.5, None) and found[1] == (None, "server down") and "nowhere.mp4" in found[2][1]
    with pytest.raises(ValueError, match="1 prompts for 2 videos"):
        reward([VIDEOS[0].frames] * 2, ["one"], fps=16)
    with pytest.raises(ValueError, match="'pair'"):
        UnifiedJudge(Scripted(answer), "pair")


def test_a_scoring_model_becomes_a_judge_with_rates_and_unparsed_answers():
    truth = {v.frames[0].tobytes(): v.truth.status for v in (*BENCH, *CalibrationBench(4))}

    def answer(conversation):
        number = 4 if truth[conversation[0].content[0].tobytes()] == "normal" else 2
        return Completion(aps(f"Physics Score (1-5): {number}"))

    judge = calibrate(UnifiedJudge(Scripted(answer)), CalibrationBench(4), name="aps")
    result = measured(judge)
    assert result.value("status accuracy") == result.value("AUROC, score") == 1.0
    assert result.judge["model"]["protocol"] == "aps" and result.recall_by_type
    lost = measured(ThresholdJudge(UnifiedJudge(Scripted(lambda c: Completion("no idea"))), judge.threshold))
    assert lost.confusion.num_unparsed == 4 and list(lost.errors) == ["the answer states no 'Alignment Score'"]
    assert auroc([r["score"] for r in result.videos], [r["truth"] == "normal" for r in result.videos]) == 1.0


def test_the_judge_behind_unified_reward_answers_to_its_former_name():
    from reward_model.unified import score

    assert score.UnifiedReward is UnifiedJudge
    with pytest.raises(AttributeError, match="no attribute 'Unified'"):
        _ = score.Unified
