"""docs/paper_numbers.md against the settings it names, in both directions, and figures against their script."""

import contextlib
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from xml.etree import ElementTree

import pytest
from documents import DOCS, ROOT

yaml = pytest.importorskip("yaml")
SETTING = re.compile(r"`([\w./-]+)`: `([\w.]+) = ([^`]+)`")
ROWS = SETTING.findall((DOCS / "paper_numbers.md").read_text(encoding="utf-8"))


def setting(place: str, key: str):
    """What a settings file holds under a dotted key, the default of a class's field or a function's argument, or the
    value of a module's constant.
    """
    if place.endswith(".yaml"):
        value = yaml.safe_load((ROOT / place).read_text(encoding="utf-8"))
        for part in key.split("."):
            value = value[int(part)] if part.isdigit() else value[part]
        return value
    with contextlib.suppress(ModuleNotFoundError):
        value = importlib.import_module(place)
        for part in key.split("."):
            names = {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else vars(value)
            value = names[part]
        return value
    module, _, attribute = place.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    return inspect.signature(found).parameters[key].default


def same(written: str, value) -> bool:
    """Whether the table says what the setting holds: numbers by value, switches as YAML writes them, else the text."""
    if isinstance(value, bool):
        return written == str(value).lower()
    try:
        return float(written) == float(value)
    except (TypeError, ValueError):
        return written == str(value)


@pytest.mark.parametrize(("place", "key", "written"), ROWS, ids=lambda v: str(v).rsplit("/", 1)[-1])
def test_a_row_says_what_the_setting_holds(place, key, written):
    assert same(written, setting(place, key)), f"{place} has {key} = {setting(place, key)!r}, the page says {written}"


def test_a_wrong_number_would_be_found():
    place = "recipes/configs/stage1/full.yaml"
    assert same("32", setting(place, "lora_r")) and not same("16", setting(place, "lora_r"))
    with pytest.raises(KeyError):
        setting(place, "lora_rank")


def test_no_row_of_the_tables_escapes():
    text = (DOCS / "paper_numbers.md").read_text(encoding="utf-8")
    rows = [r for r in re.findall(r"^\|.*\|$", text, re.M) if "---" not in r and "| setting |" not in r]
    assert len(ROWS) == len(rows) > 50


def test_the_numbers_that_were_once_forgotten_are_there():
    keys = {key for _, key, _ in ROWS}
    asked = "SALIENCY.True SALIENCY.False frames_per_video CLIPS_PER_VIDEO max_clip_s untrimmed_windows data.rows"
    asked += " fraction threshold"
    silent = "readout max_scan_tokens max_zoom_tokens BEFORE_THE_SETTING.window_margin min_zoom_frames spatial_norm"
    assert set(f"{asked} {silent}".split()) <= keys
    text = (DOCS / "paper_numbers.md").read_text(encoding="utf-8")
    assert "one rollout" not in text, "the paper does not say it"


@pytest.mark.parametrize(
    "config", ["stage1/full.yaml", "stage2/full.yaml", "stage3/full.yaml", "flow_grpo/paper_wan21_1p3b.yaml"]
)
def test_every_setting_marked_paper_is_listed(config):
    place = f"recipes/configs/{config}"
    listed = {key.split(".")[0] for where, key, _ in ROWS if where == place}
    lines = (ROOT / place).read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if re.match(r"\w+:", line)]
    marked = {s.split(":")[0] for s in settings if re.search(r"#.*\bpaper\b(?!'s| names)", s)}
    ours = {line.split(":")[0] for line in lines if re.search(r"# ours\b", line)}
    assert marked - ours and marked - ours - {"width"} <= listed


def words(svg: str) -> list[str]:
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


@pytest.mark.slow
def test_figures_are_what_their_script_draws(tmp_path):
    script = DOCS / "figures" / "make_figures.py"
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True, timeout=600)
    for old in sorted((DOCS / "figures").glob("*.svg")):
        new = tmp_path / old.name
        assert words(new.read_text(encoding="utf-8")) == words(old.read_text(encoding="utf-8")), old.name
