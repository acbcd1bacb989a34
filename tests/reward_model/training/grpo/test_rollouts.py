"""Rollouts: asked as inference asks, cropped by the judge's own rules, stored as the sampled ids."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from reward_model.backends.local import LocalBackend
from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.judge import TwoTurnJudge
from reward_model.minis.model import build_judge
from reward_model.parsing import ParseError, format_report, parse_turn
from reward_model.prompts import load_prompts
from reward_model.rewards import RewardConfig, spatial_reward, total_reward
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VideoAnnotation
from reward_model.training.grpo.log import rollout_numbers
from reward_model.training.grpo.rollouts import (
    GrpoSample,
    RolloutRecord,
    TurnDraw,
    TwoTurnRollouts,
    invalid_kind,
)
from reward_model.training.grpo.rows import PromptBuilder, RowModel, stock_vision_inputs
from reward_model.training.grpo.sampler import ModelSampler, Sampled, stop_tokens
from reward_model.training.grpo.videos import chunk_loader
from reward_model.turns import VideoView, joined, merge_clips, scan_request
from reward_model.video.framing import Framing
from tests.campaigns import draws, slow_but

SIZE = 48
CONFIG = JudgeConfig(prompts="compact", frame_size=SIZE, max_scan_tokens=300, max_zoom_tokens=400, max_zoom_frames=24)
BOX = Box(100, 100, 300, 300)
NORMAL = format_report(TurnReport("normal", "All well."))


def scan_answer(*ranges, kind=AnomalyType.OBJECT):
    anomalies = tuple(Anomaly(kind, FrameRange(*r), reason="it bends") for r in ranges)
    return format_report(TurnReport("abnormal", "All is calm. It bends.", anomalies), boxes=False)


def zoom_answer(start, end, box=BOX):
    boxes = dict.fromkeys(range(start, end + 1), (box,))
    return format_report(
        TurnReport("abnormal", "It bends.", (Anomaly(AnomalyType.OBJECT, FrameRange(start, end), boxes),))
    )


@pytest.fixture(scope="module")
def judge():
    return build_judge("tiny")


class Script:
    """A generator that gives out prepared answers in order and remembers what it was asked."""

    def __init__(self, processor, *answers):
        self.tokenizer, self.answers, self.asked = processor.tokenizer, list(answers), []

    def __call__(self, prompts, repeats, max_new_tokens):
        self.asked.append((list(prompts), list(repeats), max_new_tokens))
        return [[self.next(max_new_tokens) for _ in range(n)] for n in repeats]

    def next(self, limit):
        ids = self.tokenizer.encode(self.answers.pop(0) + self.tokenizer.eos_token, add_special_tokens=False)
        return Sampled(tuple(ids[:limit]), len(ids) <= limit)


def sample(seed=0, num_frames=81, fail_at=None):
    truth = VideoAnnotation("v", num_frames, 16, SIZE, SIZE, prompt="a red ball")
    pixels = np.random.default_rng(seed).integers(0, 256, (num_frames, SIZE, SIZE, 3)).astype(np.uint8)

    def frames(indices):
        if fail_at is not None and fail_at in indices:
            raise OSError("broken file")
        return pixels[list(indices)]

    return GrpoSample(truth, frames)


def draw(judge, answers, num_generations, samples=None, config=CONFIG, **options):
    script = Script(judge[1], *answers)
    builder = PromptBuilder(judge[1], stock_vision_inputs(judge[1]))
    rollouts = TwoTurnRollouts(builder, script, config.override(**options))
    return rollouts.draw(samples or [sample()], num_generations), script


def test_endings(judge):
    answers = [
        NORMAL,
        scan_answer((3, 5)),
        "no json",
        scan_answer((21, 30)),
        scan_answer((0, 0)),
        zoom_answer(0, 2),
        NORMAL,
    ]
    ((normal, zoomed, garbage, outside, cleared),), script = draw(judge, answers, 5)
    assert [len(r.zooms) for r in (normal, zoomed, garbage, outside, cleared)] == [0, 1, 0, 0, 1]
    assert garbage.scan.invalid == "unparsable" and outside.scan.invalid == "window"
    assert zoomed.outcome().valid == (True, True) and zoomed.outcome().zoom.status == "abnormal"
    assert cleared.outcome().zoom.status == "normal" and normal.outcome().valid == (True, True)
    assert garbage.outcome().valid == outside.outcome().valid == (False, False)
    assert script.asked[0][1] == [5] and [a[2] for a in script.asked] == [300, 400]


@pytest.mark.parametrize(("margin", "clip"), [("none", (12, 14, 16, 18, 20)), ("half", (10, 12, 14, 16, 18, 20, 22))])
def test_crop_is_the_judges(judge, margin, clip):
    """Scan frames 3-5 are native 12-20, the paper's crop; with a margin, half a scan step more on both sides."""
    ((record,),), _ = draw(judge, [scan_answer((3, 5)), NORMAL], 1, window_margin=margin)
    assert record.scan.indices == tuple(range(0, 81, 4))
    assert record.zooms[0].indices == clip
    assert set(record.unseen_indices) == set(range(0, 81, 2)) - set(clip)
    ((one,),), _ = draw(judge, [scan_answer((20, 20)), NORMAL], 1, window_margin=margin)
    assert len(one.zooms[0].indices) == 4 and one.zooms[0].indices[-1] == 80


