"""Statistics of a data set, against numbers counted by hand and areas measured on pixels."""

from __future__ import annotations

import builtins
import json
import random

import numpy as np
import pytest

from reward_model.data.records import Record
from reward_model.data.statistics import Spread, anomaly_area, dataset_statistics
from reward_model.data.statistics_plot import draw_statistics, plot_statistics
from reward_model.grounding import union_area
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from tests.campaigns import draws


def records() -> list[Record]:
    half = {0: (Box(0, 0, 500, 1000),), 1: (Box(0, 0, 100, 1000),)}  # mean area 0.3
    hand = Anomaly(AnomalyType.HUMAN, FrameRange(0, 3), half, ("Hand", "finger"), salient=True)  # 0.5 s
    foot = Anomaly(AnomalyType.HUMAN, FrameRange(0, 15), {5: (Box(0, 0, 100, 100),)}, ("hand ",), salient=False)  # 2 s
    ball = Anomaly(AnomalyType.MOTION, FrameRange(2, 2), {}, ("$ball$",))  # 0.125 s, no box
    return [
        Record("a", VideoAnnotation("a", 16, 8, 9, 9, anomalies=(hand, foot), source="wan"), "train"),
        Record("b", VideoAnnotation("b", 16, 8, 9, 9, anomalies=(ball,), source="wan"), "train"),
        Record("c", VideoAnnotation("c", 32, 8, 9, 9, source="kling"), "test"),
    ]


def test_every_number_is_the_one_counted_by_hand():
    found = dataset_statistics(records())
    assert found.videos == {"normal": 1, "abnormal": 2}
    assert found.splits == {"test": {"normal": 1, "abnormal": 0}, "train": {"normal": 0, "abnormal": 2}}
    assert found.sources == {"kling": {"normal": 1, "abnormal": 0}, "wan": {"normal": 0, "abnormal": 2}}
    assert found.video_s["normal"] == Spread(1, 4.0, (4.0, 4.0, 4.0), 4.0, 4.0)
    assert found.types["Human Distortion"] == {"videos": 1, "anomalies": 2}
    assert found.types["Motion Anomalies"] == {"videos": 1, "anomalies": 1}
    assert found.types["Object Distortion"] == {"videos": 0, "anomalies": 0}
    assert found.saliency["Human Distortion"] == {"salient": 1, "non-salient": 1, "unknown": 0}
    assert found.saliency["Motion Anomalies"]["unknown"] == 1
    assert found.span_s["Human Distortion"].mean == 1.25
    assert list(found.span_bins.values()) == [1, 0, 1, 0, 1, 0] and list(found.span_bins)[2] == "0.5 s to 1 s"
    assert found.items == {"hand": 2, "finger": 1, "$ball$": 1}
    assert found.area["Human Distortion"].high == pytest.approx(0.3) and found.area["Motion Anomalies"].num == 0
    assert list(found.area_bins.values()) == [0, 1, 0, 0, 1, 0]
    assert found.hard == {"< 1 s, < 20 %": 0, "< 1 s, >= 20 %": 1, ">= 1 s, < 20 %": 1, ">= 1 s, >= 20 %": 0}
    assert found.without_boxes == 1


def test_quartiles_are_numpys():
    values = [random.Random(1).random() for _ in range(13)]
    assert Spread.of(values).quartiles == pytest.approx(tuple(np.quantile(values, [0.25, 0.5, 0.75])))
    assert Spread.of([]).quartiles is None and Spread.of([3.0]).quartiles == (3.0, 3.0, 3.0)


def test_the_area_of_a_union_is_the_one_counted_on_pixels():
    rng = random.Random(0)
    for _ in range(20):
        boxes = []
        for _ in range(rng.randint(1, 4)):
            x, y = sorted(rng.sample(range(1001), 2)), sorted(rng.sample(range(1001), 2))
            boxes.append(Box(x[0], y[0], x[1], y[1]))
        mask = np.zeros((1000, 1000), bool)
        for b in boxes:
            mask[b.ymin : b.ymax, b.xmin : b.xmax] = True
        assert union_area(boxes) == mask.sum()


def test_an_anomaly_without_boxes_has_no_area():
    with pytest.raises(ValueError, match="no area"):
        anomaly_area({})


def test_json_and_markdown_carry_the_numbers():
    found = dataset_statistics(records())
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["span_s"]["Human Distortion"]["mean"] == 1.25
    text = found.to_markdown()
    assert "1 anomalies have no box" in text and "| hand" in text and "| wan" in text


def test_an_empty_data_set_is_counted_too():
    found = dataset_statistics([])
    assert found.videos == {"normal": 0, "abnormal": 0} and "Videos" in found.to_markdown()


def test_the_figure_shows_the_counts(tmp_path):
    pytest.importorskip("matplotlib")
    statistics = dataset_statistics(records())
    types, saliency, *_, classes = draw_statistics(statistics).axes
    assert [bar.get_width() for bar in types.patches] == [0, 1, 1, 0, 0]
    assert [bar.get_width() for bar in classes.patches] == [1, 2]
    # Salient, non-salient and unknown bars follow each other without overlap.
    human = [(bar.get_x(), bar.get_width()) for bar in saliency.patches[1::5]]
    assert human == [(0, 1), (1, 1), (2, 0)]
    written = [(".svg", b"<?xml"), (".pdf", b"%PDF")][: draws(2, 0)]
    for suffix, magic in written:
        path = plot_statistics(statistics, tmp_path / f"x{suffix}")
        assert path.read_bytes().startswith(magic)
    assert len(list(tmp_path.iterdir())) == len(written)


def test_an_empty_data_set_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = plot_statistics(dataset_statistics([]), tmp_path / "x.png")
    assert (
        path.stat().st_size > 1000 and path.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [path]
    )


def test_another_suffix_and_a_missing_matplotlib_are_named(tmp_path, monkeypatch):
    statistics = dataset_statistics(records())
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf"):
        plot_statistics(statistics, tmp_path / "x.gif")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "cac-align\[train\]"'):
        plot_statistics(statistics, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
