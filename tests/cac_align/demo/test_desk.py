"""The demo page without its web framework: verdicts on files and scenes, best-of-n, and what is refused."""

import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest

from cac_align import CaCReward
from cac_align.demo import desk as demo_desk
from cac_align.demo import uploads
from cac_align.demo.desk import KEPT, NOTHING, DemoDesk, scene_kinds
from cac_align.demo.uploads import check_integer, check_upload
from reward_model.video.clip import VideoError, read_file
from reward_model.video.writing import write_mp4
from reward_model.world import KINDS, make_video

NASTY = "</section><script>alert('p')</script> {{ 7 * 7 }} \x1b[31m"


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def desk(judge_folder, wan_pipe, tmp_path_factory):
    return DemoDesk(tmp_path_factory.mktemp("answers"), CaCReward(judge_folder), wan_pipe)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_mp4(path, make_video(3, "squash", num_frames=17)[0], 16)
    return path


def test_an_uploaded_file_is_judged_as_the_judge_alone_would(desk, clip):
    shown = desk.judge_upload(str(clip), "  a ball  ")
    alone = desk.reward.judge(str(clip), "a ball")
    page = Page(shown.html)
    assert {"normal": "Normal", "abnormal": "Abnormal"}[alone.status] in page.words
    assert "Prompt: a ball" in page.text
    frames, fps = read_file(shown.video)
    assert (len(frames), fps) == (17, 16)
    height, width = read_file(clip)[0].shape[1:3]
    assert frames.shape[1:3] == (height + 12, width), "the bar of the overlay stands below the picture"


def test_what_a_judge_found_is_on_the_page(desk, clip, verdict_of, monkeypatch):
    """A perfect judge's verdict, whose words would like to be markup."""
    frames, truth = make_video(3, "squash", num_frames=33)
    found = verdict_of(truth, -4.0, NASTY)
    worded = tuple(replace(a, reason=NASTY, region=NASTY) for a in found.anomalies)
    verdict = replace(found, anomalies=worded, out_of_domain=True, domain_reason=NASTY)
    monkeypatch.setattr(desk, "reward", type("Judge", (), {"judge": lambda *a, **k: verdict})())
    monkeypatch.setattr(demo_desk, "make_video", lambda *a, **k: (frames, replace(truth, prompt=NASTY)))
    shown = desk.judge_drawn("squash", 3)
    page = Page(shown.html)
    start, end = verdict.window_s
    assert f"Suspicious window: {start:.2f}\u2013{end:.2f} s" in page.text
    assert "Object Distortion" in page.words and "Abnormal" in page.words
    assert f"Drawn with squash (Object Distortion), {truth.anomalies[0].frames.start / 16:.2f} s" in page.text
    boxes = [attrs for tag, attrs in page.tags if tag == "rect"]
    first = verdict.anomalies[0].boxes[min(verdict.anomalies[0].boxes)][0]
    assert float(boxes[0]["x"]) == first.xmin and float(boxes[0]["y"]) == first.ymin
    assert not [tag for tag, _ in page.tags if tag == "script"] and "\x1b" not in shown.html
    assert page.text.count("<script>alert('p')</script> {{ 7 * 7 }}") >= 4, "prompt, reason, domain, reasoning"
    assert read_file(shown.video)[0].shape[0] == 33


def test_a_scene_is_drawn_with_and_without_its_anomaly(desk, monkeypatch):
    monkeypatch.setattr(demo_desk, "make_video", partial(make_video, num_frames=17))
    assert scene_kinds() == (NOTHING, *KINDS)
    assert "Drawn with nothing wrong." in Page(desk.judge_drawn(NOTHING, 7).html).text
    refused = desk.judge_drawn("<b>", 7)
    assert refused.video is None and "'<b>' must be one of nothing, squash" in Page(refused.html).text
    assert "must be a whole number from 0" in Page(desk.judge_drawn("squash", 1.5).html).text


def test_a_video_nobody_could_judge_says_why(desk, verdict_of, monkeypatch):
    _, truth = make_video(3, None)
    verdict = replace(verdict_of(truth, 1.0), status=None, score=None, error="half an answer <b>", turns=())
    monkeypatch.setattr(desk, "reward", type("Judge", (), {"judge": lambda *a, **k: verdict})())
    shown = desk.judge_drawn(NOTHING, 3)
    assert shown.video is None
    assert "Could not judge: half an answer <b>" in Page(shown.html).text


