"""Modules under their former names: each leads to one that is there, and says so."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from reward_model.moved import MOVED

ROOT = Path(__file__).resolve().parents[2]


def test_every_former_name_leads_to_a_module_and_hides_none():
    gone = {place for place in MOVED.values() if place in MOVED or find_spec(place) is None}
    assert not gone
    paths = [ROOT.joinpath(*name.split(".")) for name in MOVED]
    assert not [p for p in paths if p.with_suffix(".py").exists() or (p / "__init__.py").exists()]


@pytest.mark.parametrize(
    ("former", "names"),
    [
        (
            "reward_model.readout",
            ("READOUTS", "WORDS", "VerdictPrefix", "reward_value", "turn_value"),
        ),
        ("reward_model.video.sampling", ("SCAN_FPS", "MAX_ZOOM_FRAMES", "sample_indices", "native_window", "thinned")),
        ("cac_align.report.media", ("MIN_SIDE", "display_scale", "write_mp4", "data_uri", "thumbnail_uri")),
        ("cac_align.report.save", ("BestOfNOutput", "ReportError", "VideoFrames", "save_output", "render_folder")),
        ("cac_align.rewards.order", ("RANKINGS", "check_rank_by", "order", "objections")),
    ],
)
def test_a_former_name_hands_out_the_same_objects_with_a_warning(former, names):
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {MOVED[former]}"):
        module = importlib.import_module(former)
    present = importlib.import_module(MOVED[former])
    assert all(getattr(module, name) is getattr(present, name) for name in names)