def test_a_long_video_is_scanned_as_the_judge_scans_it(judge):
    """Both ask through one function, so the limit of frames holds in training too."""
    ((record,),), _ = draw(judge, [NORMAL], 1, max_scan_frames=6, long_videos="thin")
    view = VideoView(81, 16, sample().frames, "a red ball")
    config = CONFIG.override(max_scan_frames=6, long_videos="thin")
    (grid,) = scan_grids(81, 16, config)
    assert record.scan.indices == scan_request(view, grid, config, load_prompts("compact")).indices
    assert record.scan.indices == (0, 16, 32, 48, 64, 80)
    ((whole,),), _ = draw(judge, [NORMAL], 1, max_scan_frames=6)
    assert "scanned in 6 chunks" in whole.error


def test_a_chunk_of_a_long_video_is_trained_as_the_judge_scans_it(judge):
    """Its grid, its truth, and what turn two has not seen of it; the next chunk is another row's."""
    config = CONFIG.override(max_scan_frames=16)
    whole = sample()
    there = (Anomaly(AnomalyType.OBJECT, FrameRange(0, 8), {4: (BOX,)}),)
    whole = replace(whole, truth=replace(whole.truth, anomalies=there))
    rows = [{"chunk": 1}, {"chunk": None}]
    late, first = (chunk_loader(lambda _: whole, config)(row) for row in rows)
    grids = scan_grids(81, 16, config)
    assert (late.grid, late.truth.status) == (grids[1], "normal")
    assert (first.grid, first.truth.anomalies) == (grids[0], there), "without a number the one that shows something"
    assert chunk_loader(lambda _: whole, CONFIG)({}) is whole
    answers = [scan_answer((1, 2)), NORMAL]
    ((record,),), _ = draw(judge, answers, 1, [late], max_scan_frames=16)
    assert record.scan.indices == grids[1] and record.zooms[0].indices[0] == grids[1][1]
    assert min(record.unseen_indices) >= grids[1][0]


