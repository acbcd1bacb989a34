"""The server through its test client: saving, blindness, and what it refuses."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cac_align.rating.guide import CONVENTIONS, DEFINITIONS
from cac_align.rating.study import open_rating
from reward_model.schema import AnomalyType
from reward_model.video.clip import read_file

HOST = "127.0.0.1:8808"


def test_everyone_has_an_order_of_their_own_which_stays(page, folder, opened, tools):
    orders = {name: [i["key"] for i in page.enter(name)["items"]] for name in ("Ann", "Bob", "Cem", "Dan")}
    assert len(set(map(tuple, orders.values()))) > 1 and len({frozenset(o) for o in orders.values()}) == 1
    page.study.close()
    again = tools[0](opened(open_rating(folder)))
    assert [i["key"] for i in again.enter("ann")["items"]] == orders["Ann"]
    assert again.enter("ANN")["person"] == "Ann"
    page.study.close()
    again.study.close()
    other = tools[0](opened(open_rating(folder, seed=1)))
    assert [i["key"] for i in other.enter("Ann")["items"]] != orders["Ann"]


def test_the_page_is_blind(page):
    text = json.dumps(page.enter("Ann")) + page.get("/").text
    assert not [name for name in ("one", "two.mp4", "three", "four", "five") if f"{name}.mp4" in text]


def test_every_change_is_kept_across_a_restart(page, folder, opened, tools):
    tab, squashed = tools
    keys = [i["key"] for i in page.enter("Ann")["items"]]
    assert page.answer("Ann", keys[0], status="abnormal", anomalies=[squashed()]).status_code == 200
    assert page.answer("Ann", keys[1], status="normal", done=True).status_code == 200
    page.study.close()
    entered = tab(opened(open_rating(folder))).enter("Ann")
    answers = {i["key"]: i["answer"] for i in entered["items"]}
    assert answers[keys[0]]["anomalies"] == [squashed()] and answers[keys[0]]["done"] is False
    assert answers[keys[1]]["status"] == "normal" and entered["last"] == keys[1]
    assert sum(a is None for a in answers.values()) == 3


def test_an_answer_to_a_video_that_was_replaced_does_not_count(page, folder, opened, rate_everything):
    rate_everything(page, "Ann", set())
    page.study.close()
    from reward_model.video.writing import write_mp4

    write_mp4(folder / "a/one.mp4", np.zeros((9, 32, 32, 3), np.uint8), 16)
    study = opened(open_rating(folder))
    assert study.store.ignored == 1 and len(study.store.finished("Ann")) == 4
    assert "do not count" in study.notes[0]


def test_a_replaced_video_of_the_same_shape_is_another_video(page, folder, opened, rate_everything):
    """Same name, length, size and rate, other pictures: it is not shown as what was listed, and old answers are not
    answers to it."""
    from reward_model.video.reading import probe
    from reward_model.video.writing import write_mp4

    rate_everything(page, "Ann", set())
    path = folder / "a/one.mp4"
    header, frames = probe(path), read_file(path)[0]
    write_mp4(path, frames[:, ::-1], header.fps)
    assert probe(path) == header
    item = next(i for i in page.study.store.items.values() if i.video == "a/one.mp4")
    shown = page.get(f"/api/frames/{item.key}/0")
    assert shown.status_code >= 400 and "changed since it was listed" in shown.text
    page.study.close()
    study = opened(open_rating(folder))
    assert study.store.ignored == 1 and len(study.store.finished("Ann")) == 4


def test_frames_are_those_of_the_judges_loader(page, folder):
    item = next(i for i in page.study.store.items.values() if i.video == "a/one.mp4")
    truth, pictures = read_file(folder / "a/one.mp4")[0], []
    for start in (0, 16, 32):
        data = page.get(f"/api/frames/{item.key}/{start}").data
        while data:
            (size,) = struct.unpack(">I", data[:4])
            pictures.append(data[4 : 4 + size])
            data = data[4 + size :]
    assert len(pictures) == 33
    import io

    for k in (0, 15, 16, 32):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(pictures[k]))), truth[k])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example:8808"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": ""}, 400),
        ({"Host": "[::1"}, 400),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_only_its_own_page_may_speak_to_it(request, headers, status):
    page = request.getfixturevalue("page" if status == 200 else "refusing")
    sent = {"Host": HOST, "Origin": f"http://{HOST}", "Content-Type": "application/json", **headers}
    reply = page.client.post("/api/enter", data=json.dumps({"name": "Eve"}), headers=sent)
    assert reply.status_code == status
    assert ("Eve" in page.study.store.people) == (status == 200)
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


def test_reading_is_guarded_too(refusing):
    assert refusing.get("/", Host="evil.example").status_code == 400
    assert refusing.get("/", **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    reply = refusing.get("/")
    assert reply.status_code == 200 and reply.headers["X-Frame-Options"] == "DENY"
    assert "unsafe" not in reply.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../app.py",
        "/assets/..%2fapp.py",
        "/assets/page.html.j2",
        "/assets//etc/passwd",
        "/api/frames/..%2f..%2fsecret.mp4/0",
        "/api/frames/a%2fone.mp4/0",
        "/ratings/journal.jsonl",
        "/a/one.mp4",
    ],
)
def test_no_address_names_a_file(refusing, path):
    assert refusing.get(path).status_code in (404, 308)
    assert refusing.client.get(path, headers={"Host": HOST}, follow_redirects=True).status_code == 404


def test_a_video_turned_into_a_link_is_not_read(page, folder, tmp_path):
    item = next(i for i in page.study.store.items.values() if i.video == "a/one.mp4")
    shutil.move(folder / "a/one.mp4", tmp_path / "moved.mp4")
    (folder / "a/one.mp4").symlink_to(tmp_path / "moved.mp4")
    reply = page.get(f"/api/frames/{item.key}/0")
    assert reply.status_code == 422 and "leads out" in reply.json["error"]


def test_ratings_that_lead_out_are_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "ratings").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out"):
        open_rating(folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": NaN}', b'{"name": "Eve", "more": 1}', b"[" * 100_000])
def test_broken_bodies_are_refused(refusing, body):
    sent = {"Host": HOST, "Content-Type": "application/json"}
    assert refusing.client.post("/api/enter", data=body, headers=sent).status_code in (400, 422)


def test_huge_bodies_are_refused(refusing):
    reply = refusing.post("answer", {"person": "x" * 3_000_000, "video": "", "answer": {}})
    assert reply.status_code == 413


def test_strangers_and_unknown_videos_are_refused(page):
    keys = [i["key"] for i in page.enter("Ann")["items"]]
    assert "has not joined" in page.answer("Bob", keys[0], status="normal").json["error"]
    assert "not among" in page.answer("Ann", "nothing", status="normal").json["error"]
    assert "not among" in page.answer("Ann", ["x"], status="normal").json["error"]
    assert page.enter("../../evil").get("error", "").startswith("a name has")


def test_a_disk_that_is_full_is_said_and_nothing_changes(page, monkeypatch):
    keys = [i["key"] for i in page.enter("Ann")["items"]]

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    reply = page.answer("Ann", keys[0], status="normal")
    monkeypatch.undo()
    assert reply.status_code == 507 and "No space" in reply.json["error"]
    assert page.enter("Ann")["items"][0]["answer"] is None


def test_the_page_tells_the_types_and_the_conventions(refusing):
    text = refusing.get("/").get_data(as_text=True)
    for kind in AnomalyType:
        assert f"<dt>{kind.value}</dt><dd>{DEFINITIONS[kind]}</dd>" in text.replace("&#39;", "'")
    questions = [question for question, _ in CONVENTIONS]
    assert all(f"<dt>{question}</dt>" in text for question in questions)
    told = " ".join(answer for _, answer in CONVENTIONS)
    for word in ("single frame", "comparing frames", "whole range", "Tight", "last frame that still shows", "Several"):
        assert word in told


def test_the_documentation_tells_the_same_definitions():
    text = (Path(__file__).resolve().parents[3] / "docs/how_to/rate_videos.md").read_text()
    for kind, definition in DEFINITIONS.items():
        assert f"| {kind.value} | {definition[0].lower()}{definition[1:-1]} |" in text
