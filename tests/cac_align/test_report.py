"""The evidence page: what it says, what it must not do, and that a browser shows the boxes where the truth is."""

import contextlib
import json
import re
import shutil
import time
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from cac_align import BestOfNOutput
from cac_align.report.overlay import BAR, BOX, WINDOW, draw_overlay, write_overlay
from cac_align.report.page import score_axis, small_copy, visible
from cac_align.report.view import (
    _summary,
    film_indices,
    flatten,
    hold_frames,
    probability,
    reasoning_pieces,
    score_digits,
    signed,
    timeline,
    unconfirmed,
)
from cac_align.selection import run_folder
from cac_align.selection.run_folder import ReportError, render_folder
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Turn, TurnReport, Verdict
from reward_model.video.clip import load_video, read_file
from reward_model.video.writing import display_scale, write_mp4, write_video
from reward_model.world import make_video
from tests.browser import hangs_over, wait_until
from tests.campaigns import draws

NASTY = "a red ball <script>alert('p')</script>\x00\x1b[31m \u202egnp.exe & \"quotes\""
COT = "</script><img src=x onerror=alert(1)> {{ 7 * 7 }} the outline changes"
SETTINGS = {
    "pipeline": {"class": "WanPipeline", "model": "<b>folder</b>", "components": {}},
    "arguments": {"num_inference_steps": 2},
    "seed": 0,
    "reward": "cac-<i>mini</i>",
}


def short_video(verdict_of, log_odds):
    """The first frames of a video without an anomaly, and the verdict of a judge that sees none."""
    frames, truth = small_video(3)
    return frames[:9], verdict_of(replace(truth, num_frames=9), log_odds)


def small_video(seed, kind=None):
    """A video as the mini generator makes them, 32x32 and one thing, but of two seconds."""
    return make_video(seed, kind, size=32, setting="single", num_frames=33)