def test_boxes_are_rewarded_on_the_native_frame(judge):
    """A video of 16:9 in the square: the same box the judge's verdict would have, and the reward of a perfect one."""
    shown = Box(100, 320, 300, 660)
    native = Framing((90, 160), SIZE, "pad").to_native(shown)
    there = (Anomaly(AnomalyType.OBJECT, FrameRange(12, 20), dict.fromkeys(range(12, 21), (native,))),)
    truth = VideoAnnotation("v", 81, 16, 160, 90, anomalies=there)
    wide = GrpoSample(truth, lambda indices: np.zeros((len(indices), 90, 160, 3), np.uint8))
    answers = [scan_answer((3, 5)), zoom_answer(0, 4, shown)]
    ((padded,),), _ = draw(judge, answers, 1, [wide])
    ((squeezed,),), _ = draw(judge, answers, 1, [wide], frame_fit="squeeze")
    assert padded.zooms[0].report.anomalies[0].boxes[0] == (native,)
    assert spatial_reward(padded.outcome(), truth) == 1 > spatial_reward(squeezed.outcome(), truth)
    assert padded.rows[1].pictures[0].frames.shape == (5, SIZE, SIZE, 3)
    assert padded.rows[1].pictures[0].frames[0, 0, 0, 0] == 128 and squeezed.rows[1].pictures[0].frames.max() == 0


def test_a_window_that_reaches_past_the_end_is_clipped(judge):
    ((past, outside),), _ = draw(judge, [scan_answer((18, 21)), scan_answer((21, 22)), NORMAL], 2)
    assert past.scan.report.window == FrameRange(18, 20) and past.zooms[0].indices == (72, 74, 76, 78, 80)
    assert outside.scan.invalid == "window" and outside.zooms == []


def test_strict_and_lenient_reading(judge):
    """Boxes on every frame of the clip where that is asked for; a legible status where that may count."""
    answers = [scan_answer((3, 5)), zoom_answer(0, 3)]
    ((plain,),), _ = draw(judge, answers, 1)
    ((strict,),), _ = draw(judge, answers, 1, require_all_frames=True)
    ((whole,),), _ = draw(judge, [answers[0], zoom_answer(0, 4)], 1, require_all_frames=True)
    assert plain.outcome().valid == whole.outcome().valid == (True, True)
    assert strict.zooms[0].invalid == "schema" and "frame 4" in strict.zooms[0].reason
    assert strict.outcome().statuses == ("abnormal", None)
    broken = NORMAL.replace('"anomalies": []', '"anomalies": [{}]')
    for lenient, said in ((False, None), (True, "normal")):
        ((record,),), _ = draw(judge, [broken], 1, lenient_invalid=lenient)
        assert record.scan.report is None and record.outcome().statuses[0] == said
        assert record.outcome().valid == (False, lenient)
    ((two,),), _ = draw(judge, [broken + broken.replace("normal", "abnormal")], 1, lenient_invalid=True)
    assert two.outcome().statuses == (None, None), "which one it means is a guess"


def test_sampled_ids_are_kept_and_masked(judge):
    answers = [scan_answer((3, 5)), zoom_answer(0, 2)]
    ((record,),), _ = draw(judge, answers, 1)
    tokenizer = judge[1].tokenizer
    for row, answer, turn in zip(record.rows, answers, (record.scan, record.zooms[0]), strict=True):
        expected = tokenizer.encode(answer + tokenizer.eos_token, add_special_tokens=False)
        assert row.ids[row.mask].tolist() == expected == list(turn.ids)
        assert not row.mask[: -len(expected)].any()
    assert record.num_tokens == sum(r.num_tokens for r in record.rows)


def test_reasoning_of_turn_one_is_context_only_where_it_should_be(judge):
    texts = {}
    for context in ("fresh", "clip_only"):
        _, script = draw(judge, [scan_answer((3, 5)), NORMAL], 1, context=context)
        texts[context] = judge[1].tokenizer.decode(script.asked[1][0][0].ids)
    assert "It bends." in texts["fresh"] and "It bends." not in texts["clip_only"]


