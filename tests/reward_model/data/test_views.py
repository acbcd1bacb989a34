"""Annotated videos as samples: the right frames, boxes and words, asked as inference asks, and decoded once."""

import json
import pickle
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest

from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.conversation import Completion
from reward_model.data.annotations import Record, write_annotations
from reward_model.data.cot import CotSample
from reward_model.data.frame_cache import FrameCache
from reward_model.data.plain_cot import plain_cot, plain_report, reason_sentence
from reward_model.data.stage_split import stage_records
from reward_model.data.views import StageViews, ViewOptions
from reward_model.evaluation.metrics.tubes import tube_iou
from reward_model.judge import TwoTurnJudge
from reward_model.parsing import forced_prefix, format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.turns import read_answer
from reward_model.video.clip import VideoError, sample_indices
from reward_model.video.framing import Framing
from tests.campaigns import draws

SIZE, LENGTH, FPS = 32, 49, 16
GRID = [*range(12, 31, 2)]
JUDGE = JudgeConfig(prompts="compact", frame_size=SIZE, max_zoom_frames=12)


def picture(number: int, frame: int) -> np.ndarray:
    """A flat frame whose grey value tells its number: codecs keep that."""
    return np.full((SIZE, SIZE, 3), (40 + 4 * frame + number) % 256, np.uint8)


def write_video(path, number):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "1", "bf": "0"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv444p"
        for k in range(LENGTH):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, k), format="rgb24")))
        container.mux(stream.encode())


def anomaly(kind=AnomalyType.OBJECT, start=16, end=25, boxes=True, reason="the ball is squashed"):
    box = {n: (Box(100 + n, 200, 400 + n, 500),) for n in range(start, end + 1)} if boxes else {}
    return Anomaly(kind, FrameRange(start, end), box, ("ball",), reason, "the ball")


def truth(name, *anomalies):
    return VideoAnnotation(name, LENGTH, FPS, SIZE, SIZE, f"a ball, {name}", anomalies)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six videos: short object, short motion, long object (over a second), and three normal ones."""
    folder = tmp_path_factory.mktemp("footage")
    truths = [
        truth("object", anomaly()),
        truth("motion", anomaly(AnomalyType.MOTION, reason="it jumps.")),
        truth("long", anomaly(start=8, end=40)),
        *(truth(f"normal{k}") for k in range(3)),
    ]
    for number, one in enumerate(truths):
        write_video(folder / f"{one.video_id}.mp4", number)
    write_annotations(folder / "data.jsonl", [Record(f"{t.video_id}.mp4", t) for t in truths])
    return folder


@pytest.fixture
def records(folder):
    return [Record.from_dict(json.loads(line)) for line in (folder / "data.jsonl").read_text().splitlines()]


@pytest.fixture
def views(folder, records):
    return StageViews(records, folder / "data.jsonl", JUDGE)


def frames_of(example):
    return [p for m in example.conversation for p in m.content if isinstance(p, np.ndarray)]


def words_of(example):
    return "".join(p for m in example.conversation for p in m.content if isinstance(p, str))


def test_a_long_video_trains_in_the_chunks_the_judge_scans(records, folder):
    """Normal ones in all of them, abnormal ones in those that show the anomaly; the hint is about the clip's chunk."""
    views = StageViews(records, folder / "data.jsonl", JUDGE.override(max_scan_frames=6))
    rows = [r for r in views.rows("stage2", seed=1, count=40) if r["task"] == "scan"]
    chunks = set(scan_grids(LENGTH, FPS, views.judge))
    assert len(chunks) == 4
    grids = {status: {tuple(r["indices"]) for r in rows if r["status"] == status} for status in ("normal", "abnormal")}
    assert grids["normal"] <= chunks and len(grids["normal"]) > 1
    assert all(r["status"] == ("normal" if r["video"].startswith("normal") else "abnormal") for r in rows)
    thin = StageViews(records, folder / "data.jsonl", JUDGE.override(max_scan_frames=6, long_videos="thin"))
    (grid,) = {tuple(r["indices"]) for r in thin.rows("stage2", seed=1) if r["task"] == "scan"}
    assert len(grid) == 6 and (grid[0], grid[-1]) == (0, 48)