@pytest.fixture(scope="module")
def output(verdict_of):
    """Four candidates: squashed, normal, split, and one nobody could judge."""
    made = [small_video(3, "squash"), small_video(11), small_video(5, "split"), small_video(8, "vanish")]
    verdicts = [verdict_of(t, lo, COT) for (_, t), lo in zip(made, (-4.0, 3.9, -1.2, 0.0), strict=True)]
    verdicts[3] = replace(verdicts[3], status=None, score=None, error="half an answer <b>")
    return BestOfNOutput(
        prompt=NASTY,
        candidates=[frames for frames, _ in made],
        scores=[v.score for v in verdicts],
        best=1,
        seeds=[5, 6, 7, 8],
        verdicts=verdicts,
        reasons=[None, None, None, "half an answer <b>"],
        fps=16.0,
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def saved(output, tmp_path_factory):
    return output.save(tmp_path_factory.mktemp("report"))


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_files(saved, output):
    folder = saved.parent
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert names == ["best.mp4", *(f"candidates/0{k}.mp4" for k in range(4)), "report.html", "result.json"]
    result = json.loads((folder / "result.json").read_text())
    assert result["prompt"] == NASTY
    assert (result["best"], result["ranking"]) == (1, [1, 2, 0, 3])
    assert [c["scale"] for c in result["candidates"]] == [8, 8, 8, 8]
    assert Verdict.from_dict(result["candidates"][0]["verdict"]).to_dict() == output.verdicts[0].to_dict()
    assert (folder / "best.mp4").read_bytes() == (folder / "candidates" / "01.mp4").read_bytes()


def test_texts_are_data_not_markup(saved):
    text = saved.read_text()
    page = Page(text)
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert [a.get("type") for a in scripts] == ["application/json", None]
    assert not [t for t, a in page.tags if t in ("b", "iframe", "base", "form") or "onerror" in a or "style" in a]
    assert "<script>alert('p')</script>" in "".join(page.words)
    assert "{{ 7 * 7 }}" in text
    assert not {"\x00", "\x1b", "\u202e"} & set(text)
    assert "half an answer &lt;b&gt;" in text


def test_page_fetches_nothing(saved):
    text = saved.read_text()
    addresses = [a[k] for _, a in Page(text).tags for k in ("src", "href", "action", "poster", "data") if a.get(k)]
    assert addresses
    assert all(a.startswith(("data:", "#")) for a in addresses)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    policy = next(a["content"] for t, a in Page(text).tags if t == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_page_says_what_was_found(saved):
    words = " ".join(" ".join(Page(saved.read_text()).words).split())
    for expected in ("Chosen: candidate 01", "Object Distortion", "Could not judge", "log-odds +3.90", "splits in two"):
        assert expected in words


def test_report_is_rendered_again_from_the_folder(saved):
    before = Page(saved.read_text())
    saved.unlink()
    assert render_folder(saved.parent) == saved
    after = Page(saved.read_text())
    assert after.words == before.words
    assert [t for t, _ in after.tags] == [t for t, _ in before.tags]


def test_folders_without_a_result(tmp_path):
    with pytest.raises(ReportError, match=r"holds no result\.json"):
        render_folder(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ReportError, match="is not JSON"):
        render_folder(tmp_path)
    (tmp_path / "result.json").write_text('{"format": 99}')
    with pytest.raises(ReportError, match="format 99"):
        render_folder(tmp_path)
    (tmp_path / "result.json").write_text('{"format": 1, "prompt": "p"}')
    with pytest.raises(ReportError, match="'best' is missing; save the result again"):
        render_folder(tmp_path)


def test_a_tampered_result_is_refused(saved, tmp_path):
    shutil.copytree(saved.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "result.json"
    result = json.loads(path.read_text())
    for change in ({"ranking": [7]}, {"fps": "fast"}, {"settings": 3}):
        path.write_text(json.dumps({**result, **change}))
        with pytest.raises(ReportError, match=r"is not a complete result of best_of_n: .*; save"):
            render_folder(path.parent)
    path.write_text(json.dumps(result))
    (path.parent / "candidates" / "02.mp4").unlink()
    with pytest.raises(ReportError, match=r"candidate 2 .*02\.mp4"):
        render_folder(path.parent)


JUNK = [None, True, 3, -1, 1e300, "x" * 50, [], {}, [[]], [None], {"a": {"b": []}}, [{}], "../../../etc/passwd"]


def places(data, path=()):
    """Every place of a JSON value, as the keys that lead there."""
    yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*path, key))


def put(data, path, value):
    """A copy with another value at a place; nothing at all for ``...``."""
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    if len(path) == 1 and value is ...:
        copy.pop(path[0])
    else:
        copy[path[0]] = put(copy[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("junk", [..., *JUNK], ids=repr)
def test_a_result_of_another_form_is_a_message(saved, tmp_path, monkeypatch, junk):
    shutil.copytree(saved.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "result.json"
    result = json.loads(path.read_text())
    stills = read_file(tmp_path / "copy" / "candidates" / "00.mp4")[0][:2, :32, :32]
    monkeypatch.setattr(run_folder, "_stills", lambda path, scale: stills)
    near, step = [p for p in places(result) if len(p) <= 3], draws(8, 96)
    for place in near[[..., *JUNK].index(junk) % step :: step]:  # each kind of junk in places of its own
        path.write_text(json.dumps(put(result, place, junk) if place or junk is not ... else {}))
        with contextlib.suppress(ReportError):
            render_folder(path.parent)


def test_deep_nesting_is_a_message(tmp_path):
    (tmp_path / "result.json").write_text("[" * 200_000)
    with pytest.raises(ReportError, match="is not JSON"):
        render_folder(tmp_path)


def words_of(page):
    return " ".join(" ".join(Page(page.read_text()).words).split())


def test_a_composite_is_called_one_and_shows_its_members(tmp_path, verdict_of):
    frames, truth = small_video(3, "squash")
    verdict = verdict_of(truth, -4.0)
    parts = {"cac": [verdict.score, None], "motion": [0.9, -0.25], "motion/speed": [0.5, 0.5]}
    made = BestOfNOutput(
        "p", [frames] * 2, [0.25, 0.1], 0, [1, 2], [verdict, None], [None] * 2, 16.0, parts=parts,
        settings={"reward": "mean(3 cac, 1 motion)"},
    )  # fmt: skip
    words = words_of(made.save(tmp_path))
    assert "by mean(3 cac, 1 motion): a composite of cac, motion." in words
    assert "Score of each candidate by mean(3 cac, 1 motion): the probability" not in words
    assert "motion/speed 0.5" in words and "motion \u22120.25" in words and "cac \u2013" in words
    assert f"the judge\u2019s own reward {probability(verdict.score)}" in words


def test_a_score_and_a_verdict_that_differ_are_explained_wherever_they_stand(tmp_path, verdict_of):
    frames, verdict = short_video(verdict_of, 3.0)
    low = replace(verdict, score=0.08)
    made = BestOfNOutput("p", [frames], [0.08], 0, [1], [low], [None], 16.0)
    words = words_of(made.save(tmp_path))
    assert words.count("score differs") == 3 and "leaned towards an anomaly" in words
    agreed = replace(made, scores=[0.95], verdicts=[replace(low, score=0.95)])
    assert "score differs" not in words_of(agreed.save(tmp_path / "b"))


def test_an_order_is_visible_however_close_the_scores(tmp_path):
    assert score_digits([0.99999991, 0.99999992]) == 8
    assert score_digits([1 - 1e-12, 1 - 2e-12]) == 9


def test_a_demonstration_judge_says_so(tmp_path, verdict_of):
    frames, verdict = short_video(verdict_of, 3.0)
    made = BestOfNOutput("p", [frames], [0.95], 0, [1], [verdict], [None], 16.0, settings={"reward": "cac-8b"})
    assert "demonstration model" not in words_of(made.save(tmp_path / "a"))
    shown = replace(verdict, provenance={**verdict.provenance, "demo_scale": True})
    assert "demonstration model" in words_of(replace(made, verdicts=[shown]).save(tmp_path / "b"))
    named = replace(made, settings={"reward": "mean(cac, unified-mini)"})
    assert "demonstration model" in words_of(named.save(tmp_path / "c"))


def test_what_turn_two_did_not_confirm_is_listed(tmp_path, verdict_of):
    frames, truth = small_video(3, "squash")
    found = verdict_of(truth, 3.0)
    assert unconfirmed(found) == []
    denied = replace(found, status="normal", anomalies=())
    [cue] = unconfirmed(denied)
    first = truth.anomalies[0].frames
    assert cue.type.value == "Object Distortion" and abs(cue.frames.start - first.start) < 4 and cue.boxes == {}
    made = BestOfNOutput("p", [frames], [0.95], 0, [1], [denied], [None], 16.0)
    words = words_of(made.save(tmp_path))
    assert "Raised by the first look, not confirmed by the second" in words and cue.reason in words
    other = replace(found.anomalies[0], type=AnomalyType.MOTION)
    assert len(unconfirmed(replace(found, anomalies=(other,)))) == 1


@pytest.mark.parametrize(
    ("cot", "dismissed"),
    [
        ("Frame 0: all is normal. Frame 1: a hand.", []),
        (
            "It looks bent, but this is due to motion blur. Done.",
            ["It looks bent, but this is due to motion blur. "],
        ),
        (
            "It seems odd.\nOn a second look it is plausible.\nEnd.",
            ["It seems odd.\nOn a second look it is plausible.\n"],
        ),
        ("The hand looks bent. It has six fingers.", []),
        ("It might be a shadow. It might be a natural fold.", ["It might be a natural fold."]),
        ("A suspicious gap that is abnormal. The rest is fine.", []),
        ("", []),
    ],
)
def test_dismissed_suspicions_are_found_by_their_words(cot, dismissed):
    pieces = reasoning_pieces(cot)
    assert "".join(p.text for p in pieces) == cot
    assert [p.text for p in pieces if p.dismissed] == dismissed


def test_marking_reasoning_is_linear():
    for piece in ("looks ", "seems to be ", ".", "\n", "due to ", "a"):
        text = piece * (300_000 // len(piece))
        started = time.process_time()  # what others do on this machine does not count
        assert "".join(p.text for p in reasoning_pieces(text)) == text
        assert time.process_time() - started < 1, repr(piece)


def test_scores_without_verdicts(tmp_path):
    frames = small_video(1)[0][:9]
    scores = [3.5, -1.0]
    out = BestOfNOutput("p", [frames] * 2, scores, 0, [1, 2], [None] * 2, [None] * 2, 16.0)
    words = " ".join(Page(out.save(tmp_path).read_text()).words)
    assert "3.500" in words
    assert "\u22121.000" in words
    assert score_axis(scores) == (-1.0, 3.5)


@pytest.mark.parametrize("size", [(31, 33), (32, 48), (257, 301), pytest.param((480, 832), marks=pytest.mark.slow)])
def test_mp4_is_even_playable_and_close_to_the_frames(tmp_path, size):
    ramp = np.linspace(0, 200, size[1]).astype(np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (4, *size, 3)).copy()
    frames += np.arange(4, dtype=np.uint8)[:, None, None, None] * 8
    scale = write_mp4(tmp_path / "a.mp4", frames, 12.5)
    decoded, fps = read_file(tmp_path / "a.mp4")
    assert fps == 12.5
    assert (decoded.shape[1] % 2, decoded.shape[2] % 2) == (0, 0)
    seen = decoded[:, scale // 2 :: scale, scale // 2 :: scale][:, : size[0], : size[1]]
    assert np.abs(seen.astype(int) - frames).mean() < 3


def test_display_scale():
    assert [display_scale(*s) for s in ((32, 32), (255, 300), (256, 256), (480, 832))] == [8, 2, 1, 1]


def test_overlay_draws_the_box_where_the_truth_is(verdict_of):
    frames, truth = small_video(3, "squash")
    verdict = verdict_of(truth, -3.0)
    drawn = draw_overlay(frames, verdict)
    assert drawn.shape == (33, 256 + BAR, 256, 3)
    key, boxes = next(iter(verdict.anomalies[0].boxes.items()))
    rows, columns = np.nonzero((drawn[key, :256] == BOX).all(-1))
    expected = boxes[0].to_pixels(256, 256)
    assert np.abs(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) - expected).max() <= 1
    assert not (drawn[0, :256] == BOX).all(-1).any()


def test_timeline_positions(verdict_of):
    _, truth = small_video(3, "squash")
    verdict = verdict_of(truth, -3.0)
    line = timeline(verdict, 81, 16)
    assert [m["label"] for m in line["marks"]] == ["0", "1 s", "2 s", "3 s", "4 s"]
    assert line["ticks"][0][0] == pytest.approx(100 * 0.5 / 81, abs=1e-3)
    (window,) = line["windows"]
    assert window["x"] == pytest.approx(100 * verdict.window.start / 81, abs=1e-3)
    assert window["x"] + window["width"] == pytest.approx(100 * (verdict.window.end + 1) / 81, abs=2e-3)
    assert film_indices(12) == list(range(12))
    assert film_indices(2)[-1] == 1


def test_looks_that_a_judge_asked_for_stand_on_the_timeline_and_in_its_turns(tmp_path, verdict_of):
    frames, truth = small_video(3, "squash")
    verdict = verdict_of(truth, -3.0)
    zoom, refused = "zoom 1.00-1.50 s x4 <b>", "expand by 9 s and 0 s (refused: <i>too far</i>)"
    first, last = verdict.turns
    again = replace(last, operator=refused)
    verdict = replace(verdict, turns=(first, replace(last, operator=zoom, frame_indices=(16, 18, 20, 22, 24)), again))
    line = timeline(verdict, 33, 16)
    (look,) = line["looks"]
    assert look == {"x": round(100 * 16 / 33, 3), "width": round(100 * 9 / 33, 3), "label": zoom}
    assert zoom in line["label"] and timeline(verdict_of(truth, -3.0), 33, 16)["looks"] == []
    made = BestOfNOutput(
        prompt="p", candidates=[frames], scores=[verdict.score], verdicts=[verdict], best=0, seeds=[0],
        reasons=[None], fps=16.0, settings=SETTINGS,
    )  # fmt: skip
    page = made.save(tmp_path / "run").read_text(encoding="utf-8")
    assert page.count('class="look"') >= 1 and "looks it asked for" in page
    assert "First view" in page and "zoom 1.00-1.50 s x4 &lt;b&gt;" in page and "&lt;i&gt;too far&lt;/i&gt;" in page
    assert "Turn 3" in page and "<i>too far" not in page


def test_a_long_video_shows_the_windows_and_turns_of_all_its_chunks():
    """Two chunks of ten seconds: one suspicion cleared, one confirmed."""

    def turn(number, indices, *found):
        anomalies = tuple(Anomaly(AnomalyType.OBJECT, FrameRange(*f), {f[0]: (Box(0, 0, 500, 500),)}) for f in found)
        report = TurnReport("abnormal" if found else "normal", "", anomalies)
        return Turn(number, tuple(indices), 4.0 * number, "", report.status, report)

    turns = (
        turn(1, range(0, 92, 4), (1, 2)),
        turn(2, range(4, 12, 2)),
        turn(1, range(72, 164, 4), (10, 12)),
        turn(2, range(112, 122, 2), (0, 1)),
    )
    confirmed = Anomaly(AnomalyType.OBJECT, FrameRange(112, 114), {112: (Box(0, 0, 500, 500),)})
    window = FrameRange(112, 120)
    verdict = Verdict("abnormal", 0.1, turns, window, (confirmed,), num_frames=161, fps=16)
    line = timeline(verdict, 161, 16)
    assert [round(w["x"] * 161 / 100) for w in line["windows"]] == [4, 112]
    assert [round(s["width"] * 161 / 100) for s in line["outside"]] == [4, 103, 40], "what is dimmed between them"
    assert [len(ticks) for ticks in line["ticks"]] == [41, 4 + 5], "a row for each kind of turn"
    assert [a.frames for a in unconfirmed(verdict)] == [FrameRange(4, 8)]
    assert hold_frames(verdict) == 2
    drawn = draw_overlay(np.zeros((161, 128, 161, 3), np.uint8), verdict)
    bar = (drawn[0, -BAR // 2] == WINDOW).all(-1)
    assert [bool(bar[drawn.shape[2] * n // 161]) for n in (6, 60, 116, 150)] == [True, False, True, False]


@pytest.mark.parametrize("copy", ["overlay", "small"])
def test_a_long_file_is_copied_frame_by_frame(copy, tmp_path, monkeypatch, verdict_of):
    frames, truth = small_video(3, "squash")
    write_video(tmp_path / "long.mp4", np.tile(frames[:1], (264, 4, 4, 1)), 16)
    monkeypatch.setattr("reward_model.video.reading.KEEP_BYTES", 0)
    video = load_video(tmp_path / "long.mp4")
    tracemalloc.start()
    try:
        if copy == "overlay":
            write_overlay(tmp_path / "copy.mp4", video.frames, verdict_of(truth, -3.0), 16.0)
        else:
            small_copy(video.frames, 16.0, 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < video.frames.nbytes / 4


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.5, "0.500"), (0.98234, "0.982"), (0.99996, "0.99996"), (2.4e-7, "2.4e-07"), (1.0, "1.000"), (0.0, "0.000")],
)
def test_probability_never_rounds_to_certainty(p, text):
    assert probability(p) == text


def test_small_texts():
    assert signed(-1.5) == "\u22121.50"
    assert signed(None) == ""
    assert (score_digits([0.5, 0.25]), score_digits([0.99991, 0.99992, None])) == (3, 5)
    assert (score_digits([0.0002, 0.3]), score_digits([0.0, 1.0, 0.5])) == (4, 3)
    assert visible("a\x07b\u2066c\nd") == "a\u2407b\ufffdc\nd"
    assert flatten({"a_b": {"c": 1, "d": None}, "e": [1, 2]}) == [
        ("a b \u203a c", "1"),
        ("a b \u203a d", "\u2013"),
        ("e", "1, 2"),
    ]


def test_summaries(verdict_of):
    def summary(verdict):
        return _summary(verdict, {"score": verdict.score}).replace("\u00a0", " ")

    _, truth = small_video(3, "squash")
    faulty, clean = verdict_of(truth, -3.0), verdict_of(small_video(3)[1], 3.0)
    first, last = (n / 16 for n in (faulty.anomalies[0].frames.start, faulty.anomalies[0].frames.end + 1))
    assert summary(faulty) == f"The judge sees Object Distortion, from {first:.2f} s to {last:.2f} s."
    assert summary(clean) == "The judge looked over the whole video and saw no anomaly."
    denied = replace(faulty, status="normal", score=0.9, anomalies=())
    start, end = faulty.window_s
    assert summary(denied).startswith(f"The first look found {start:.2f} s to {end:.2f} s suspicious")
    assert summary(replace(clean, score=0.2)).endswith("it leaned towards an anomaly.")
    assert summary(replace(faulty, score=0.8)).endswith("it leaned towards normal.")
    assert "\u201cnormal\u201d the likelier word" in summary(replace(clean, forced=True))


def iou(a, b):
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    inner = max(0, x1 - x0) * max(0, y1 - y0)
    areas = [(r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)]
    return inner / (sum(areas) - inner)


def open_page(browser, path, width=1280, scheme="light"):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(120_000)
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("request", lambda r: page.problems.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.on("dialog", lambda d: page.problems.append("dialog " + d.message))
    page.goto(path.as_uri())
    return page


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_plays_without_errors(browser, saved, width, scheme):
    page = open_page(browser, saved, width, scheme)
    wait_until(page, "document.querySelector('.hero video').currentTime > 0.3")
    assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
    page.locator("#evidence-0").scroll_into_view_if_needed()
    wait_until(page, "document.querySelector('#evidence-0 video').currentTime > 0.2")
    assert hangs_over(page) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 17, 20)"
    assert dark == (scheme == "dark")
    assert page.problems == []
    page.close()


@pytest.mark.slow
def test_browser_shows_long_captions_on_a_phone(browser, tmp_path, verdict_of):
    frames, truth = small_video(3, "squash")
    denied = replace(
        verdict_of(truth, -3.0, "It looks bent. It is only blur."), status="normal", anomalies=(), score=0.08
    )
    parts = {"a member with a long name": [0.08] * 3, "motion": [0.123456789] * 3}
    made = BestOfNOutput(
        "p", [frames] * 3, [0.1, 0.100000002, 0.3], 2, [1, 2, 3], [denied] * 3, [None] * 3, 16.0, parts
    )
    for width in (320, 390, 1280):
        page = open_page(browser, made.save(tmp_path), width)
        assert hangs_over(page) == [], width
        assert page.problems == []
        page.close()


@pytest.mark.slow
@pytest.mark.parametrize("candidate", [0, 2])
def test_browser_draws_boxes_on_the_anomaly(browser, saved, output, candidate):
    kinds = {0: (3, "squash"), 2: (5, "split")}
    _, truth = small_video(*kinds[candidate])
    page = open_page(browser, saved)
    page.click("[data-act=play]")
    boxes = output.verdicts[candidate].anomalies[0].boxes
    for frame in (min(boxes), sorted(boxes)[len(boxes) // 2], max(boxes)):
        page.evaluate(
            """([candidate, frame]) => {
                const range = document.querySelector(`#evidence-${candidate} input`);
                range.value = frame; range.dispatchEvent(new Event("input"));
            }""",
            [candidate, frame],
        )
        player = page.locator(f"#evidence-{candidate} .player")
        wait_until(
            page,
            "([c, f]) => { const v = document.querySelector(`#evidence-${c} video`);"
            " return !v.seeking && v.closest('.player').dataset.frame == f; }",
            [candidate, frame],
        )
        page.wait_for_timeout(150)
        outer = player.locator("video").bounding_box()
        drawn = [b.bounding_box() for b in player.locator(".box").all()]
        expected = truth.anomalies[0].boxes[frame]
        assert len(drawn) == len(expected)
        for found, box in zip(drawn, expected, strict=True):
            left, top = (found["x"] - outer["x"]) / outer["width"], (found["y"] - outer["y"]) / outer["height"]
            right, bottom = left + found["width"] / outer["width"], top + found["height"] / outer["height"]
            assert iou((left, top, right, bottom), [v / 1000 for v in Box(*box.as_list()).as_list()]) > 0.9
    page.evaluate("document.querySelector('#evidence-0 input').value = 0")
    page.click("[data-act=boxes]")
    assert not page.locator(f"#evidence-{candidate} .overlay").is_visible()
    assert page.problems == []
    page.close()


@pytest.mark.slow
def test_browser_keyboard_moves_through_frames(browser, saved):
    page = open_page(browser, saved)
    page.click("[data-act=play]")
    page.locator("#evidence-0 input").focus()
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('#evidence-0 .player').dataset.frame") == "3"
    page.close()