@pytest.mark.parametrize(("name", "limit", "said"), [
    ("MAX_MEGABYTES", 0.001, "takes up to 0.001 MB"),
    ("MAX_SECONDS", 1, "has 17 frames over 1.1 s; this page takes up to 1 s and 600 frames"),
    ("MAX_FRAMES", 16, "this page takes up to 20 s and 16 frames"),
])  # fmt: skip
def test_a_file_beyond_a_limit_is_refused_before_it_is_decoded(desk, clip, monkeypatch, name, limit, said):
    monkeypatch.setattr(uploads, name, limit)
    monkeypatch.setattr(demo_desk, "load_video", lambda *a: pytest.fail("decoded"))
    shown = desk.judge_upload(str(clip))
    assert shown.video is None
    assert said in Page(shown.html).text and "'clip.mp4'" in Page(shown.html).text


def test_what_is_not_a_video_is_refused_by_its_name_alone(desk, tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video" * 100)
    for given, said in ((path, "notes.mp4"), (tmp_path / "gone.mp4", "gone.mp4"), (None, "no video was chosen")):
        shown = desk.judge_upload(None if given is None else str(given))
        assert shown.video is None
        assert said in Page(shown.html).text.replace("No", "no") and str(tmp_path) not in shown.html


@pytest.mark.slow
def test_a_large_video_is_shown_smaller_and_judged_as_it_is(desk, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_desk, "SHOWN_SIDE", 400)
    path = tmp_path / "wide.mp4"
    write_mp4(path, np.random.default_rng(0).integers(0, 255, (2, 300, 600, 3)).astype(np.uint8), 4)
    judge, judged = desk.reward.judge, []
    monkeypatch.setattr(desk.reward, "judge", lambda video, *more: judged.append(video) or judge(video, *more))
    assert read_file(desk.judge_upload(str(path)).video)[0].shape[2] >= 400
    assert judged == [str(path)]


@pytest.mark.slow
def test_best_of_n_shows_the_chosen_video_and_the_report(desk, monkeypatch):
    monkeypatch.setattr(demo_desk, "MINI_SHAPE", {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2})
    shown = desk.best_of(" a red ball <b> ", 2, 3)
    frame = next(attrs for tag, attrs in Page(shown.html).tags if tag == "iframe")
    assert frame["sandbox"] == "allow-scripts", "the report may run its script and reach nothing of the page"
    assert frame["srcdoc"] == (shown.video.parent / "report.html").read_text(encoding="utf-8")
    assert "a red ball &lt;b&gt;" in frame["srcdoc"] and "seed 4" not in frame["srcdoc"].partition("Evidence")[0][:200]
    assert len(read_file(shown.video)[0]) == 5


@pytest.mark.parametrize(("prompt", "n", "seed", "said"), [
    (" ", 2, 0, "The prompt is empty"),
    ("x" * 501, 2, 0, "The prompt has 501 characters; this page takes up to 500"),
    ("a ball", 7, 0, "The number of candidates 7 must be a whole number from 1 to 6"),
    ("a ball", 2, -1, "The seed -1 must be a whole number"),
])  # fmt: skip
def test_what_best_of_n_cannot_do_is_a_sentence(desk, prompt, n, seed, said):
    shown = desk.best_of(prompt, n, seed)
    assert shown.video is None and said in Page(shown.html).text


@pytest.mark.parametrize("value", [None, "3", True, float("nan"), float("inf"), 2.5, 11])
def test_numbers_are_whole_and_within_their_ends(value):
    with pytest.raises(ValueError, match="must be a whole number from 0 to 10"):
        check_integer("the seed", value, 0, 10)
    assert check_integer("the seed", 3.0, 0, 10) == 3


def test_files_of_older_answers_go(desk):
    for _ in range(KEPT + 2):
        desk._new_folder()
    names = sorted(folder.name for folder in desk.folder.iterdir())
    assert len(names) == KEPT and re.fullmatch(r"answer-\d{8}", names[-1])


def test_a_file_without_a_rate_is_refused(clip, monkeypatch):
    facts = replace(uploads.read_facts(clip), fps=None)
    monkeypatch.setattr(uploads, "read_facts", lambda path: facts)
    with pytest.raises(VideoError, match=r"'clip\.mp4' states no frame rate"):
        check_upload(clip)