def test_boxes_are_written_where_the_judge_sees_them(records, folder):
    """Annotated and verified boxes of a video of 16:9 are moved to the padded square, words stay."""
    wide = [replace(r, truth=replace(r.truth, width=160, height=90)) for r in records]
    views = StageViews(wide, folder / "data.jsonl", JUDGE)
    row = {"task": "zoom", "video": "object", "record": 0, "indices": [16, 18, 20, 22], "status": "abnormal", "draw": 1}
    (seen,) = parse_turn(views.text(row).answer, turn=2, num_frames=4).anomalies
    framing = Framing((90, 160), SIZE, "pad")
    native = {k: Box(100 + n, 200, 400 + n, 500) for k, n in enumerate(row["indices"])}
    assert seen.boxes == {k: (framing.to_shown(box),) for k, box in native.items()}
    squeezed = StageViews(wide, folder / "data.jsonl", JUDGE.override(frame_fit="squeeze"))
    (plain,) = parse_turn(squeezed.text(row).answer, turn=2, num_frames=4).anomalies
    assert plain.boxes == {k: (box,) for k, box in native.items()}
    verified = CotSample(
        "object", "zoom", tuple(row["indices"]), squeezed.text(row).answer, "abnormal", 1, "salient", "me", "compact-1"
    )
    told = StageViews(wide, folder / "data.jsonl", JUDGE, cot=[verified])
    assert parse_turn(told.text(row).answer, turn=2, num_frames=4).anomalies[0].boxes == seen.boxes


# --- stage 1 ----------------------------------------------------------------------------------------------------------


def test_stage_one_is_balanced_and_shows_single_frame_types_only(views):
    rows = views.rows("stage1", seed=3)
    assert sorted(rows["status"]) == ["abnormal"] * 4 + ["normal"] * 4
    assert set(rows["task"]) == {"frame"} and all(len(i) == 1 for i in rows["indices"])
    assert "motion" not in rows["video"], "motion cannot be seen in one frame"
    for row in rows:
        inside = [a for a in views.records[row["record"]].truth.anomalies if row["indices"][0] in a.frames]
        assert bool(inside) == (row["status"] == "abnormal")


def test_a_stage_one_answer_is_that_frames_boxes_as_frame_zero(views):
    row = next(r for r in views.rows("stage1", seed=3) if r["video"] == "object")
    example, n = views.load(row), row["indices"][0]
    report = parse_turn(example.answer, turn=2, num_frames=1)
    assert report.anomalies[0].boxes == {0: (Box(100 + n, 200, 400 + n, 500),)}
    assert report.anomalies[0].frames == FrameRange(0, 0)
    assert report.cot == "Frame 0: anomalous (Object Distortion). The ball is squashed."
    (frame,) = frames_of(example)
    assert abs(int(frame[16, 16, 0]) - (40 + 4 * n)) <= 2, "another frame than the row names"


# --- stage 2 ----------------------------------------------------------------------------------------------------------


def test_stage_two_mixes_videos_and_clips_twenty_to_fifteen(views):
    rows = views.rows("stage2", seed=0, count=140)
    assert Counter(zip(rows["task"], rows["status"], strict=True)) == {
        ("scan", "normal"): 40,
        ("scan", "abnormal"): 40,
        ("zoom", "normal"): 30,
        ("zoom", "abnormal"): 30,
    }


def test_every_video_is_used_before_any_is_used_again(views):
    rows = views.rows("stage2", seed=0, count=28)
    scans = [r["video"] for r in rows if r["task"] == "scan"]
    assert all(scans.count(v) in (2, 3) for v in set(scans)) and len(set(scans)) == 6


def test_a_scan_is_asked_as_the_judge_asks_it(views, folder):
    """The judge itself, with a backend that only listens, must put the very same question."""
    row = next(r for r in views.rows("stage2", seed=0) if r["task"] == "scan" and r["video"] == "object")
    example = views.load(row)
    heard = []

    class Listener:
        name = "listener"

        def generate(self, conversations, sampling):
            heard.extend(conversations)
            return [Completion(example.answer) for _ in conversations]

        def score(self, conversations, prefixes):
            return [None] * len(conversations)

        def describe(self):
            return {}

    TwoTurnJudge(Listener(), JUDGE).judge([folder / "object.mp4"], [views.records[row["record"]].truth.prompt])
    asked = type(example)(heard[0], "")
    assert words_of(asked) == words_of(example)
    assert all(np.array_equal(a, b) for a, b in zip(frames_of(asked), frames_of(example), strict=True))
    report = parse_turn(example.answer, turn=1, num_frames=len(row["indices"]))
    assert report.window == FrameRange(4, 6) and not report.anomalies[0].boxes
    assert '"BBOX"' not in example.answer
    # With this answer the judge looks again: turn two's clip is the views' own grid for the window it found.
    clip = [p for m in heard[1] for p in m.content if isinstance(p, np.ndarray)]
    assert len(clip) == len(views.zoom_grid(views.records[row["record"]].truth, FrameRange(16, 24)))


