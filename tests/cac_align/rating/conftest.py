"""Five tiny real videos in a folder, and a client that speaks to the page as its own script does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from werkzeug.test import Client

from cac_align.rating.app import RatingApp
from cac_align.rating.study import open_rating
from reward_model.video.writing import write_mp4
from reward_model.world import make_video

KINDS = {"a/one.mp4": "squash", "a/two.mp4": None, "b/three.mp4": "vanish", "b/four.mp4": None, "b/five.mp4": "split"}


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Path and truth of each video; made once."""
    folder, truths = tmp_path_factory.mktemp("clips"), {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        frames, truths[name] = make_video(seed, kind, size=32, setting="single", num_frames=33, fps=16)
        write_mp4(folder / name, frames, 16)
    return folder, truths


@pytest.fixture
def folder(clips, tmp_path):
    return Path(shutil.copytree(clips[0], tmp_path / "videos"))


@pytest.fixture
def two_clips(clips, tmp_path):
    """A folder of two of the videos: every opening of a study reads them all."""
    for name in ("a/one.mp4", "b/four.mp4"):
        place = tmp_path / "two" / name
        place.parent.mkdir(parents=True)
        shutil.copy(clips[0] / name, place)
    return tmp_path / "two"


@pytest.fixture
def opened():
    """Opens studies and closes them when the test is over."""
    studies = []

    def open_(study):
        studies.append(study)
        return study

    yield open_
    for study in studies:
        study.close()


class Page:
    """One browser tab."""

    def __init__(self, study):
        self.study, self.client = study, Client(RatingApp(study))

    def post(self, path, data, **headers):
        headers = {"Host": "127.0.0.1:8808", "Origin": "http://127.0.0.1:8808", **headers}
        return self.client.post(f"/api/{path}", json=data, headers={k: v for k, v in headers.items() if v})

    def get(self, path, **headers):
        return self.client.get(path, headers={"Host": "127.0.0.1:8808", **headers})

    def enter(self, name):
        return self.post("enter", {"name": name}).json

    def answer(self, person, key, **answer):
        data = {"status": None, "anomalies": [], "note": "", "done": False, **answer}
        return self.post("answer", {"person": person, "video": key, "answer": data})

    def decide(self, person, key, decision, note="", done=True):
        answer = {"decision": decision, "note": note, "done": done}
        return self.post("answer", {"person": person, "video": key, "answer": answer})


@pytest.fixture
def page(folder, opened):
    return Page(opened(open_rating(folder)))


@pytest.fixture(scope="module")
def refusing(clips, tmp_path_factory):
    """One page for all requests that are refused and change nothing: opening a study reads its videos."""
    study = open_rating(Path(shutil.copytree(clips[0], tmp_path_factory.mktemp("refusing") / "videos")))
    yield Page(study)
    study.close()


def squashed(start=4, end=9, box=(100, 200, 500, 700)):
    """An anomaly as the page sends it."""
    return {
        "type": "Object Distortion",
        "frames": [start, end],
        "boxes": {str(start): [list(box)]},
        "objects": ["ball"],
        "reason": "it is squashed",
        "region": "",
        "salient": None,
    }


@pytest.fixture
def tools():
    """Page and squashed() for test modules, which import nothing from here."""
    return Page, squashed


def rate_all(page, person, abnormal):
    """The person finishes every video; those whose stem is in ``abnormal`` are abnormal."""
    page.enter(person)
    for key, item in page.study.store.items.items():
        wrong = Path(item.video).stem in abnormal
        status = {"status": "abnormal", "anomalies": [squashed()]} if wrong else {"status": "normal"}
        reply = page.answer(person, key, **status, done=True)
        assert reply.status_code == 200, reply.json


@pytest.fixture
def rate_everything():
    return rate_all