def test_chat_trains_turn_one_once(judge):
    ((record, ended),), script = draw(judge, [scan_answer((3, 5)), NORMAL, zoom_answer(0, 2)], 2, context="chat")
    assert len(record.rows) == 1 and len(ended.rows) == 1
    (row,) = record.rows
    assert row.num_tokens == len(record.scan.ids) + len(record.zooms[0].ids)
    assert row.ids[row.mask].tolist() == [*record.scan.ids, *record.zooms[0].ids]
    assert [len(p.frames) for p in row.pictures] == [21, 5]
    prompt = script.asked[1][0][0]
    assert row.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()


def test_a_placeholder_drawn_in_turn_one_of_a_chat_is_no_picture(judge):
    """A policy at temperature 1 draws one sooner or later; the next turn must be asked all the same."""
    model, processor = judge
    answers = [processor.image_token + scan_answer((3, 5), (15, 19)), NORMAL, NORMAL]
    options = {"config": CONFIG.override(max_zoom_frames=20), "crop": "per_window", "context": "chat"}
    ((record,),), script = draw(judge, answers, 1, **options)
    assert record.error is None and len(record.zooms) == 2 and len(record.rows) == 2
    assert record.scan.ids[0] == processor.image_token_id, "kept as it was drawn"
    for prompt in script.asked[1][0]:
        shown = sum(p.num_tokens for p in prompt.pictures)
        assert (prompt.ids == processor.image_token_id).sum() == shown
    with torch.no_grad():
        values, _ = RowModel(model, stock_vision_inputs(processor))(record.rows)
    assert len(values) == record.num_tokens and torch.isfinite(values).all()


def test_a_chat_is_the_conversation_inference_has(judge, tmp_path):
    """Prompts of turn two, id by id, against the judge with its own backend."""
    backend = saved(judge, tmp_path)
    near, far = [scan_answer((3, 5)), NORMAL], [scan_answer((1, 2), (18, 19)), NORMAL, NORMAL]
    settings = [{"context": "chat"}, {"context": "clip_only"}, {"crop": "per_window", "max_zoom_frames": 20}]
    settings += [{"context": "fresh"}, {"window_margin": "half"}]
    for options in settings[: draws(5, 3)]:
        answers = far if "crop" in options else near
        _, script = draw(judge, answers, 1, **options)
        asked = Recorder(backend, answers)
        verdict = TwoTurnJudge(asked, CONFIG, **options).judge([sample().frames(range(81))], ["a red ball"], fps=16)[0]
        assert len(verdict.turns) == len(answers)
        prompts = [p for prompts, _, _ in script.asked for p in prompts]
        for prompt, conversation in zip(prompts, asked.conversations, strict=True):
            expected = backend._inputs([conversation], [""])["input_ids"][0].tolist()
            assert prompt.ids.tolist() == expected


def saved(judge, folder):
    for part in judge:
        part.save_pretrained(folder)
    return LocalBackend(folder, device="cpu")


class Recorder:
    """A real backend whose answers are prepared."""

    name = "recorder"

    def __init__(self, backend, answers):
        self.backend, self.answers, self.conversations = backend, list(answers), []

    def generate(self, conversations, sampling):
        from reward_model.conversation import Completion

        self.conversations += conversations
        return [Completion(self.answers.pop(0)) for _ in conversations]

    def score(self, conversations, prefixes):
        return self.backend.score(conversations, prefixes)

    def describe(self):
        return self.backend.describe()


def test_equal_questions_are_asked_as_one_prompt(judge):
    answers = [scan_answer((3, 5)), scan_answer((3, 5)), scan_answer((3, 6)), NORMAL, NORMAL, NORMAL]
    ((a, b, c),), script = draw(judge, answers, 3)
    prompts, repeats, _ = script.asked[1]
    assert sorted(repeats) == [1, 2] and len(prompts) == 2
    assert a.rows[0].pictures[0] is b.rows[0].pictures[0] is c.rows[0].pictures[0]
    assert a.rows[1].pictures[0] is b.rows[1].pictures[0] is not c.rows[1].pictures[0]