def test_a_clip_covers_its_region_and_carries_its_boxes(views):
    rows = [r for r in views.rows("stage2", seed=0, count=70) if r["task"] == "zoom" and r["status"] == "abnormal"]
    assert {r["video"] for r in rows} == {"object", "motion"}, "clips are of anomalies below a second"
    row = next(r for r in rows if r["video"] == "object")
    grid = sample_indices(LENGTH, FPS, 8)
    assert row["indices"] == [n for n in grid if 16 <= n <= 25]
    report = parse_turn(views.load(row).answer, turn=2, num_frames=len(row["indices"]))
    assert report.anomalies[0].boxes == {k: (Box(100 + n, 200, 400 + n, 500),) for k, n in enumerate(row["indices"])}


def test_long_windows_are_a_choice_and_capped(views):
    free = replace(views, options=ViewOptions(untrimmed_windows=True))
    rows = [r for r in free.rows("stage2", seed=0, count=70) if r["task"] == "zoom" and r["video"] == "long"]
    assert rows and all(len(r["indices"]) == JUDGE.max_zoom_frames for r in rows)


def test_clips_of_long_windows_have_the_margin_the_judge_has(folder, records):
    """Native frames 8-40 are frames 2-10 of the scan; half its stride is two frames."""
    for margin, ends in (("none", (8, 40)), ("half", (6, 42))):
        judge = replace(JUDGE, window_margin=margin, max_zoom_frames=40)
        views = StageViews(records, folder / "data.jsonl", judge, options=ViewOptions(untrimmed_windows=True))
        rows = [r for r in views.rows("stage2") if r["video"] == "long" and r["task"] == "zoom"]
        assert rows and {(r["indices"][0], r["indices"][-1]) for r in rows} == {ends}


@pytest.mark.parametrize(("wording", "drawn"), [("paper", range(5)), ("compact", (0, 1, 4))])
def test_the_papers_answers_have_a_box_on_every_frame_of_the_clip(folder, records, wording, drawn):
    """What the annotation leaves out repeats the nearest box, because the prompt asks for one on each frame."""
    gone = anomaly()
    gone = replace(gone, boxes={n: gone.boxes[n] for n in (16, 18, 24)})
    held = [replace(records[0], truth=truth("object", gone)), *records[1:]]
    views = StageViews(held, folder / "data.jsonl", replace(JUDGE, prompts=wording))
    row = next(r for r in views.rows("stage2") if r["video"] == "object" and r["task"] == "zoom")
    assert row["indices"] == [16, 18, 20, 22, 24]
    (found,) = parse_turn(views.text(row).answer, turn=2, num_frames=5).anomalies
    assert sorted(found.boxes) == list(drawn)
    assert found.boxes[1] == gone.boxes[18] and found.boxes[4] == gone.boxes[24]
    assert found.boxes.get(2, gone.boxes[18]) == gone.boxes[18]
    assert found.boxes.get(3, gone.boxes[24]) == gone.boxes[24]


def test_a_share_of_the_answers_gives_its_verdict_at_once(folder, records):
    views, empty = (
        StageViews(records, folder / "data.jsonl", JUDGE, options=ViewOptions(empty_cot_share=share))
        for share in (0.0, 0.4)
    )
    answers = {"scan": [], "zoom": []}
    for row in views.rows("stage2", count=draws(400, 160)):
        plain, other = views.text(row).answer, empty.text(row).answer
        turn = 1 if row["task"] == "scan" else 2
        full, bare = (parse_turn(t, turn=turn, num_frames=len(row["indices"])) for t in (plain, other))
        assert full.cot and replace(bare, cot=full.cot) == full
        if not bare.cot:
            assert other.startswith(forced_prefix()), "the place where the readouts before the reasoning look"
        answers[row["task"]].append(not bare.cot)
    for drawn in answers.values():
        assert 0.3 < np.mean(drawn) < 0.5
    with pytest.raises(ValueError, match="empty_cot_share=1"):
        ViewOptions(empty_cot_share=1)


