"""CaCReward over the real judge with a tiny random Qwen3-VL."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from cac_align import CaCReward
from cac_align.rewards import cac
from cac_align.rewards.base import Reward, RewardError
from reward_model.backends.base import BackendError, Completion
from reward_model.schema import Verdict, VerdictScore
from reward_model.world import make_video


class Scripted:
    """A backend that answers what it is told to; ``None`` stands for a server that is down."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers = list(answers)

    def generate(self, conversations, sampling):
        found = [self.answers.pop(0) for _ in conversations]
        return [Completion(a) if a is not None else Completion("", error="server is down") for a in found]

    def score(self, conversations, prefixes):
        return [VerdictScore(-0.1, -2.4) for _ in conversations]

    def describe(self):
        return {"model": "scripted"}


@pytest.fixture(scope="module")
def videos():
    return [make_video(3, "squash")[0], make_video(4)[0]]


@pytest.fixture(scope="module")
def reward(judge_folder):
    return CaCReward(judge_folder, device="cpu")


def test_scores_are_probabilities_and_calls_repeat(reward, videos):
    scores = reward(videos, ["a red ball", "a blue ball"], fps=16)
    assert all(0 <= s <= 1 for s in scores)
    assert reward(videos, ["a red ball", "a blue ball"], fps=16) == scores
    assert isinstance(reward, Reward)


def test_verdicts_agree_with_scores(reward, videos):
    verdicts = reward.judge_batch(videos, fps=16)
    assert [v.score for v in verdicts] == reward(videos, fps=16)
    one = reward.judge(videos[1], "a blue ball", fps=16)
    assert isinstance(one, Verdict)
    assert one.readout == "direct"
    assert one.provenance["prompts"].startswith("compact")
    assert one.turns[0].frame_indices == tuple(range(0, 81, 4))
    assert Verdict.from_dict(one.to_dict()).score == one.score


def test_options_reach_the_judge(judge_folder, videos):
    reward = CaCReward(judge_folder, device="cpu", readout="log_odds", reasoning=False, scan_fps=2, num_turns=1)
    verdict = reward.judge(videos[0], fps=16)
    assert (verdict.readout, len(verdict.turns), len(verdict.turns[0].frame_indices)) == ("log_odds", 1, 11)
    assert verdict.turns[0].num_tokens == 0


def test_pickled_copy_has_settings_without_weights_or_key(reward, videos, judge_folder):
    expected = reward(videos, fps=16)
    data = pickle.dumps(reward)
    assert len(data) < 5000
    copy = pickle.loads(data)
    assert copy._judge is None
    assert copy(videos, fps=16) == expected
    secret = CaCReward("m", backend="openai", base_url="http://localhost:1/v1", api_key="sk-very-secret")
    assert b"sk-very-secret" not in pickle.dumps(secret)
    assert "secret" not in repr(secret)


def test_unreadable_video_is_none_or_raises(reward, judge_folder, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    scores = reward([videos[0], broken, videos[1][:1]], fps=16)
    assert scores[0] is not None
    assert scores[1:] == [None, None]
    strict = CaCReward(judge_folder, device="cpu", on_error="raise")
    with pytest.raises(RewardError, match=r"video 1: .*broken\.mp4"):
        strict([videos[0], broken], fps=16)


def test_a_judge_that_fails_on_one_video_scores_the_other(videos):
    normal = '{"COT": "fine", "status": "normal"}'
    scores = CaCReward(backend=Scripted(None, normal))(videos, fps=16)
    assert scores[0] is None
    assert scores[1] == pytest.approx(1 / (1 + np.exp(-2.3)))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "fast", None])
def test_bad_fps(reward, videos, fps):
    with pytest.raises(ValueError, match="fps"):
        reward(videos, fps=fps)


def test_one_video_instead_of_a_list(reward, videos):
    for single in (videos[0], "clip.mp4"):
        with pytest.raises(ValueError, match=r"pass \[video\]"):
            reward(single, fps=16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "vllm"}, "backend='vllm' must be one of local, openai, replay"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"readout": "loud"}, "readout='loud'"),
        ({"temprature": 1}, "temprature"),
        ({"base_url": "http://x"}, "belong to backend='openai'"),
        ({"readout": "paper", "reasoning": False}, "readout='direct'"),
    ],
)
def test_bad_options_fail_before_any_model_loads(options, words):
    with pytest.raises(ValueError, match=words):
        CaCReward("nowhere", **options)


def test_model_folder_without_processor(judge_folder, tmp_path, videos):
    (tmp_path / "config.json").write_bytes((judge_folder / "config.json").read_bytes())
    with pytest.raises(BackendError, match="no processor"):
        CaCReward(tmp_path, device="cpu")(videos, fps=16)


def test_default_model(monkeypatch, judge_folder, tmp_path):
    monkeypatch.setenv(cac.MODEL_VARIABLE, str(judge_folder))
    assert CaCReward().model == str(judge_folder)
    monkeypatch.delenv(cac.MODEL_VARIABLE)
    monkeypatch.setattr(cac, "mini_judge_folder", lambda: None)
    with pytest.raises(ValueError, match=r"no judge at hand: pass model=.*CAC_REWARD_MODEL"):
        CaCReward()
    with pytest.raises(ValueError, match="needs a model"):
        CaCReward(backend="openai")


def test_mini_judge_announces_itself_once(monkeypatch, judge_folder):
    monkeypatch.delenv(cac.MODEL_VARIABLE, raising=False)
    monkeypatch.setattr(cac, "mini_judge_folder", lambda: judge_folder)
    cac._announce_mini.cache_clear()
    with pytest.warns(UserWarning, match="demo-scale"):
        _ = CaCReward(device="cpu").judge_model
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = CaCReward(device="cpu").judge_model


def test_making_a_reward_loads_no_torch():
    code = "import sys; from cac_align import CaCReward; CaCReward('somewhere'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
