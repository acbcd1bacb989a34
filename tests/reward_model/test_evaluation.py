"""The bench and its runner, with the real two-turn judge over a backend that knows the truth, or lies about it in known
ways.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reward_model.backends.replay import RecordingBackend, ReplayBackend
from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.conversation import Completion
from reward_model.evaluation import WorldBench
from reward_model.evaluation import evaluate_judge as evaluate_in_full
from reward_model.evaluation.benches.bench import FIRST_BENCH_SEED
from reward_model.evaluation.running.row import make_row, rollout_of
from reward_model.evaluation.tables.referee_tables import answer_of_verdict
from reward_model.judge import TwoTurnJudge
from reward_model.parsing import format_report
from reward_model.rewards import spatial_reward, temporal_reward
from reward_model.schema import FrameRange, Turn, TurnReport, Verdict, VerdictScore
from reward_model.world.narration import visible_anomalies

ROOT = Path(__file__).resolve().parents[2]
USED = ("squash", "split", "vanish")


class Witness:
    """A backend that recognises the frames of a bench and answers from its truth; ``lie`` may change the report."""

    name = "witness"

    def __init__(self, bench, lie=lambda report, video: report, text=format_report, sure=6.0):
        self.lie, self.text, self.sure = lie, text, sure
        self.seen = {f.tobytes(): (k, n) for k, v in enumerate(bench) for n, f in enumerate(v.frames)}
        self.videos = list(bench)

    def report(self, conversation) -> tuple[TurnReport, int]:
        frames = [p for p in conversation[-1].content if isinstance(p, np.ndarray)]
        found = [self.seen[f.tobytes()] for f in frames]
        k, indices = found[0][0], [n for _, n in found]
        anomalies = visible_anomalies(self.videos[k].truth, indices)
        return self.lie(TurnReport("abnormal" if anomalies else "normal", "I see.", anomalies), self.videos[k]), k

    def generate(self, conversations, sampling):
        return [Completion(self.text(self.report(c)[0]), num_tokens=5) for c in conversations]

    def score(self, conversations, prefixes):
        # More sure of late videos than of early ones, so that scores do not tie.
        reports = [self.report(c) for c in conversations]
        odds = [(1 if r.status == "normal" else -1) * (self.sure + 0.01 * k) for r, k in reports]
        return [VerdictScore(-1.0, -1.0 - o) for o in odds]

    def describe(self):
        return {"model": "witness"}


class Remembered:
    """A bench whose videos are drawn once for all tests."""

    def __init__(self, bench):
        self.inner, self.videos = bench, list(bench)

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        return self.videos[index]

    def first(self, count):
        part = copy.copy(self)
        part.videos = self.videos[:count]
        return part

    def describe(self):
        return self.inner.describe()


def judge_of(bench, **options) -> TwoTurnJudge:
    return TwoTurnJudge(Witness(bench, **options), all_readouts=True, batch_size=4)


@pytest.fixture(scope="module")
def bench() -> Remembered:
    return Remembered(WorldBench(18, seed=900_000, kinds=USED))


def evaluate(judge, bench, **options):
    return evaluate_in_full(judge, bench, **{"num_resamples": 40, "progress": False, **options})


def value(result, name):
    return result.metrics[name].value


# --- the bench -------------------------------------------------------------------------------------------------------


def test_half_is_normal_kinds_take_turns_and_no_seed_is_shared(bench):
    videos = list(bench)
    assert len(videos) == len(bench) == 18
    assert [v.truth.status for v in videos] == ["normal", "abnormal"] * 9
    assert [v.kind for v in videos[1::2]] == [USED[k % 3] for k in range(9)]
    assert len({v.truth.video_id.split("-")[1] for v in videos}) == 18
    settings = [v.truth.video_id.split("-")[2] for v in videos[::2]]
    assert set(settings) <= {"single", "objects"}  # where the abnormal ones play, so that the setting tells nothing
    np.testing.assert_array_equal(bench[5].frames, videos[5].frames)


def test_bench_and_training_share_no_seed():
    packages = [ROOT / "reward_model" / name for name in ("training", "minis")]
    files = [f for package in packages for f in package.rglob("*.py")]
    ranges = [r for f in files for r in re.findall(r"_SEEDS = range\((.*), (.*)\)", f.read_text())]
    assert ranges and all(int(stop) <= FIRST_BENCH_SEED <= WorldBench().seed for _, stop in ranges)
    with pytest.raises(ValueError, match="belongs to training"):
        WorldBench(seed=399_999)


@pytest.mark.parametrize("options", [{"num_videos": 0}, {"num_videos": 7}, {"kinds": ["melting"]}, {"kinds": []}])
def test_impossible_benches_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        WorldBench(**options)


def test_bench_ends():
    with pytest.raises(IndexError):
        WorldBench(2)[2]


# --- the runner ------------------------------------------------------------------------------------------------------


def test_the_truth_scores_full_marks(bench):
    result = evaluate(judge_of(bench), bench, batch_size=5)
    for name in ("parse rate", "status accuracy", "temporal IoU, scan", "spatial IoU", "type IoU"):
        assert value(result, name) == 1.0, name
    assert value(result, "temporal IoU, final") > 0.75  # the grid of turn two cannot name every native frame
    for readout in ("score", "paper", "direct", "log_odds"):
        assert value(result, f"AUROC, {readout}") == 1.0
    assert value(result, "saturation, direct") == 1.0 and value(result, "saturation, log_odds") == 0.0
    assert value(result, "ECE, direct") < 0.01 < value(result, "ECE, log_odds")
    for by_kind in (result.recall_by_kind, result.spatial_by_kind):
        assert {k: m.value for k, m in by_kind.items()} == dict.fromkeys(USED, 1.0)
    assert result.metrics["status accuracy"].interval.low == pytest.approx(0.824, abs=1e-3)
    assert result.metrics["parse rate"].num == 18 + 9  # two turns for every abnormal video
    assert result.confusion.counts == {"normal": (9, 0, 0), "abnormal": (0, 9, 0)} and not result.errors


def test_one_that_never_finds_anything(bench):
    result = evaluate(judge_of(bench, lie=lambda r, v: TurnReport("normal", "nothing")), bench)
    assert value(result, "status accuracy") == 0.5 and value(result, "temporal IoU, scan") == 0.0
    assert value(result, "spatial IoU") == value(result, "temporal IoU, final") == value(result, "type IoU") == 0.0
    assert {m.value for m in result.recall_by_kind.values()} == {0.0}
    assert value(result, "parse rate") == 1.0 and result.confusion.precision("abnormal") is None


def test_one_that_misses_one_kind(bench):
    def blind(report, video):
        return TurnReport("normal", "") if video.kind == "vanish" else report

    result = evaluate(judge_of(bench, lie=blind), bench)
    for by_kind in (result.recall_by_kind, result.spatial_by_kind):
        assert {k: m.value for k, m in by_kind.items()} == {k: float(k != "vanish") for k in USED}
    assert value(result, "temporal IoU, scan") == pytest.approx(2 / 3)


def test_windows_twice_as_long_are_half_right(bench):
    def stretch(report, video):
        if report.status == "normal":
            return report
        return replace(report, anomalies=tuple(replace(a, frames=FrameRange(0, 20)) for a in report.anomalies))

    judge = judge_of(bench, lie=stretch)
    expected = [len(a.on_grid(range(0, 81, 4)).frames) / 21 for v in bench for a in v.truth.anomalies]
    first = TwoTurnJudge(judge.backend, num_turns=1, all_readouts=True)
    assert value(evaluate(first, bench), "temporal IoU, scan") == pytest.approx(np.mean(expected))


def test_garbage_is_counted_and_its_verdict_forced(bench):
    result = evaluate(judge_of(bench, text=lambda report: "I think " + report.status), bench)
    assert value(result, "parse rate") == 0.0 and value(result, "status accuracy") == 1.0  # the words' odds decide
    assert value(result, "temporal IoU, scan") == 0.0 and all(row["forced"] for row in result.videos)


def test_what_cannot_be_judged_is_counted_and_explained(bench):
    class Broken(Witness):
        def generate(self, conversations, sampling):
            return [Completion("", error="server down") for _ in conversations]

    result = evaluate(TwoTurnJudge(Broken(bench), all_readouts=True), bench)
    assert value(result, "not judged") == 1.0 and value(result, "status accuracy") == 0.0
    assert result.confusion.num_unparsed == 18 and result.errors == {"server down": 18}
    assert "AUROC, score" not in result.metrics and "18 x server down" in result.to_markdown()


def test_any_reward_can_be_ranked(bench):
    truth = {v.frames.tobytes(): v.truth.status for v in bench}
    calls = []

    def reward(videos, prompts=None, *, fps, **kwargs):
        calls.append((len(videos), len(prompts), fps))
        return [None if k == 0 else 0.8 if truth[v.tobytes()] == "normal" else 0.3 for k, v in enumerate(videos)]

    result = evaluate(reward, bench, batch_size=8)
    assert calls == [(8, 8, 16), (8, 8, 16), (2, 2, 16)]
    assert value(result, "AUROC, score") == 1.0 and result.metrics["AUROC, score"].num == 15
    assert value(result, "not judged") == pytest.approx(3 / 18) and value(result, "status accuracy") is None


def test_wrong_numbers_of_answers_and_batches_are_errors(bench):
    with pytest.raises(ValueError, match="17 answers to 18"):
        evaluate(lambda videos, prompts=None, *, fps: [0.5] * 17, bench, batch_size=18)
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate(judge_of(bench), bench, batch_size=0)


def test_result_is_strict_json_and_a_table(bench):
    result = evaluate(judge_of(bench, sure=900.0), bench)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["bench"]["seed"] == 900_000 and data["judge"]["model"] == {"model": "witness"}
    assert len(data["videos"]) == 18 and data["metrics"]["parse rate"]["interval_95"][1] == 1.0
    text = result.to_markdown()
    assert "| status accuracy" in text and "95 % interval" in text and "recall of squash" in text


def test_a_recorded_evaluation_replays_to_the_same_numbers(bench, tmp_path):
    path = tmp_path / "run.jsonl"
    options = {"all_readouts": True, "batch_size": 4}
    bench = bench.first(6)
    live = evaluate(TwoTurnJudge(RecordingBackend(Witness(bench), path), **options), bench)
    again = evaluate(TwoTurnJudge(ReplayBackend(path), **options), bench)
    assert again.metrics == live.metrics and again.confusion == live.confusion


def test_spatial_iou_is_that_of_equation_five(bench):
    judge = judge_of(bench)
    [verdict] = judge.judge([bench[1].frames], [bench[1].truth.prompt], fps=16)
    assert spatial_reward(rollout_of(verdict), bench[1].truth) == 1.0


def test_a_video_judged_in_chunks_is_measured_as_one(bench):
    """Perfect answers about two chunks are as good as perfect answers about the whole."""
    truth = bench[1].truth
    grids = scan_grids(truth.num_frames, truth.fps, JudgeConfig(max_scan_frames=13))
    assert len(grids) == 2
    turns = []
    for grid in grids:
        found = truth.on_grid(grid)
        told = tuple(replace(a, boxes={}) for a in found)
        turns.append(Turn(1, grid, 4.0, "", "abnormal" if found else "normal", None))
        turns[-1] = replace(turns[-1], report=TurnReport(turns[-1].status, "", told), score=VerdictScore(-1.0, -0.5))
        if found:
            clip = tuple(range(grid[found[0].frames.start], grid[found[0].frames.end] + 1, 2))
            zoom = TurnReport("abnormal", "", truth.on_grid(clip))
            turns.append(Turn(2, clip, 8.0, "", "abnormal", zoom, score=VerdictScore(-2.0, -0.1)))
    verdict = Verdict("abnormal", 0.1, tuple(turns), num_frames=truth.num_frames, fps=truth.fps)
    rollout = rollout_of(verdict)
    assert rollout.zoomed and rollout.scan_indices == tuple(range(0, 81, 4))
    assert temporal_reward(rollout, truth) == 1.0 and spatial_reward(rollout, truth) == 1.0
    row = make_row(0, bench[1], verdict)
    assert row.zoomed and row.temporal_iou == 1.0 and row.turns_parsed == row.turns_written == len(turns)
    assert row.readouts["paper"] == pytest.approx(VerdictScore(-2.0, -0.1).p_normal), "the lowest of the chunks"


@pytest.mark.parametrize("looked", [False, True])
def test_boxes_of_a_judge_that_looks_itself_count_wherever_it_answered(bench, looked):
    """At its first view, or after a look that it asked for; what it supposed before it looked has no boxes."""
    truth = bench[1].truth
    first = tuple(range(0, truth.num_frames, 8))
    inside = range(truth.anomalies[0].frames.start, truth.anomalies[0].frames.end + 1)
    view = tuple(inside[::2]) if looked else first
    supposed = TurnReport("abnormal", "", tuple(replace(a, boxes={}) for a in truth.on_grid(first)))
    answer = Turn(2 if looked else 1, view, 8.0 if looked else 2.0, "", "abnormal")
    answer = replace(answer, report=TurnReport("abnormal", "", truth.on_grid(view)), operator="zoom" if looked else "")
    before = (Turn(1, first, 2.0, "", "abnormal", supposed),) if looked else ()
    verdict = Verdict("abnormal", 0.1, (*before, answer), num_frames=truth.num_frames, fps=truth.fps)
    active = replace(verdict, provenance={"policy": "active"})
    row = make_row(0, bench[1], active)
    assert row.zoomed and row.spatial_iou == 1.0 and row.tube_iou == 1.0
    evidence = answer_of_verdict(active, truth, lambda indices: bench[1].frames[list(indices)])
    assert evidence.report.anomalies == answer.report.anomalies and tuple(evidence.indices) == view
    if not looked:
        assert make_row(0, bench[1], verdict).spatial_iou == 0.0, "a scan draws none"
    failed = Verdict(None, None, error="no frames", provenance={"policy": "active"})
    assert not make_row(0, bench[1], failed).zoomed


def test_recipe_says_how_it_is_used():
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / "evaluate_reward.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "--videos" in done.stdout and "evaluation.json" in done.stdout and "--ablation" in done.stdout