def test_normal_clips_are_pure_and_short(views):
    rows = [r for r in views.rows("stage2", seed=1, count=140) if r["task"] == "zoom" and r["status"] == "normal"]
    assert all(r["video"].startswith("normal") for r in rows)
    assert all(1 <= len(r["indices"]) <= 8 for r in rows) and len({tuple(r["indices"]) for r in rows}) > 5
    assert all(parse_turn(views.text(r).answer, turn=2, num_frames=len(r["indices"])).status == "normal" for r in rows)


def test_a_hint_does_not_give_the_verdict_away(views):
    """Turn two is asked after right and wrong suspicions: clips of both statuses carry one equally often."""
    rows = [r for r in views.rows("stage2", seed=2, count=600) if r["task"] == "zoom"]
    share = {s: np.mean([bool(views.hint(r)) for r in rows if r["status"] == s]) for s in ("normal", "abnormal")}
    assert abs(share["normal"] - share["abnormal"]) < 0.12 and 0.55 < share["normal"] < 0.85
    told = next(r for r in rows if views.hint(r) and r["status"] == "abnormal" and r["video"] == "object")
    assert "The ball is squashed." in words_of(views.text(told))
    silent = replace(views, options=ViewOptions(hints=False))
    assert "squashed" not in words_of(silent.text(told))


# --- verified reasoning -----------------------------------------------------------------------------------------------


def cot_samples(records):
    """Teacher-like samples of the first and the fourth video, with words no template writes."""
    made = []
    for record in (records[0], records[3]):
        one = record.truth
        for turn, indices in (("scan", (0, 4, 16, 20, 24, 40)), ("zoom", (16, 18, 20, 22, 24))):
            shown = tuple(a.on_grid(indices) for a in one.anomalies)
            report = plain_report(shown, len(indices), boxes=turn == "zoom")
            cot = "\n\n".join(f"Frame {k}: teacher looks at picture." for k in range(len(indices)))
            answer = format_report(replace(report, cot="Step 1\n" + cot + "\n\nStep 2\nfine\n\nStep 3\nfine"))
            made.append(CotSample(one.video_id, turn, indices, answer, report.status, 1, "salient", "t", "paper-1+x"))
    return made


def test_verified_reasoning_is_used_word_for_word_and_others_left_out(records, folder):
    samples = cot_samples(records)
    views = StageViews(records, folder / "data.jsonl", JUDGE, cot=samples)
    rows = views.rows("stage2", seed=0)
    assert set(rows["video"]) == {"object", "normal0"}, "videos without verified reasoning are discarded"
    for row in rows:
        sample = next(s for s in samples if (s.video_id, s.turn) == (row["video"], row["task"]))
        assert tuple(row["indices"]) == sample.indices and views.load(row).answer == sample.answer
    kept = StageViews(records, folder / "data.jsonl", JUDGE, cot=samples, options=ViewOptions(without_cot=True))
    assert len(set(kept.rows("stage2", seed=0, count=28)["video"])) == 6


def test_stage_one_takes_the_frames_own_words(records, folder):
    views = StageViews(records, folder / "data.jsonl", JUDGE, cot=cot_samples(records))
    for row in views.rows("stage1", seed=0):
        answer = views.text(row).answer
        report = parse_turn(answer, turn=2, num_frames=1)
        assert report.status == row["status"] and "teacher looks at picture." in report.cot
        assert report.cot.startswith("Frame 0:") and "Frame 1:" not in report.cot


def test_reasoning_of_other_videos_is_refused(records, folder):
    samples = [replace(s, video_id="elsewhere") for s in cot_samples(records)]
    with pytest.raises(ValueError, match="none of the 4 reasoning samples"):
        StageViews(records, folder / "data.jsonl", JUDGE, cot=samples)


