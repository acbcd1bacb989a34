"""What a data set of stage 3 tells, and a configuration it cannot serve is refused before anything is loaded."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reward_model.config import JudgeConfig
from reward_model.data.annotations import Record, write_annotations
from reward_model.rewards import ANNOTATED, RewardConfig, total_reward
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.training.grpo.labels import VIDEO_LEVEL, given_by, label_of, told
from reward_model.training.grpo.log import rollout_numbers
from reward_model.training.grpo.rollouts import GrpoSample, RolloutRecord, TurnDraw
from reward_model.training.grpo.setup import open_trainer
from reward_model.training.grpo.videos import annotated_rows
from reward_model.video.writing import write_video

BOXED = Anomaly(
    AnomalyType.OBJECT, FrameRange(4, 8), {5: (Box(100, 100, 400, 400),)}, ("ball",), "it bends", "the ball"
)
TRUTH = VideoAnnotation("v", 17, 8, 48, 48, anomalies=(BOXED, replace(BOXED, type=AnomalyType.MOTION, boxes={})))
NORMAL = replace(TRUTH, anomalies=())


def test_a_label_is_status_and_types_and_no_more():
    label = label_of(TRUTH)
    assert (label.status, label.types) == ("abnormal", TRUTH.types) and label_of(NORMAL) == NORMAL
    assert all(a == Anomaly(a.type, FrameRange(0, 16)) for a in label.anomalies)
    assert label_of(label) == label


def test_data_tells_what_some_anomaly_of_it_has():
    unboxed = replace(TRUTH, anomalies=(replace(BOXED, boxes={}),))
    assert given_by([NORMAL, TRUTH]) == given_by([unboxed, TRUTH]) == given_by([NORMAL]) == ANNOTATED
    assert given_by([unboxed, label_of(TRUTH)]) == ANNOTATED - {"gt_boxes"}
    assert given_by([NORMAL, label_of(TRUTH)]) == VIDEO_LEVEL


def test_a_loader_forgets_what_is_not_given():
    sample = GrpoSample(TRUTH, lambda indices: np.zeros((len(indices), 4, 4, 3), np.uint8))
    load = told(lambda row: sample, VIDEO_LEVEL)
    assert load({}).truth == label_of(TRUTH) and load({}).given == VIDEO_LEVEL
    assert told(lambda row: sample, ANNOTATED - {"gt_boxes"})({}).truth == TRUTH
    assert told(lambda row: sample, ANNOTATED)({}) is sample


def test_what_is_not_given_is_not_measured():
    from reward_model.parsing import format_report, parse_turn
    from reward_model.schema import TurnReport

    text = format_report(TurnReport("abnormal", "", (BOXED,)), boxes=True)
    indices = tuple(range(17))
    draws = [TurnDraw((1, 2), text, indices, parse_turn(text, turn=k, num_frames=17)) for k in (1, 2)]
    record = RolloutRecord(0, draws[0], [draws[1]])
    label, config = label_of(TRUTH), RewardConfig()
    parts = total_reward(record.outcome(), label, config)
    full, less = (rollout_numbers(record, label, parts, config, given) for given in (ANNOTATED, VIDEO_LEVEL))
    gone = {k for k in full if k not in less}
    assert gone == {
        *(f"{form}/{term}" for form in ("raw", "weighted") for term in ("temporal", "spatial")),
        "overlap/temporal",
        "overlap/spatial",
        "window/pred_to_true",
        "window/named_to_true",
    }
    assert {k: full[k] for k in less} == less and "overlap/type_zoom" in less


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Annotation files of two videos: with boxes, with windows alone, and with labels alone."""
    folder = tmp_path_factory.mktemp("footage")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", rng.integers(0, 256, (17, 48, 48, 3)).astype(np.uint8), 8)
    truths = {
        "boxes": replace(TRUTH, anomalies=(BOXED,)),
        "windows": replace(TRUTH, anomalies=(replace(BOXED, boxes={}),)),
        "labels": label_of(TRUTH),
    }
    for name, truth in truths.items():
        records = [Record("a.mp4", replace(truth, video_id="a")), Record("b.mp4", replace(NORMAL, video_id="b"))]
        write_annotations(folder / f"{name}.jsonl", records)
    return folder


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (
            {"path": "labels.jsonl"},
            {},
            "weight_temporal=2 needs windows of the anomalies; weight_spatial=5 needs windo",
        ),
        (
            {"path": "windows.jsonl"},
            {},
            r"^weight_spatial=5 needs true boxes: \S*windows.jsonl has none. Set weight_sp",
        ),
        (
            {"path": "boxes.jsonl", "labels": "video"},
            {"weight_spatial": 0},
            r"\(labels: video\) has none. Set weight_t",
        ),
        (
            {"path": "boxes.jsonl"},
            {"weight_ser": 5},
            "weight_ser=5 needs a referee: .* Set weight_ser to 0 or name a ref",
        ),
        ({"path": "boxes.jsonl", "labels": "none"}, {}, "labels='none' must be one of 'full', 'video'"),
        ({"source": "world", "rows": 2, "size": 48, "labels": "video"}, {}, "data of source world .labels: video. has"),
    ],
)
def test_a_reward_that_the_data_cannot_give_is_refused_before_a_model_loads(
    footage, tmp_path, monkeypatch, data, changes, said
):
    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("reward_model.backends.checkpoint.load_checkpoint", loaded)
    (tmp_path / "judge.json").write_text("{}")
    data = {"source": "annotations", **data}
    if "path" in data:
        data["path"] = str(footage / data["path"])
    settings = {"model": str(tmp_path), "data": data, "output_dir": str(tmp_path / "out"), **changes}
    with pytest.raises(ValueError, match=said) as told_of, open_trainer(settings):
        pass
    assert "\n" not in str(told_of.value) and not (tmp_path / "out").exists()


def test_labels_of_videos_that_are_scanned_in_chunks_are_left_out(footage, caplog):
    short, long = JudgeConfig(scan_fps=4, max_scan_frames=6), JudgeConfig(scan_fps=4)
    rows = annotated_rows(footage / "boxes.jsonl", judge=long, labels="video")
    truths = [VideoAnnotation.from_dict(json.loads(t)) for t in rows["truth"]]
    assert {t.status for t in truths} == {"normal", "abnormal"} and given_by(truths) == VIDEO_LEVEL
    with caplog.at_level("INFO"), pytest.raises(ValueError, match="no abnormal video"):
        annotated_rows(footage / "boxes.jsonl", judge=short, labels="video")
    assert "1 abnormal videos are scanned in chunks" in caplog.text
    assert len(annotated_rows(footage / "boxes.jsonl", judge=short)) > 0
