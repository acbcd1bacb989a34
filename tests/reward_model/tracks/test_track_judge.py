"""Ticks from end to end: verdicts of ordinary boxes, and trainings that ask and read as the judge does."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from reward_model.active.environment import VideoEnvironment
from reward_model.active.episodes import run_episode
from reward_model.active.two_turn import TwoTurnPolicy, two_turn_limits
from reward_model.backends.replay import RecordingBackend, ReplayBackend
from reward_model.config import JudgeConfig, judge_json, load_judge_config
from reward_model.conversation import Completion
from reward_model.evaluation.metrics.tubes import rollout_tube_iou, rollout_tube_overlap
from reward_model.evaluation.running.row import rollout_of
from reward_model.judge import TwoTurnJudge
from reward_model.minis.model import build_judge
from reward_model.minis.rows import draw_rows, make_example
from reward_model.parsing import format_report, parse_turn
from reward_model.rewards import RewardConfig, total_reward
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VerdictScore, VideoAnnotation
from reward_model.tracks.codec import Ticks
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.rollouts import GrpoSample, TwoTurnRollouts
from reward_model.training.grpo.rows import PromptBuilder, stock_vision_inputs
from reward_model.training.grpo.sampler import Sampled
from reward_model.training.grpo.setup import judge_file
from reward_model.turns import VideoView

FRAMES = np.zeros((81, 16, 16, 3), np.uint8)
#: Scan frames 3-7 are native 12-28, turn two's clip at 8 fps is native 12, 14, .., 28.
SUSPECT = format_report(
    TurnReport("abnormal", "It bends.", (Anomaly(AnomalyType.OBJECT, FrameRange(3, 7), reason="it bends"),)),
    boxes=False,
)
CLIP = tuple(range(12, 29, 2))


def true_box(native):
    return Box(100 + 10 * native, 200, 300 + 10 * native, 400)


TRUTH = VideoAnnotation(
    "v", 81, 16, 48, 48, anomalies=(
        Anomaly(AnomalyType.OBJECT, FrameRange(12, 28), {n: (true_box(n),) for n in range(12, 29)}),
    )
)  # fmt: skip


def confirm(wording):
    boxes = {k: (true_box(n),) for k, n in enumerate(CLIP)}
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(0, 8), boxes, reason="it bends")
    report = TurnReport("abnormal", "It bends.", (anomaly,))
    return Ticks(0.5, wording).write(report, [k / 8 for k in range(9)])


@dataclass
class Scripted:
    """Answers to turn one and turn two, in this order."""

    answers: list
    asked: list = field(default_factory=list)
    name: str = "scripted"

    def generate(self, conversations, sampling):
        self.asked += conversations
        return [Completion(self.answers.pop(0), num_tokens=7) for _ in conversations]

    def score(self, conversations, prefixes):
        return [VerdictScore(-3, -0.1) for _ in conversations]

    def describe(self):
        return {"model": "script"}


@pytest.mark.parametrize("wording", ["paper", "compact"])
def test_a_verdict_holds_a_box_on_every_frame_of_the_clip(wording, tmp_path):
    backend = Scripted([SUSPECT, confirm(wording)])
    record = RecordingBackend(backend, tmp_path / "exchanges.jsonl")
    settings = {"prompts": wording, "track": "0.5s"}
    (verdict,) = TwoTurnJudge(record, **settings).judge([FRAMES], fps=16)
    (anomaly,) = verdict.anomalies
    assert verdict.status == "abnormal" and anomaly.frames == FrameRange(12, 28)
    assert {n: boxes[0] for n, boxes in anomaly.boxes.items()} == {n: true_box(n) for n in CLIP}
    assert verdict.provenance["track"].startswith("ticks 0.5 s, whittaker+")
    assert "0.5 s" in str(backend.asked[1][-1].content[-1])
    rollout = rollout_of(verdict)
    overlap, hull = rollout_tube_overlap(rollout, TRUTH)
    assert rollout_tube_iou(rollout, TRUTH) == overlap.union == overlap.t_iou == hull == 1

    replayed = TwoTurnJudge(ReplayBackend(tmp_path / "exchanges.jsonl"), **settings).judge([FRAMES], fps=16)[0]
    assert replayed.anomalies == verdict.anomalies


def test_the_two_turn_policy_reads_ticks_by_the_true_times_of_its_frames():
    """At 12 native frames a second a clip at 8 is not evenly spaced: its third frame is at 0.25 s, its fifth at 0.5."""
    boxes = {"0.25": [0, 0, 100, 100], "0.5": [200, 0, 300, 100]}
    item = {"Attributed Time Region": "0.25-0.5 s", "Attributed Label": "Object Distortion", "BBOX": boxes}
    zoom = json.dumps({"COT": "x", "status": "abnormal", "anomalies": [item]})
    config = JudgeConfig(track="0.25s")
    (verdict,) = TwoTurnJudge(Scripted([SUSPECT, zoom]), config).judge([FRAMES[:61]], fps=12)
    seen = VideoView(61, 12.0, lambda indices: FRAMES[list(indices)], size=(16, 16))
    environment = VideoEnvironment(seen, two_turn_limits(config, 61, 12.0))
    episode = run_episode(TwoTurnPolicy(Scripted([SUSPECT, zoom]), config), environment)
    report, turn = episode.moves[-1].answer.report, verdict.turns[1]
    assert report == turn.report and turn.frame_indices == episode.observations[-1].indices
    frames = [turn.frame_indices[k] - turn.frame_indices[0] for k in report.anomalies[0].frames.frames()]
    assert (frames[0], frames[-1]) == (3, 6)


def test_ticks_and_a_judge_that_looks_itself_are_refused_together():
    with pytest.raises(ValueError, match="policy='active' has no turn two"):
        JudgeConfig(policy="active", track="1s")


def test_the_papers_schema_is_refused_where_ticks_are_asked_for():
    boxes = dict.fromkeys(range(9), (true_box(12),))
    whole = format_report(TurnReport("abnormal", "x", (Anomaly(AnomalyType.OBJECT, FrameRange(0, 8), boxes),)))
    verdict = TwoTurnJudge(Scripted([SUSPECT, whole]), prompts="compact", track="0.5s").judge([FRAMES], fps=16)[0]
    assert "is not a tick" in verdict.turns[1].parse_error


def test_provenance_of_other_judges_is_as_it_was():
    verdict = TwoTurnJudge(Scripted([format_report(TurnReport("normal", "fine"))])).judge([FRAMES], fps=16)[0]
    assert "track" not in verdict.provenance


class Script:
    """Draws the same two answers for every rollout."""

    def __init__(self, processor, *answers):
        self.tokenizer, self.answers = processor.tokenizer, list(answers)

    def __call__(self, prompts, repeats, limit):
        answer = self.answers.pop(0)
        ids = self.tokenizer.encode(answer + self.tokenizer.eos_token, add_special_tokens=False)
        return [[Sampled(tuple(ids), True) for _ in range(n)] for n in repeats]


def test_stage_three_asks_reads_and_rewards_at_ticks():
    _, processor = build_judge("tiny")
    pixels = np.zeros((81, 48, 48, 3), np.uint8)
    sample = GrpoSample(TRUTH, lambda indices: pixels[list(indices)])
    judge = JudgeConfig(prompts="compact", frame_size=48, track="0.5s")
    builder = PromptBuilder(processor, stock_vision_inputs(processor))
    rollouts = TwoTurnRollouts(builder, Script(processor, SUSPECT, confirm("compact")), judge)
    ((record,),) = rollouts.draw([sample], 1)
    assert record.zooms[0].invalid is None
    assert {k: b[0] for k, b in record.zooms[0].report.anomalies[0].boxes.items()} == dict(
        enumerate(map(true_box, CLIP))
    )
    config = GrpoConfig(localisation="tv_verifier", weight_temporal=1, weight_spatial=1).reward_config(judge)
    assert config == RewardConfig(config.weights, localisation="tv_verifier", mv_norm="union")
    parts = total_reward(record.outcome(), TRUTH, config)
    assert (parts.temporal, parts.spatial, parts.total) == (1, 1, 4)
    text = processor.tokenizer.decode(record.rows[1].ids.tolist())
    assert "Zoom. 0.5 s." in text


def test_a_trained_judge_carries_its_ticks_and_a_later_one_can_give_them_up(tmp_path):
    (tmp_path / "judge.json").write_text(judge_json(JudgeConfig(track="1s", track_smoothing="none")))
    known = load_judge_config(tmp_path)
    kept, given_up = (json.loads(judge_file(str(tmp_path), j)) for j in (known, known.override(track="per_frame")))
    assert (kept["track"], kept["track_smoothing"]) == ("1s", "none")
    assert "track" not in given_up and "track_smoothing" not in given_up


@pytest.mark.parametrize("task", ["zoom", pytest.param("clip", marks=pytest.mark.slow)])
def test_procedural_clips_are_taught_at_ticks(task):
    """The same samples in all else: frames, reasoning, status; boxes are those of the ticks."""
    codec, seen = Ticks(0.25, "compact"), 0
    for row in draw_rows([task] * 12, seed=5, abnormal=0.9):
        plain, ticks = make_example(row), make_example(row, codec=codec)
        pictures = ([p for m in e.conversation for p in m.content if not isinstance(p, str)] for e in (plain, ticks))
        assert all(np.array_equal(a, b) for a, b in zip(*pictures, strict=True))
        number = sum(not isinstance(p, str) for m in plain.conversation for p in m.content)
        whole = parse_turn(plain.answer, turn=2, num_frames=number)
        thin = parse_turn(ticks.answer, turn=2, num_frames=number)
        assert (thin.status, thin.cot, thin.types, thin.window) == (whole.status, whole.cot, whole.types, whole.window)
        read = codec.parse(ticks.answer, [k / 8 for k in range(number)])
        assert read.window == whole.window
        for full, few in zip(whole.anomalies, thin.anomalies, strict=True):
            assert few.boxes and {b for v in few.boxes.values() for b in v} <= {
                b for v in full.boxes.values() for b in v
            }
            seen += len(few.boxes) < len(full.boxes)
        assert ticks.conversation[-1].content[-1].endswith("Zoom. 0.25 s.")
    assert task == "clip" or seen > 2
