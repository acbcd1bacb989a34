"""The cascade: what stands on the readout before reasoning, what is reasoned about, and that nothing is read twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_judge import CONFIRM, FRAMES, NORMAL, SUSPECT, Scripted

from reward_model.backends.local import LocalBackend
from reward_model.backends.replay import RecordingBackend
from reward_model.config import JudgeConfig, judge_json, load_judge_config
from reward_model.conversation import Sampling
from reward_model.judge import TwoTurnJudge
from reward_model.minis.model import build_judge
from reward_model.parsing import forced_prefix
from reward_model.prompts import load_prompts
from reward_model.schema import Verdict, VerdictScore
from reward_model.turns import direct_prefix
from reward_model.world import make_video

BOUNDS = {"normal_above": 3.0, "abnormal_below": -3.0}


class ByVideo(Scripted):
    """Scores of turn one by the video's own brightness, so that a batch holds surely normal, doubtful and surely
    abnormal videos.
    """

    def score(self, conversations, prefixes):
        self.calls.append(("score", self._turn(conversations), len(conversations), list(prefixes)))
        frames = [[p for m in c for p in m.content if isinstance(p, np.ndarray)] for c in conversations]
        return [VerdictScore(float(np.mean(f)) - 100, 0.0) for f in frames]


def video(log_odds):
    return np.full_like(FRAMES, 100 + log_odds)


def judged(mode, scans, zooms=(), videos=(5, 0, -5), **options):
    backend = ByVideo(list(scans), list(zooms))
    judge = TwoTurnJudge(backend, prompts="compact", cascade=mode, **{**BOUNDS, **options})
    return judge.judge([video(v) for v in videos], fps=16), backend


def generated(backend):
    return [(turn, count) for kind, turn, count, _ in backend.calls if kind == "generate"]


def test_only_what_is_surely_normal_stands_and_the_rest_is_judged_in_full():
    verdicts, backend = judged("normal", [SUSPECT, SUSPECT], [CONFIRM, CONFIRM])
    assert generated(backend) == [(1, 2), (2, 2)], "the undecided ones in one batch each"
    sure, doubtful, faulty = verdicts
    assert (sure.status, sure.decided_by, sure.window) == ("normal", "readout", None)
    assert sure.score == pytest.approx(VerdictScore(5, 0).p_normal) and sure.turns[0].text == forced_prefix()
    full = TwoTurnJudge(ByVideo([SUSPECT], [CONFIRM]), prompts="compact", readout="direct").judge([video(-5)], fps=16)[
        0
    ]
    for verdict in (doubtful, faulty):
        assert (verdict.status, verdict.decided_by) == ("abnormal", "reasoning")
        assert (verdict.window, verdict.anomalies) == (full.window, full.anomalies)


def test_a_surely_abnormal_video_keeps_its_window_and_is_not_looked_at_again():
    verdicts, backend = judged("windows", [NORMAL, SUSPECT])
    assert generated(backend) == [(1, 2)]
    faulty = verdicts[2]
    assert (faulty.status, faulty.decided_by) == ("abnormal", "readout")
    assert faulty.window_s == (0.75, 1.3125) and len(faulty.turns) == 1 and faulty.turns[0].report is not None


def test_reasoning_that_finds_nothing_overrules_the_readout():
    verdicts, _ = judged("windows", [NORMAL, NORMAL])
    assert [v.status for v in verdicts] == ["normal"] * 3
    assert [v.decided_by for v in verdicts] == ["readout", "reasoning", "reasoning"]


def test_scores_alone_need_no_reasoning_beyond_either_bound():
    verdicts, backend = judged("scores", [NORMAL])
    assert generated(backend) == [(1, 1)]
    assert [(v.status, v.decided_by) for v in verdicts] == [
        ("normal", "readout"), ("normal", "reasoning"), ("abnormal", "readout"),
    ]  # fmt: skip
    assert [v.score for v in verdicts] == sorted((v.score for v in verdicts), reverse=True)


def test_a_side_without_a_bound_and_a_score_that_is_only_a_bound_decide_nothing():
    _, backend = judged("scores", [NORMAL, SUSPECT], [CONFIRM], abnormal_below=None)
    assert generated(backend)[0] == (1, 2)
    bounded = Scripted([NORMAL], scores={(1, "direct"): VerdictScore(0, -9, bounded=True)})
    verdict = TwoTurnJudge(bounded, prompts="compact", cascade="normal", **BOUNDS).judge([FRAMES], fps=16)[0]
    assert verdict.decided_by == "reasoning"


def test_a_backend_without_probabilities_reasons_about_everything():
    verdict = TwoTurnJudge(Scripted([NORMAL]), prompts="compact", cascade="normal", **BOUNDS).judge([FRAMES], fps=16)[0]
    assert (verdict.status, verdict.decided_by) == ("normal", "reasoning")


def test_the_verdict_keeps_the_way_of_its_decision_in_a_file():
    verdict = judged("normal", [NORMAL], videos=(5, 0))[0][0]
    told = verdict.provenance["cascade"]
    assert told == {"mode": "normal", **BOUNDS, "error": None, "decided_by_readout": 1}
    again = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict())))
    assert again == verdict and again.decided_by == "readout"
    plain = TwoTurnJudge(Scripted([NORMAL]), prompts="compact").judge([FRAMES], fps=16)[0]
    assert "early" not in plain.to_dict()["turns"][0] and "cascade" not in plain.provenance
    silent = Scripted([], scores={(1, "direct"): VerdictScore(-0.1, -3)})
    without = TwoTurnJudge(silent, prompts="compact", reasoning=False).judge([FRAMES], fps=16)[0]
    assert (plain.decided_by, without.decided_by) == ("reasoning", "readout")


def test_a_long_video_is_decided_early_only_if_all_its_parts_are():
    long = np.concatenate([video(5), video(5), video(0)])
    judge = TwoTurnJudge(
        ByVideo([NORMAL]), prompts="compact", cascade="normal", max_scan_frames=21, scan_overlap=1, **BOUNDS
    )
    verdict = judge.judge([long], fps=16)[0]
    assert verdict.status == "normal" and [turn.early for turn in verdict.turns] == [True, True, False]
    assert verdict.decided_by == "reasoning"


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_that_leave_no_place_are_refused_and_a_file_gives_way(tmp_path):
    with pytest.raises(ValueError, match=r"cascade='normal' needs bounds.*cascade calibrate"):
        TwoTurnJudge(Scripted([]), cascade="normal")
    with pytest.raises(ValueError, match="exceeds normal_above"):
        JudgeConfig(normal_above=0.0, abnormal_below=1.0)
    with pytest.raises(ValueError, match="does not go with readout='paper'"):
        JudgeConfig().override(cascade="normal", readout="paper", **BOUNDS)
    (tmp_path / "judge.json").write_text(json.dumps({"readouts": ["log_odds", "paper"], "cascade": "normal", **BOUNDS}))
    known = load_judge_config(tmp_path)
    assert (known.cascade, known.readout, known.best_readout) == ("normal", "log_odds", "log_odds")
    assert [known.override(cascade=said).cascade for said in ("off", False)] == ["off", "off"], (
        "YAML reads off as false"
    )
    for asked in ({"readout": "paper"}, {"reasoning": False}, {"policy": "active"}, {"all_readouts": True}):
        assert known.override(**asked).cascade == "off", "what is asked for goes before what the file says"
    (tmp_path / "judge.json").write_text('{"cascade": "windows"}')
    with pytest.raises(ValueError, match=r"judge\.json: cascade='windows' needs bounds"):
        load_judge_config(tmp_path)


def test_bounds_belong_to_the_weights():
    calibrated = JudgeConfig(readout="direct", cascade="normal", cascade_error=0.005, **BOUNDS)
    kept = json.loads(judge_json(calibrated, same_weights=True))
    assert {n: kept[n] for n in BOUNDS} == BOUNDS and kept["cascade_error"] == 0.005
    assert not {"cascade", *BOUNDS} & set(json.loads(judge_json(calibrated))), "a trained judge is calibrated anew"


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backend():
    return LocalBackend.of(*build_judge("tiny"))


@pytest.fixture(scope="module")
def questions():
    """Of different lengths, so that padding matters."""
    prompts = load_prompts("compact")
    return [prompts.scan(make_video(seed)[0][:length]) for seed, length in ((0, 5), (1, 3), (2, 7), (3, 3))]


def read_tokens(backend, work):
    """Tokens that the language model reads in each of its passes."""
    passes = []
    hook = backend.model.model.language_model.register_forward_hook(
        lambda _m, _i, out: passes.append(tuple(out.last_hidden_state.shape[:2]))
    )
    try:
        return work(), passes
    finally:
        hook.remove()


def test_an_answer_goes_on_from_the_cache_of_its_score(backend, questions):
    sampling, prefixes = Sampling(12), [direct_prefix() for _ in questions]
    scores, answers = backend.score(questions, prefixes), backend.generate(questions, sampling)
    looked, passes = read_tokens(
        backend, lambda: backend.look_then_answer(questions, prefixes, sampling, lambda k, _: k != 1)
    )
    for k, (score, answer) in enumerate(looked):
        assert score.log_odds == pytest.approx(scores[k].log_odds, abs=1e-5)
        assert (answer is None) == (k == 1)
        if answer is not None:
            assert answer.text == answers[k].text and answer.num_tokens == answers[k].num_tokens
    whole = max(length for _, length in passes)
    assert [length for _, length in passes].count(whole) == 1, "the frames are read once"
    assert all(length <= 4 for _, length in passes[1:])
    assert {rows for rows, _ in passes[-11:]} == {3}, "and only those that go on are answered"


def test_where_the_tokenizer_joins_question_and_answer_the_question_is_read_again(backend, questions, monkeypatch):
    sampling, prefixes = Sampling(6), [direct_prefix() for _ in questions]
    answers = backend.generate(questions, sampling)
    monkeypatch.setattr("reward_model.backends.prompt_cache.ReadQuestions.behind", lambda self, questions: None)
    looked = backend.look_then_answer(questions, prefixes, sampling, lambda k, _: k > 1)
    assert [a and a.text for _, a in looked] == [None, None, answers[2].text, answers[3].text]


def test_half_the_memory_halves_the_batch_and_changes_no_answer(backend, questions, monkeypatch):
    sampling, prefixes = Sampling(6), [direct_prefix() for _ in questions]
    expected = [a.text for a in backend.generate(questions, sampling)]
    follow = backend._follow

    def short(part, *args):
        if len(part) > 2:
            raise MemoryError
        return follow(part, *args)

    monkeypatch.setattr(backend, "_follow", short)
    monkeypatch.setattr(backend, "_limit", backend._limit)
    looked = backend.look_then_answer(questions, prefixes, sampling, lambda *_: True)
    assert [a.text for _, a in looked] == expected


def test_a_real_judge_says_the_same_with_bounds_that_decide_nothing(backend):
    videos = [make_video(seed, num_frames=33)[0] for seed in (0, 1)]
    config = JudgeConfig(prompts="compact", frame_size=32, readout="direct", max_scan_tokens=4, max_zoom_tokens=4)
    full = TwoTurnJudge(backend, config).judge(videos, fps=16)
    same = TwoTurnJudge(backend, config, cascade="windows", normal_above=1e9).judge(videos, fps=16)
    sure = TwoTurnJudge(backend, config, cascade="windows", normal_above=-1e9).judge(videos, fps=16)
    for one, other, early in zip(full, same, sure, strict=True):
        assert (one.status, one.turns[0].text, other.decided_by) == (other.status, other.turns[0].text, "reasoning")
        assert other.score == pytest.approx(one.score, abs=1e-6)
        assert early.decided_by == "readout" and early.score == pytest.approx(one.score, abs=1e-6)


def test_a_recording_backend_is_asked_in_two_calls(backend, questions, tmp_path):
    recording = RecordingBackend(backend, tmp_path / "exchanges.jsonl")
    config = JudgeConfig(prompts="compact", frame_size=32, readout="direct", max_scan_tokens=8, max_zoom_tokens=8)
    video = make_video(0)[0]
    judge = TwoTurnJudge(recording, config, cascade="normal", normal_above=1e9)
    direct = TwoTurnJudge(backend, config, cascade="normal", normal_above=1e9)
    one, other = judge.judge([video], fps=16)[0], direct.judge([video], fps=16)[0]
    assert one.turns[0].text == other.turns[0].text and one.status == other.status
    assert replace(one.turns[0], seconds=0, direct_score=None) == replace(other.turns[0], seconds=0, direct_score=None)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "exchanges.jsonl").read_text().splitlines()]
    assert kinds[:2] == ["score", "generate"]