def test_a_cut_answer_is_truncated_not_unparsable(judge):
    short = CONFIG.override(max_zoom_tokens=3)
    ((record,),), _ = draw(judge, [scan_answer((3, 5)), zoom_answer(0, 2)], 1, config=short)
    assert record.zooms[0].invalid == "truncated" and record.outcome().valid == (True, False)
    assert len(record.zooms[0].ids) == 3


def test_one_turn_control_never_zooms(judge):
    ((record,),), _ = draw(judge, [scan_answer((3, 5))], 1, num_turns=1)
    assert record.zooms == [] and len(record.rows) == 1


def test_a_broken_file_costs_its_own_rollouts_only(judge):
    samples = [sample(fail_at=4), sample(1), sample(2, fail_at=14)]
    groups, _ = draw(judge, [NORMAL, scan_answer((3, 5))], 1, samples)
    assert groups[0][0].error.startswith("turn one") and groups[0][0].rows == []
    assert groups[1][0].error is None and groups[2][0].error.startswith("turn two: broken")


def test_windows_far_apart_get_a_clip_each(judge):
    answers = [scan_answer((1, 2), (18, 19)), zoom_answer(0, 1), NORMAL]
    config = CONFIG.override(max_zoom_frames=20)
    ((record,),), _ = draw(judge, answers, 1, config=config, crop="per_window")
    assert [z.indices[0] for z in record.zooms] == [4, 72] and len(record.rows) == 3
    outcome = record.outcome()
    assert (
        outcome.zoom.status == "abnormal" and outcome.clip_indices == record.zooms[0].indices + record.zooms[1].indices
    )
    ((hull,),), _ = draw(judge, [answers[0], NORMAL], 1, config=config)
    assert len(hull.zooms) == 1 and len(hull.zooms[0].indices) == 20


def test_windows_far_apart_in_a_chat_train_turn_one_once(judge):
    answers = [scan_answer((1, 2), (18, 19)), zoom_answer(0, 1), NORMAL]
    ((record,),), _ = draw(
        judge, answers, 1, config=CONFIG.override(max_zoom_frames=20), crop="per_window", context="chat"
    )
    assert record.num_tokens == len(record.scan.ids) + sum(len(z.ids) for z in record.zooms)
    assert [len(r.pictures) for r in record.rows] == [2, 2]


def test_merged_reports_keep_native_places():
    first = TurnReport("abnormal", "a", (Anomaly(AnomalyType.OBJECT, FrameRange(1, 2), {2: (BOX,)}),))
    second = TurnReport("abnormal", "b", (Anomaly(AnomalyType.MOTION, FrameRange(0, 0), {0: (BOX,)}),))
    merged, grid = merge_clips([(first, (2, 4, 6)), (second, (40, 42))])
    assert grid == (2, 4, 6, 40, 42)
    assert [(a.frames, list(a.boxes)) for a in merged.anomalies] == [(FrameRange(1, 2), [2]), (FrameRange(3, 3), [3])]
    assert merge_clips([(first, (2, 4, 6)), (None, (40,))])[0] is None
    assert merge_clips([(TurnReport("normal"), (0, 2)), (TurnReport("normal"), (8,))])[0].status == "normal"
    assert joined([FrameRange(5, 6), FrameRange(0, 2), FrameRange(3, 3)]) == [FrameRange(0, 3), FrameRange(5, 6)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nothing here", "unparsable"),
        (NORMAL + NORMAL, "unparsable"),
        (scan_answer((21, 30)), "window"),
        (scan_answer((3, 5)).replace("Frame 3-5", "soon"), "window"),
        (scan_answer((3, 5)).replace("Object Distortion", "Bad Vibes"), "schema"),
        ('{"COT": "", "status": "normal", "anomalies": [{}]}', "schema"),
    ],
)
def test_kinds_of_invalid_answers(text, kind):
    with pytest.raises(ParseError) as error:
        parse_turn(text, turn=1, num_frames=21)
    assert invalid_kind(error.value) == kind