def test_clips_are_asked_and_answered_at_ticks_and_nothing_else_changes(views, records, folder):
    """A box each quarter of a second: by seconds in the full wording, by the marks of frames in the compact one."""
    row = {
        "task": "zoom",
        "video": "object",
        "record": 0,
        "indices": [*range(12, 31, 2)],
        "status": "abnormal",
        "draw": 1,
    }
    for wording, keys in (("compact", ["Frame 2", "Frame 4", "Frame 6"]), ("paper", ["0.25", "0.5", "0.75"])):
        judge = JUDGE.override(track="0.25s", prompts=wording)
        ticks = StageViews(records, folder / "data.jsonl", judge)
        plain = StageViews(records, folder / "data.jsonl", JUDGE.override(prompts=wording))
        answer, whole = ticks.text(row).answer, json.loads(plain.text(row).answer)
        told = json.loads(answer)
        assert [*told["anomalies"][0]["BBOX"]][: len(keys)] == keys
        assert {**told, "anomalies": []} == {**whole, "anomalies": []}
        assert words_of(ticks.text(row)).startswith(words_of(plain.text(row)))
        assert "0.25 s" in words_of(ticks.text(row)).removeprefix(words_of(plain.text(row)))
        read = read_answer(answer, 2, 10, judge, [k / 8 for k in range(10)])
        (true,) = parse_turn(plain.text(row).answer, turn=2, num_frames=10).anomalies
        assert tube_iou(read.anomalies[0].boxes, {k: v for k, v in true.boxes.items() if k in true.frames}) > 0.9
        for task in ("scan", "frame"):
            other = {**row, "task": task, "indices": [16, 20, 24] if task == "scan" else [18]}
            assert ticks.text(other).answer == plain.text(other).answer
            assert words_of(ticks.text(other)) == words_of(plain.text(other))


def test_verified_reasoning_teaches_annotated_coordinates_if_asked(records, folder, caplog):
    """Words stay, boxes are the truth's; a trace about another place is left out with its video."""
    samples = cot_samples(records)
    zoom = next(s for s in samples if (s.video_id, s.turn) == ("object", "zoom"))
    row = {
        "task": "zoom",
        "video": "object",
        "record": 0,
        "indices": list(zoom.indices),
        "status": "abnormal",
        "draw": 1,
    }
    off = replace(zoom, answer=zoom.answer.replace("500]", "450]"))

    def answer(sample, **options):
        views = StageViews(records, folder / "data.jsonl", JUDGE, cot=[sample], options=ViewOptions(**options))
        return views.text(row).answer

    assert answer(off) == off.answer != answer(off, gt_replace="on")
    assert json.loads(answer(off, gt_replace="on")) == json.loads(zoom.answer)
    shaken = [answer(off, gt_replace="jitter", gt_jitter=s) for s in (15.0, 15.0, 0.0)]
    assert shaken[0] == shaken[1] != shaken[2] == answer(off, gt_replace="on")
    elsewhere = replace(zoom, answer=zoom.answer.replace(", 200, ", ", 900, ").replace("500]", "990]"))
    assert "traces dropped" not in caplog.text
    views = StageViews(
        records, folder / "data.jsonl", JUDGE, cot=[elsewhere, *samples[:1]], options=ViewOptions(gt_replace="on")
    )
    assert views._usable("zoom", "abnormal") == [] and "1 of 2 traces dropped" in caplog.text


# --- rows and errors --------------------------------------------------------------------------------------------------


def test_rows_follow_from_the_seed(views):
    first, again, other = (views.rows("stage2", seed=s, count=28) for s in (5, 5, 6))
    assert first.to_list() == again.to_list() != other.to_list()


def test_one_sided_data_is_refused_by_name(records, folder):
    with pytest.raises(ValueError, match=r"data\.jsonl holds no normal video"):
        StageViews(records[:3], folder / "data.jsonl", JUDGE).rows("stage1")
    with pytest.raises(ValueError, match="--untrimmed_windows True on the command line"):
        StageViews(records[2:], folder / "data.jsonl", JUDGE).rows("stage2")
    with pytest.raises(ValueError, match="gives no video to train on"):
        StageViews([], folder / "data.jsonl", JUDGE)


def test_an_anomaly_that_falls_between_scanned_frames_is_not_scanned(folder, records):
    hidden = replace(records[0], truth=truth("object", anomaly(start=17, end=19)))
    views = StageViews([hidden, *records[1:]], folder / "data.jsonl", JUDGE)
    rows = views.rows("stage2", seed=0, count=70)
    assert ("scan", "object") not in set(zip(rows["task"], rows["video"], strict=True))
    assert ("zoom", "object") in set(zip(rows["task"], rows["video"], strict=True))


