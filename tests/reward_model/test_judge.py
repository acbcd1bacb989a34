"""The flow of the two turns, on scripted answers; the models themselves are tested with their backends."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest

from reward_model.config import READOUTS, JudgeConfig, answer_limit, judge_json, load_judge_config
from reward_model.conversation import Completion
from reward_model.data.synthesis.config import AskConfig
from reward_model.judge import TwoTurnJudge
from reward_model.parsing import forced_prefix, format_report
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, Verdict, VerdictScore
from reward_model.terminal.described import choices_of, settings_of
from reward_model.video.clip import VideoError, zoom_indices

CAC_MINI = Path(__file__).parents[2] / "assets" / "cac-mini"
FRAMES = np.zeros((81, 16, 16, 3), np.uint8)
NORMAL = format_report(TurnReport("normal", "all well"))


def abnormal(start, end, boxes=None):
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(start, end), boxes or {}, reason="bent cup", region="table")
    return format_report(TurnReport("abnormal", "a cup bends", (anomaly,)), boxes=boxes is not None)


SUSPECT = abnormal(3, 5)
CONFIRM = abnormal(1, 2, {1: (Box(0, 0, 500, 500),), 2: (Box(0, 0, 500, 500), Box(600, 0, 700, 100))})


@dataclass
class Scripted:
    """Answers in the order given per turn; scores from a table of (turn, kind of prefix)."""

    scans: list
    zooms: list = field(default_factory=list)
    scores: dict = field(default_factory=dict)
    name: str = "scripted"
    calls: list = field(default_factory=list)
    turn_by_count: bool = False

    def _turn(self, conversations):
        if self.turn_by_count:
            return 2 if len(self.calls) >= 2 else 1
        # A scan of 81 frames at 16 fps shows 21 frames; the clips here are shorter.
        return 1 if sum(isinstance(p, np.ndarray) for m in conversations[0] for p in m.content) == 21 else 2

    def generate(self, conversations, sampling):
        turn = self._turn(conversations)
        self.calls.append(("generate", turn, len(conversations), conversations))
        source = self.scans if turn == 1 else self.zooms
        answers = [source.pop(0) for _ in conversations]
        return [a if isinstance(a, Completion) else Completion(a) for a in answers]

    def score(self, conversations, prefixes):
        turn = self._turn(conversations)
        self.calls.append(("score", turn, len(conversations), list(prefixes)))
        kinds = ["direct" if p == forced_prefix() else "paper" for p in prefixes]
        return [self.scores.get((turn, kind)) for kind in kinds]

    def describe(self):
        return {"model": "script"}


SCORES = {
    (1, "paper"): VerdictScore(-0.1, -3),
    (1, "direct"): VerdictScore(-1, -2),
    (2, "paper"): VerdictScore(-3, -0.1),
    (2, "direct"): VerdictScore(-2, -1),
}


def judge_one(backend, **options):
    return TwoTurnJudge(backend, prompts="compact", **options).judge([FRAMES], fps=16)[0]


def test_an_answer_that_a_limit_cut_is_invalid_even_if_what_is_there_can_be_read():
    cut = Completion(SUSPECT, finished=False, num_tokens=9)
    verdict = judge_one(Scripted([cut], scores={(1, "paper"): VerdictScore(-0.1, -3)}))
    (turn,) = verdict.turns
    assert turn.report is None and turn.parse_error == "cut after 9 tokens"
    assert (verdict.status, verdict.forced, verdict.anomalies) == ("normal", True, ()), "by the likelier word"
    assert "cut after 9 tokens" in judge_one(Scripted([cut])).error
    whole = judge_one(Scripted([SUSPECT], [CONFIRM], scores=SCORES))
    assert not whole.forced and whole.status == "abnormal"


def test_normal_in_turn_one_is_one_call():
    backend = Scripted([NORMAL], scores=SCORES)
    verdict = judge_one(backend)
    assert (verdict.status, len(verdict.turns), verdict.window) == ("normal", 1, None)
    assert verdict.score == pytest.approx(0.9478, abs=1e-4)
    assert [c[:2] for c in backend.calls] == [("generate", 1), ("score", 1)]


@pytest.mark.parametrize(("margin", "first"), [("none", 12), ("half", 10)])
def test_confirmed_abnormal_takes_the_boxes_of_turn_two_to_native_frames(margin, first):
    """Scan frames 3-5 are native 12-20, whatever the clip shows beside them."""
    verdict = judge_one(Scripted([SUSPECT], [CONFIRM], SCORES), window_margin=margin)
    assert (verdict.status, len(verdict.turns)) == ("abnormal", 2)
    assert verdict.window == FrameRange(12, 20) and verdict.window_s == (12 / 16, 21 / 16)
    assert verdict.turns[1].frame_indices == tuple(range(first, 33 - first, 2))
    (anomaly,) = verdict.anomalies
    assert anomaly.frames == FrameRange(first + 2, first + 4)
    assert list(anomaly.boxes) == [first + 2, first + 4] and len(anomaly.boxes[first + 4]) == 2
    assert verdict.score == pytest.approx(1 - 0.9478, abs=1e-4)


def test_unconfirmed_is_normal_and_keeps_the_window():
    verdict = judge_one(Scripted([SUSPECT], [NORMAL], {**SCORES, (2, "paper"): VerdictScore(-0.1, -3)}))
    assert (verdict.status, verdict.anomalies, verdict.window) == ("normal", (), FrameRange(12, 20))
    assert verdict.score == pytest.approx(0.9478, abs=1e-4)


def test_a_window_that_reaches_past_the_end_is_clipped():
    verdict = judge_one(Scripted([SUSPECT.replace("Frame 3-5", "Frame 18-21")], [CONFIRM], SCORES))
    assert (verdict.status, verdict.window, verdict.forced) == ("abnormal", FrameRange(72, 80), False)
    assert verdict.turns[1].frame_indices == (72, 74, 76, 78, 80)


TWO_WINDOWS = SUSPECT.replace("Frame 3-5", "Frame 1-2, Frame 18-19")


@pytest.mark.parametrize(
    ("zooms", "status", "decides"),
    [
        ([NORMAL, CONFIRM], "abnormal", 72),
        ([CONFIRM, NORMAL], "abnormal", 4),
        ([NORMAL, NORMAL], "normal", 72),
        ([CONFIRM, CONFIRM], "abnormal", 72),
    ],
)
def test_windows_far_apart_get_a_clip_each_and_any_may_confirm(zooms, status, decides):
    backend = Scripted([TWO_WINDOWS], list(zooms), SCORES)
    verdict = judge_one(backend, crop="per_window", max_zoom_frames=20, min_zoom_frames=3)
    assert (verdict.status, verdict.window) == (status, FrameRange(4, 76))
    assert sorted(t.frame_indices for t in verdict.turns[1:]) == [(4, 6, 8), (72, 74, 76)]
    assert (verdict.turns[-1].status, verdict.turns[-1].frame_indices[0]) == (status, decides)
    assert len(verdict.anomalies) == zooms.count(CONFIRM)
    whole = judge_one(Scripted([TWO_WINDOWS], [NORMAL], SCORES), max_zoom_frames=20)
    assert len(whole.turns) == 2 and len(whole.turns[1].frame_indices) == 20


def test_turn_two_may_have_to_draw_on_every_frame():
    verdict = judge_one(Scripted([SUSPECT], [CONFIRM], SCORES), require_all_frames=True)
    assert "frame 0 of the clip" in verdict.turns[1].parse_error and verdict.forced


def test_a_legible_status_may_count_although_the_answer_breaks_the_schema():
    broken = NORMAL.replace('"anomalies": []', '"anomalies": [{}]')
    scores = {(1, "paper"): VerdictScore(-3, -0.1)}
    strict, lenient = (judge_one(Scripted([broken], scores=scores), lenient_invalid=k) for k in (False, True))
    assert strict.status == "abnormal" and strict.turns[0].parse_error
    assert lenient.status == "normal" and lenient.turns[0].parse_error


@pytest.mark.parametrize("window", ["Frame 21-50", "sometime", ""])
def test_invalid_window_ends_after_turn_one_forced(window):
    backend = Scripted([SUSPECT.replace("Frame 3-5", window)], scores={(1, "paper"): VerdictScore(-5, -0.1)})
    verdict = judge_one(backend)
    assert (verdict.status, len(verdict.turns), verdict.window, verdict.forced) == ("abnormal", 1, None, True)
    # The answer states its own status, if nothing else: the verdict is read there, and nothing was put into its mouth.
    assert verdict.turns[0].parse_error and not verdict.turns[0].score.forced
    assert backend.calls[-1][3] == ['{"COT": "a cup bends", "status": "']


def test_garbage_is_judged_by_the_forced_verdict():
    verdict = judge_one(Scripted(["<garbage>"], scores={(1, "paper"): VerdictScore(-0.2, -2)}))
    assert (verdict.status, verdict.forced) == ("normal", True)


@pytest.mark.parametrize("answer", [SUSPECT.upper(), SUSPECT.replace('"abnormal"', '"Abnormal"'), SUSPECT])
def test_both_readouts_score_the_words_as_the_answer_spells_them(answer):
    answer = answer.replace("FRAME 3-5", "Frame 3-5")
    backend = Scripted([answer], scores=SCORES)
    verdict = judge_one(backend, num_turns=1, readout="direct", all_readouts=True)
    assert verdict.status == "abnormal" and not verdict.turns[0].score.forced
    prefixes = [p for call in backend.calls if call[0] == "score" for p in call[3]]
    word = "ABNORMAL" if "ABNORMAL" in answer else "Abnormal" if "Abnormal" in answer else "abnormal"
    assert [p.words[1] for p in prefixes] == [word, word]


def test_broken_quotes_keep_the_reasoning_and_the_place():
    answer = '{"COT": "the "sign" is bad", "status": "abnormal", "anomalies": [{"Attrib'
    backend = Scripted([answer], scores={(1, "paper"): VerdictScore(-5, -0.1)})
    verdict = judge_one(backend)
    assert (verdict.status, verdict.forced, verdict.turns[0].score.forced) == ("abnormal", True, False)
    assert backend.calls[-1][3] == ['{"COT": "the "sign" is bad", "status": "']


@pytest.mark.parametrize("readout", ["paper", "direct"])
@pytest.mark.parametrize("answer", [NORMAL, "<garbage>"])
def test_two_tails_are_no_verdict(readout, answer):
    """Both words far below what a blind guess has: the judge would write something else, and the ratio is noise."""
    tails = VerdictScore(-27.0, -59.7)
    verdict = judge_one(Scripted([answer], scores={(1, "paper"): tails, (1, "direct"): tails}), readout=readout)
    assert verdict.status is None and verdict.score is None and "2e-12 together" in verdict.error


def test_garbage_without_probabilities_is_no_verdict():
    verdict = judge_one(Scripted(["<garbage>"]))
    assert verdict.status is None and verdict.score is None
    assert "could not be parsed" in verdict.error


def test_without_probabilities_the_status_is_the_score():
    assert judge_one(Scripted([NORMAL])).score == 1.0
    assert judge_one(Scripted([SUSPECT], [CONFIRM])).score == 0.0


def test_a_failed_call_is_no_verdict_in_either_turn():
    verdict = judge_one(Scripted([Completion("", error="server down")]))
    assert (verdict.score, verdict.error) == (None, "server down")
    verdict = judge_one(Scripted([SUSPECT], [Completion("", error="server down")], SCORES))
    assert verdict.score is None and verdict.error == "turn two: server down"


@pytest.mark.parametrize(("readout", "value"), [("paper", 0.9478), ("direct", 0.7311), ("log_odds", 0.5622)])
def test_readouts_ask_for_what_they_need(readout, value):
    backend = Scripted([NORMAL], scores=SCORES)
    assert judge_one(backend, readout=readout).score == pytest.approx(value, abs=1e-4)
    prefixes = [c[3][0] for c in backend.calls if c[0] == "score"]
    assert len(prefixes) == 1
    assert (prefixes[0] == forced_prefix()) == (readout != "paper")


def test_all_readouts_are_kept_when_asked():
    turn = judge_one(Scripted([NORMAL], scores=SCORES), all_readouts=True).turns[0]
    assert turn.score == SCORES[1, "paper"] and turn.direct_score == SCORES[1, "direct"]


def test_without_reasoning_nothing_is_generated():
    backend = Scripted([], scores={(1, "direct"): VerdictScore(-3, -0.1)})
    verdict = judge_one(backend, reasoning=False)
    assert verdict.status == "abnormal" and verdict.readout == "direct"
    assert [c[0] for c in backend.calls] == ["score"]
    with pytest.raises(ValueError, match="reasoning=False"):
        JudgeConfig(reasoning=False, readout="paper")


def test_single_turn_decides_on_the_scan():
    verdict = judge_one(Scripted([SUSPECT], scores=SCORES), num_turns=1)
    assert verdict.status == "abnormal" and len(verdict.turns) == 1
    assert verdict.anomalies[0].frames == FrameRange(12, 20)


def test_joint_aggregate_multiplies_the_doubts():
    verdict = judge_one(Scripted([SUSPECT], [CONFIRM], SCORES), aggregate="joint")
    assert verdict.score == pytest.approx(1 - (1 - 0.9478) * 0.9478, abs=1e-4)


def test_turn_two_sees_the_clip_and_the_reasoning_or_the_whole_chat():
    for context, messages in (("fresh", 1), ("chat", 3), ("clip_only", 1)):
        backend = Scripted([SUSPECT], [CONFIRM], SCORES)
        # In a chat the scan's 21 frames come along, so the turn is told by the number of messages.
        backend.turn_by_count = True
        TwoTurnJudge(backend, prompts="paper", context=context).judge([FRAMES], fps=16)
        conversation = next(c[3][0] for c in backend.calls if c[:2] == ("generate", 2))
        assert len(conversation) == messages
        said = "".join(p for m in conversation for p in m.content if isinstance(p, str))
        assert ("a cup bends" in said) == (context != "clip_only")


def test_both_turns_are_batched_and_order_is_kept():
    backend = Scripted([NORMAL, SUSPECT, NORMAL, SUSPECT], [NORMAL, CONFIRM], SCORES)
    verdicts = TwoTurnJudge(backend, prompts="compact").judge([FRAMES] * 4, fps=16)
    assert [v.status for v in verdicts] == ["normal", "normal", "normal", "abnormal"]
    assert [c[:3] for c in backend.calls if c[0] == "generate"] == [("generate", 1, 4), ("generate", 2, 2)]


def test_a_bad_video_spoils_no_other():
    backend = Scripted([NORMAL, NORMAL], scores=SCORES)
    judge = TwoTurnJudge(backend, prompts="compact")
    verdicts = judge.judge([FRAMES, "/nowhere.mp4", FRAMES], fps=16)
    assert [v.score is None for v in verdicts] == [False, True, False]
    assert "nowhere.mp4" in verdicts[1].error
    with pytest.raises(VideoError, match="nowhere"):
        judge.judge(["/nowhere.mp4"], on_error="raise")


@pytest.mark.parametrize("fps", [None, 0, -4, float("nan")])
def test_bad_fps_is_raised_before_anything_is_asked(fps):
    backend = Scripted([NORMAL])
    with pytest.raises(VideoError, match="fps"):
        TwoTurnJudge(backend, prompts="compact").judge([FRAMES], fps=fps)
    assert not backend.calls


def test_counts_must_match():
    judge = TwoTurnJudge(Scripted([]), prompts="compact")
    with pytest.raises(ValueError, match="2 prompts for 1 videos"):
        judge.judge([FRAMES], ["a", "b"], fps=16)


def test_verdict_survives_json_with_its_provenance():
    verdict = judge_one(Scripted([SUSPECT], [CONFIRM], SCORES), all_readouts=True)
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    for key in ("model", "prompts", "readout", "seconds", "temperature", "scan_fps"):
        assert key in verdict.provenance
    assert verdict.turns[0].text == SUSPECT


def test_every_setting_is_explained_with_its_choices():
    settings = settings_of(JudgeConfig)
    assert [s.name for s in settings] == [f.name for f in fields(JudgeConfig)]
    for s in settings:
        assert len(s.text) > 6 and s.group, s.name
        assert f"\n    {s.name} = {s.default!r}: " in (JudgeConfig.__doc__ or ""), s.name
    choices = choices_of(JudgeConfig)
    assert (
        choices["readout"] == READOUTS and choices["num_turns"] == (1, 2) and choices["aggregate"] == ("final", "joint")
    )
    kinds = {s.name: s.kind for s in settings}
    assert kinds["scan_fps"] == "number above 0 and at most 1,000" and kinds["temperature"] == "number of at least 0"


def test_frame_limits_have_one_source():
    """A clip that is cut without settings is that of a judge without settings, and of the synthesis."""
    window, judge, ask = FrameRange(0, 399), JudgeConfig(), AskConfig()
    clip = zoom_indices(window, 400, 16.0)
    limits = {"min_frames": judge.min_zoom_frames, "max_frames": judge.max_zoom_frames}
    assert clip == zoom_indices(window, 400, 16.0, judge.zoom_fps, **limits) and len(clip) == 48
    names = ("scan_fps", "zoom_fps", "min_zoom_frames", "max_zoom_frames")
    assert all(getattr(judge, n) == getattr(ask, n) for n in names)


def test_numbers_of_numpy_become_python_s():
    judge = JudgeConfig(scan_fps=np.float32(2), max_zoom_frames=np.int64(9))
    assert json.loads(judge_json(judge))["max_zoom_frames"] == 9 and judge == JudgeConfig(
        scan_fps=2.0, max_zoom_frames=9
    )


def test_settings_of_a_checkpoint(tmp_path):
    assert load_judge_config(tmp_path) == JudgeConfig()
    (tmp_path / "judge.json").write_text(
        '{"prompts": "compact", "frame_size": 32, "max_new_tokens": {"scan": 9, "zoom": 8}}'
    )
    config = load_judge_config(tmp_path)
    assert (config.prompts, config.frame_size, config.max_scan_tokens, config.max_zoom_tokens) == ("compact", 32, 9, 8)
    (tmp_path / "judge.json").write_text('{"promts": "compact"}')
    with pytest.raises(ValueError, match="promts"):
        load_judge_config(tmp_path)
    for broken, said in (("{", "not valid JSON"), ("[1]", "must hold a JSON object"), ("[" * 99_999, "not valid JSON")):
        (tmp_path / "judge.json").write_text(broken)
        with pytest.raises(ValueError, match=rf"judge\.json.*{said}"):
            load_judge_config(tmp_path)


def test_a_checkpoint_is_asked_as_it_was_trained_also_where_its_file_is_older_than_a_setting(tmp_path):
    assert (JudgeConfig().window_margin, JudgeConfig().readouts) == ("none", ("paper",))
    (tmp_path / "judge.json").write_text('{"prompts": "paper"}')
    old = load_judge_config(tmp_path)
    assert (old.window_margin, old.readouts, old.crop, old.context) == ("half", ("paper",), "hull", "fresh")
    assert (old.frame_fit, JudgeConfig().frame_fit, old.long_videos) == ("squeeze", "pad", "chunks")
    again = tmp_path / "again"
    again.mkdir()
    (again / "judge.json").write_text(judge_json(JudgeConfig(frame_size=48, long_videos="thin", scan_overlap=2)))
    assert load_judge_config(again) == JudgeConfig(
        frame_size=48, long_videos="thin", scan_overlap=2, prompt_version=load_judge_config(again).prompt_version
    )
    (tmp_path / "judge.json").write_text('{"window_margin": "none", "readouts": ["log_odds", "paper"]}')
    new = load_judge_config(tmp_path)
    assert (new.window_margin, new.readouts) == ("none", ("log_odds", "paper"))
    shipped = load_judge_config(CAC_MINI)
    assert (shipped.window_margin, shipped.readouts) == ("half", ("log_odds", "direct", "paper"))
    assert (shipped.max_scan_tokens, shipped.max_zoom_tokens) == (128, 480)


def test_limits_of_answers_follow_the_frames_unless_they_are_set():
    # An answer that follows the paper's prompt has 262 tokens a frame with a person in view: 5,875 for 21 frames,
    # 7,301 for 24 and 12,316 for 41, counted with Qwen3-VL's vocabulary.
    config = JudgeConfig()
    for frames, counted in ((21, 5875), (24, 7301), (41, 12316)):
        assert config.answer_limit(1, frames) == config.answer_limit(2, frames) == answer_limit(frames) > 1.1 * counted
    fixed = JudgeConfig(max_scan_tokens=128, max_zoom_tokens=480)
    assert (fixed.answer_limit(1, 21), fixed.answer_limit(2, 24)) == (128, 480)
    asked = []
    backend = Scripted([SUSPECT], [CONFIRM], SCORES)
    generate = backend.generate
    backend.generate = lambda chats, sampling: asked.append(sampling.max_new_tokens) or generate(chats, sampling)
    verdict = judge_one(backend)
    assert asked == [answer_limit(len(turn.frame_indices)) for turn in verdict.turns] and len(asked) == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"readout": "mean"},
        {"num_turns": 3},
        {"scan_fps": 0},
        {"min_zoom_frames": 99},
        {"temperature": -0.1},
        {"speed": 1},
        {"readouts": ()},
        {"readouts": ["paper", "mean"]},
        {"window_margin": "all"},
        {"crop": "all"},
        {"context": "clip"},
        {"frame_size": 20_000},
        {"frame_size": "48"},
        {"max_zoom_frames": 10**9},
        {"max_scan_frames": 0},
        {"batch_size": 2.5},
        {"all_readouts": "yes"},
        {"prompts": 3},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        JudgeConfig().override(**bad)


NAN = VerdictScore(float("nan"), float("nan"))


@pytest.mark.parametrize("readout", ["paper", "direct", "log_odds"])
@pytest.mark.parametrize("bad", [NAN, VerdictScore(-0.1, float("-inf")), VerdictScore(0, 0, error="out of memory")])
def test_a_score_that_is_no_number_is_no_verdict(readout, bad):
    kind = "paper" if readout == "paper" else "direct"
    for answer in (NORMAL, "<garbage>"):
        scores = {**SCORES, (1, kind): bad, **({(1, "paper"): bad} if answer != NORMAL else {})}
        verdict = judge_one(Scripted([answer], scores=scores), readout=readout)
        assert (verdict.status, verdict.score) == (None, None)
        assert "log-probabilities of" in verdict.error or "out of memory" in verdict.error
        json.dumps(verdict.to_dict(), allow_nan=False)


def test_a_lost_score_that_nothing_depends_on_costs_nothing():
    verdict = judge_one(Scripted([NORMAL], scores={**SCORES, (1, "paper"): NAN}), readout="direct", all_readouts=True)
    assert verdict.status == "normal" and verdict.score == pytest.approx(0.7311, abs=1e-4)
    assert verdict.turns[0].score is None


def test_a_long_video_is_scanned_at_a_lower_rate_and_says_so(caplog):
    backend = Scripted([NORMAL] * 3, scores=SCORES, turn_by_count=True)
    judge = TwoTurnJudge(backend, prompts="compact", max_scan_frames=20, long_videos="thin")
    long, whole = judge.judge([np.zeros((81, 8, 8, 3), np.uint8), np.zeros((77, 8, 8, 3), np.uint8)], fps=16)
    turn = long.turns[0]
    assert len(turn.frame_indices) == 20 and turn.frame_indices[0] == 0 and turn.frame_indices[-1] == 80
    assert turn.fps == pytest.approx(16 / (80 / 19))
    assert long.provenance["thinned_to_fps"] == {"1": 3.8} and long.provenance["max_scan_frames"] == 20
    assert whole.turns[0].fps == 4 and "thinned_to_fps" not in whole.provenance
    assert len([r for r in caplog.records if "max_scan_frames=20" in r.getMessage()]) == 1


def test_half_a_minute_is_scanned_whole_by_default():
    judge = TwoTurnJudge(Scripted([NORMAL] * 3, scores=SCORES, turn_by_count=True), prompts="compact")
    videos = [np.zeros((n, 4, 4, 3), np.uint8) for n in (31 * 4, 60 * 4)]
    seen = [[len(t.frame_indices) for t in v.turns] for v in judge.judge(videos, fps=4)]
    assert seen == [[124], [122, 122]], "a minute in two chunks"


@dataclass
class ByFrames:
    """Answers that go by the brightness of the first frame shown: what is scripted for it, in turn one and two."""

    answers: dict
    name: str = "by frames"
    shown: list = field(default_factory=list)

    def _pictures(self, conversation):
        return [p for m in conversation for p in m.content if isinstance(p, np.ndarray)]

    def generate(self, conversations, sampling):
        self.shown.append([len(self._pictures(c)) for c in conversations])
        said = []
        for conversation in conversations:
            pictures = self._pictures(conversation)
            step = int(pictures[1].flat[0]) - int(pictures[0].flat[0])
            said.append(Completion(self.answers.get((int(pictures[0].flat[0]), step), NORMAL)))
        return said

    def score(self, conversations, prefixes):
        return [VerdictScore(-3, -0.1) if "bends" in p else VerdictScore(-0.1, -3) for p in prefixes]

    def describe(self):
        return {"model": "script"}


def numbered(num_frames):
    """Frame k has brightness k."""
    return np.broadcast_to(np.arange(num_frames, dtype=np.uint8)[:, None, None, None], (num_frames, 8, 8, 3)).copy()


LONG = {"prompts": "compact", "max_scan_frames": 25}


def test_a_long_video_is_scanned_in_chunks_with_one_verdict():
    """The second chunk is confirmed in turn two; turns stand in order, anomalies in native frames."""
    backend = ByFrames({(72, 4): abnormal(10, 12), (112, 2): CONFIRM})
    judge = TwoTurnJudge(backend, **LONG)
    verdict, short = judge.judge([numbered(161), numbered(81)], fps=16)
    assert [(t.number, t.frame_indices[0], t.status) for t in verdict.turns] == [
        (1, 0, "normal"),
        (1, 72, "abnormal"),
        (2, 112, "abnormal"),
    ]
    assert (verdict.status, verdict.window) == ("abnormal", FrameRange(112, 120))
    (anomaly,) = verdict.anomalies
    assert anomaly.frames == FrameRange(114, 116) and list(anomaly.boxes) == [114, 116]
    assert verdict.score == pytest.approx(1 / (1 + np.exp(2.9))) and verdict.log_odds == pytest.approx(-2.9)
    assert (verdict.provenance["chunks"], verdict.provenance["scan_overlap"]) == (2, 4)
    assert (short.status, len(short.turns)) == ("normal", 1) and "chunks" not in short.provenance
    assert max(n for batch in backend.shown for n in batch) <= 25, "no question has more frames than the limit"
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_a_suspicion_that_turn_two_clears_leaves_a_long_video_normal():
    backend = ByFrames({(0, 4): abnormal(1, 2), (72, 4): abnormal(10, 12)})
    verdict = TwoTurnJudge(backend, **LONG).judge([numbered(161)], fps=16)[0]
    assert [t.number for t in verdict.turns] == [1, 2, 1, 2]
    assert (verdict.status, verdict.anomalies, verdict.window) == ("normal", (), FrameRange(4, 8))
    assert verdict.score == pytest.approx(1 / (1 + np.exp(-2.9)))


def test_only_the_frames_of_one_batch_of_chunks_are_held():
    """Eleven chunks of one video in batches of two: no call has more, and all are judged."""
    backend = ByFrames({})
    verdict = TwoTurnJudge(backend, **LONG, batch_size=2).judge([numbered(250)], fps=4)[0]
    assert verdict.status == "normal" and len(verdict.turns) == 12
    assert [len(batch) for batch in backend.shown] == [2] * 6


def test_a_chunk_that_cannot_be_judged_leaves_no_verdict_unless_another_is_abnormal():
    silent = Completion("", error="the server hung up")
    backend = Scripted([NORMAL, silent], scores=SCORES, turn_by_count=True)
    lost = TwoTurnJudge(backend, **LONG).judge([numbered(161)], fps=16)[0]
    assert (lost.status, lost.score, lost.error) == (None, None, "chunk 2 of 2: the server hung up")
    backend = Scripted([abnormal(3, 5), silent], [CONFIRM], SCORES, turn_by_count=True)
    told = TwoTurnJudge(backend, **LONG).judge([numbered(161)], fps=16)[0]
    assert (told.status, told.error, len(told.anomalies)) == ("abnormal", None, 1)


@pytest.mark.parametrize(("fit", "rows"), [("pad", (163, 1000)), ("squeeze", (300, 1000))])
def test_boxes_of_a_verdict_lie_on_the_native_frame(fit, rows):
    """A picture of 16:9 in a square of 32: padding above and below is not part of it."""
    drawn = abnormal(1, 2, {1: (Box(100, 300, 200, 1000),), 2: (Box(0, 0, 500, 100),)})
    backend = Scripted([SUSPECT], [drawn], SCORES)
    judge = TwoTurnJudge(backend, prompts="compact", frame_size=48, frame_fit=fit)
    verdict = judge.judge([np.full((81, 90, 160, 3), 200, np.uint8)], fps=16)[0]
    (anomaly,) = verdict.anomalies
    assert anomaly.boxes[14] == (Box(100, rows[0], 200, rows[1]),)
    assert (16 in anomaly.boxes) == (fit == "squeeze"), "a box in the padding alone is none"
    assert verdict.turns[1].report.anomalies[0].boxes[1] == anomaly.boxes[14], "reports lie where annotations do"
    picture = next(p for p in backend.calls[0][3][0][-1].content if isinstance(p, np.ndarray))
    assert picture.shape == (48, 48, 3) and (picture[0, 0, 0] == 200) == (fit == "squeeze")
    assert verdict.provenance["frame_fit"] == fit


def test_provenance_tells_all_that_a_score_depends_on():
    settings = {"max_scan_tokens": 9, "max_zoom_tokens": 8, "frame_size": 16, "seed": 3, "max_zoom_frames": 12}
    verdict = judge_one(Scripted([NORMAL], scores=SCORES), **settings)
    for name, value in settings.items():
        assert verdict.provenance[name] == value, name
    for name in ("max_scan_frames", "min_zoom_frames", "window_margin", "crop", "num_turns", "log_odds_temperature"):
        assert name in verdict.provenance, name


def test_frames_that_cannot_be_had_spoil_no_other():
    """A file may break off behind its header: that shows when the frames of a turn are read."""
    from reward_model.video.clip import Video

    class Torn(Video):
        def take(self, indices, size=None):
            raise VideoError("breaks off at frame 12")

    judge = TwoTurnJudge(Scripted([NORMAL, NORMAL], scores=SCORES), prompts="compact")
    judge._open = lambda video, prompt, fps, strict: judge._view(Video(FRAMES, 16) if video is FRAMES else video, "")
    first, torn, last = judge.judge([FRAMES, Torn(FRAMES, 16), FRAMES], fps=16)
    assert (first.status, torn.status, last.status) == ("normal", None, "normal")
    assert torn.error == "breaks off at frame 12"