# --- the sampler ------------------------------------------------------------------------------------------------------


def sampler(judge, seed=0, **options):
    model, processor = judge
    policy = RowModel(model, stock_vision_inputs(processor))
    return ModelSampler(policy, torch.Generator().manual_seed(seed), stop_tokens(model, processor.tokenizer), **options)


def prompts_of(judge, *lengths):
    builder = PromptBuilder(judge[1], stock_vision_inputs(judge[1]))
    found = []
    for k, length in enumerate(lengths):
        case = TwoTurnRollouts(builder, None, CONFIG)._open(sample(k, num_frames=length))
        found.append(case.prompt)
    return found


def test_sampling_is_a_function_of_its_seed(judge):
    prompts = prompts_of(judge, 17, 33)
    first, again, other = (sampler(judge, s)(prompts, [3, 2], 12) for s in (0, 0, 1))
    assert first == again != other
    assert [len(a) for a in first] == [3, 2]
    assert all(len(s.ids) == 12 or s.finished for a in first for s in a)


def test_cold_sampling_is_greedy_generation(judge, tmp_path):
    """Shared prefill, left padding and leaving rows against transformers' own generate, one prompt at a time."""
    model, processor = judge
    prompts = prompts_of(judge, 17, 33, 81)
    found = sampler(judge, temperature=1e-6)(prompts, [2, 1, 1], 10)
    for prompt, answers in zip(prompts, found, strict=True):
        ids = torch.from_numpy(prompt.ids)[None]
        vision = stock_vision_inputs(processor)(prompt.pictures[0].frames)
        expected = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == processor.image_token_id).int(),
            **vision,
            max_new_tokens=10,
            do_sample=False,
        )[0, len(prompt.ids) :].tolist()
        assert all(list(a.ids) == expected for a in answers)


def test_rows_that_end_early_do_not_disturb_the_others(judge):
    """Every third token ends an answer, so rows leave at every step; the rest must still follow the model."""
    prompts = prompts_of(judge, 17, 33)
    one = sampler(judge, temperature=1e-6)
    free = one(prompts, [1, 1], 10)
    one.stop_ids = [free[0][0].ids[2]]
    stopped = one(prompts, [1, 1], 10)
    cut = free[0][0].ids.index(one.stop_ids[0]) + 1
    assert stopped[0][0] == Sampled(free[0][0].ids[:cut], True)
    whole = free[1][0].ids
    cut = whole.index(one.stop_ids[0]) + 1 if one.stop_ids[0] in whole else 10
    assert stopped[1][0].ids == whole[:cut]


def test_shares_are_those_of_the_model(judge):
    """400 first tokens of one prompt against the softmax of its logits."""
    prompt = prompts_of(judge, 5)[0]
    one = sampler(judge, batch_size=400)
    logits = one._prefill([prompt])[0]
    shares = torch.softmax(logits[0], -1)
    (answers,) = one([prompt], [400], 1)
    top = int(shares.argmax())
    seen = np.mean([a.ids[0] == top for a in answers])
    expected = float(shares[top].detach())
    assert abs(seen - expected) < 4 * np.sqrt(expected * (1 - expected) / 400) + 1e-9
    assert len({a.ids[0] for a in answers}) > 5