def test_stages_do_not_share_footage(records):
    many = [Record(f"{k}.mp4", truth(f"v{k}"), extra={"group": f"g{k // 2}"}) for k in range(200)]
    parts = {s: stage_records(many, s, disjoint=True, held_out=0.1) for s in ("stage1", "stage2", "stage3")}
    groups = {s: {r.group for r in train} for s, (train, _) in parts.items()}
    assert not groups["stage1"] & groups["stage2"] and not groups["stage2"] & groups["stage3"]
    held = {r.group for r in parts["stage1"][1]}
    assert held and not any(held & g for g in groups.values())
    assert len({tuple(r.truth.video_id for r in part[1]) for part in parts.values()}) == 1
    marked = [replace(r, split="val" if k < 9 else "stage2") for k, r in enumerate(many)]
    train, held_records = stage_records(marked, "stage2", disjoint=True)
    assert len(train) == 191 and len(held_records) == 9 and stage_records(marked, "stage1")[0] == []


# --- frames -----------------------------------------------------------------------------------------------------------


def test_no_video_is_decoded_twice(records, folder, tmp_path):
    cache = FrameCache(tmp_path / "cache", frame_size=SIZE, max_videos=1)
    views = StageViews(records, folder / "data.jsonl", JUDGE, cache)
    rows = [*views.rows("stage1", seed=0), *views.rows("stage2", seed=0, count=28)]
    fresh = [views.load(r) for r in rows]
    assert cache.decoded == len({r["video"] for r in rows})
    later = FrameCache(tmp_path / "cache", frame_size=SIZE)
    again = StageViews(records, folder / "data.jsonl", JUDGE, later)
    for row, example in zip(rows, fresh, strict=True):
        same = again.load(row)
        assert all(np.array_equal(a, b) for a, b in zip(frames_of(example), frames_of(same), strict=True))
    assert later.decoded == 0
    assert not list((tmp_path / "cache").glob(".*")), "no half-written file"


def test_a_changed_file_is_decoded_anew(records, folder, tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 0)
    cache = FrameCache(tmp_path / "cache")
    before = cache.frames(path, [0], [0, 4], LENGTH)
    write_video(path, 60)
    path.touch()
    assert abs(int(cache.frames(path, [0], [0, 4], LENGTH).mean()) - int(before.mean()) - 60) <= 2
    assert cache.decoded == 2


def test_a_full_disk_costs_the_cache_and_not_the_training(folder, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = FrameCache(tmp_path / "cache")
    assert cache.frames(folder / "object.mp4", [4], [0, 4], LENGTH).shape == (1, SIZE, SIZE, 3)
    assert "no longer kept" in caplog.text and cache.folder is None


def test_missing_and_shortened_videos_are_named(folder, tmp_path):
    with pytest.raises(VideoError, match=r"no video file at .*gone\.mp4"):
        FrameCache().frames(tmp_path / "gone.mp4", [0], [0], 9)
    with pytest.raises(VideoError, match=r"has 49 frames, but its annotation says 99"):
        FrameCache().frames(folder / "object.mp4", [90], [0, 90], 99)


def test_workers_get_the_views_without_frames(views):
    row = views.rows("stage1", seed=0)[0]
    views.load(row)
    copy = pickle.loads(pickle.dumps(views))
    assert len(pickle.dumps(copy.cache)) < 2000
    assert copy.load(row).answer == views.load(row).answer


# --- plain reasoning --------------------------------------------------------------------------------------------------


def test_plain_reasoning_says_what_is_annotated_and_nothing_else():
    found = anomaly(start=1, end=1).on_grid([0, 1, 2])
    assert plain_cot((found,), 3).split("\n\n") == [
        "Frame 0: normal.",
        "Frame 1: anomalous (Object Distortion).",
        "Frame 2: normal.",
        "The ball is squashed.",
    ]
    bare = replace(found, reason="")
    assert reason_sentence(bare) == "Object Distortion."
    answer = format_report(plain_report((bare,), 3, boxes=True))
    assert parse_turn(answer, turn=2, num_frames=3).anomalies[0].reason == "object distortion in this part"