class Small(ModelSampler):
    """A sampler on a machine whose memory holds ``room`` answers."""

    room = 2

    def _prefill(self, prompts):
        found = super()._prefill(prompts)
        if self.asked > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return found

    def _draw(self, rows, limit):
        self.asked = len(rows)
        self.sizes = [*getattr(self, "sizes", ()), len(rows)]
        return super()._draw(rows, limit)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_and_loses_nothing(judge):
    model, processor = judge
    prompts = prompts_of(judge, 17, 33)

    def made(kind, size):
        policy = RowModel(model, stock_vision_inputs(processor))
        stops = stop_tokens(model, processor.tokenizer)
        return kind(policy, torch.Generator().manual_seed(0), stops, batch_size=size)

    small = made(Small, 8)
    answers = small(prompts, [4, 3], 6)
    assert [len(a) for a in answers] == [4, 3] and all(a.ids for group in answers for a in group)
    assert small.sizes[:3] == [7, 3, 1] and small.batch_size == 1 and set(small.sizes[3:]) == {1}
    assert answers == made(ModelSampler, 1)(prompts, [4, 3], 6), "as if it had begun with batches that fit"
    small.room = 0
    with pytest.raises(RuntimeError, match=r"drawing 1 answer.*generation_batch_size"):
        small(prompts, [1, 1], 6)


class Together(ModelSampler):
    """A sampler that runs out of memory between two forward passes, where more than ``room`` answers are chosen."""

    room = 100
    forwards = 0

    def _choose(self, logits):
        if len(logits) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super()._choose(logits)

    def _prefill(self, prompts):
        self.forwards += 1
        return super()._prefill(prompts)

    def _step(self, *state):
        self.forwards += 1
        return super()._step(*state)


@pytest.mark.parametrize("room", slow_but([2, 0], 0))
def test_all_processes_halve_where_one_runs_out_of_memory(judge, room):
    """Two processes as threads that agree by a barrier: the same number of forward passes, whoever was short of memory,
    and the answers of a run that began with batches that fit.
    """
    prompts, repeats, limits = prompts_of(judge, 17, 33), ([4, 3], [1, 1]), (3, 5)

    def run(size, room):
        meeting, numbers, found = threading.Barrier(2), [0, 0], [None, None]

        def process(rank):
            def most(number):
                numbers[rank] = number
                meeting.wait(60)
                largest = max(numbers)
                meeting.wait(60)
                return largest

            policy = RowModel(judge[0], stock_vision_inputs(judge[1]))
            stops = stop_tokens(judge[0], judge[1].tokenizer)
            one = Together(policy, torch.Generator().manual_seed(rank), stops, batch_size=size, most=most)
            one.room = room if rank == 0 else 100
            try:
                found[rank] = one(prompts, repeats[rank], limits[rank]), one.batch_size, one.forwards
            except RuntimeError as error:
                found[rank] = str(error)

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        return found

    found = run(8, room)
    if room == 0:
        assert all("drawing 1 answer" in text and "generation_batch_size" in text for text in found)
        return
    (first, size, forwards), (second, other_size, other_forwards) = found
    assert size == other_size == 1 and forwards == other_forwards
    straight = run(1, 100)
    assert [first, second] == [straight[0][0], straight[1][0]]
    assert [len(a) for a in first] == [4, 3] and [len(a) for a in second] == [1, 1]


def test_the_log_watches_what_each_turn_names():
    """Turn two of a true window of nine clip frames names one: its own monitor falls, that of turn one does not."""
    boxes = dict.fromkeys(range(12, 29), (BOX,))
    truth = VideoAnnotation(
        "v", 81, 16, SIZE, SIZE, anomalies=(Anomaly(AnomalyType.OBJECT, FrameRange(12, 28), boxes),)
    )
    scan = parse_turn(scan_answer((3, 7)), turn=1, num_frames=21)
    zoom = parse_turn(zoom_answer(2, 2), turn=2, num_frames=13)
    record = RolloutRecord(
        0,
        TurnDraw((), "", tuple(range(0, 81, 4)), scan),
        [TurnDraw((), "", tuple(range(8, 33, 2)), zoom)],
    )
    numbers = rollout_numbers(record, truth, total_reward(record.outcome(), truth), RewardConfig())
    assert (numbers["window/pred_to_true"], numbers["window/named_to_true"]) == (1, pytest.approx(1 / 9))
    assert numbers["overlap/spatial"] == numbers["raw/spatial"] == pytest.approx(1 / 9)
