"""The page in a real browser: keyboard, mouse, reload, two people, review, and text that would like to be a script."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from cac_align.rating import review, tally  # noqa: F401  (what the results page loads, before a browser waits for it)
from cac_align.rating.server import address, open_server
from cac_align.rating.study import open_rating, open_review
from reward_model.data.annotations import write_annotations
from reward_model.data.records import Record
from reward_model.video.clip import read_file
from tests.browser import hangs_over, wait_until

NASTY = "a ball </script><script>alert(1)</script><img src=x onerror=alert(2)> \u202egnp {{ 7 * 7 }}"
pytestmark = pytest.mark.slow


@contextmanager
def served(study):
    server = open_server(study, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address(server, "127.0.0.1")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        study.close()


def open_tab(browser, url, name, *, width=1280, height=900, scheme="light"):
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    page.set_default_timeout(120_000)
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("request", lambda r: page.problems.append(r.url) if not r.url.startswith((url, "data:")) else None)
    page.on("dialog", lambda d: page.problems.append("dialog " + d.message))
    page.goto(url)
    page.fill("#name", name)
    page.keyboard.press("Enter")
    wait_until(page, "!document.getElementById('work').hidden")
    return page


def title(page, text):
    wait_until(page, "(t) => document.getElementById('title').textContent.startsWith(t)", text)


def shown(page, frame):
    wait_until(page, "(k) => document.getElementById('stage').dataset.frame === String(k)", frame)


def settled(page):
    wait_until(page, "document.getElementById('saved').dataset.waiting === '0'")


def drag(page, selector, start, end):
    box = page.locator(selector).bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(sum(p[0] for p in points) / 2, sum(p[1] for p in points) / 2)
    page.mouse.move(*points[1])
    page.mouse.up()


def keys(page, *names):
    for name in names:
        page.keyboard.press(name)


def canvas(page):
    """What the canvas shows, (H, W, 3)."""
    data = page.evaluate(
        "(() => { const c = document.getElementById('canvas');"
        " return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); })()"
    )
    return np.array(data, np.uint8).reshape(256, 256, 4)[..., :3]


def test_five_videos_by_keyboard_and_mouse_with_a_reload_and_a_second_rater(browser, folder, tmp_path):
    study = open_rating(folder)
    with served(study) as url:
        page = open_tab(browser, url, "Ann")
        order = study.store.order("Ann")
        title(page, "Video 1 of 5 · 0")
        shown(page, 0)
        keys(page, "ArrowRight", "ArrowRight", "ArrowRight")
        shown(page, 3)
        assert np.array_equal(canvas(page), read_file(folder / order[0].video)[0][3])
        keys(page, "n", "Enter")

        title(page, "Video 2 of 5 · 1")
        shown(page, 0)
        keys(page, "a", "1")
        drag(page, "#windows", (0.26, 0.5), (0.49, 0.5))
        drag(page, "#boxes", (0.2, 0.3), (0.5, 0.8))
        wait_until(page, "document.querySelectorAll('#boxes rect').length === 1")
        page.screenshot(path=tmp_path / "desktop-light.png")
        keys(page, "Enter")

        title(page, "Video 3 of 5 · 2")
        shown(page, 0)
        keys(
            page, "3", *["ArrowRight"] * 5, "i", "Shift+ArrowRight", "o", "b", "ArrowRight", "Shift+ArrowDown", "Escape"
        )
        page.fill("[aria-label='What is wrong with it?']", NASTY)
        settled(page)
        wait_until(page, "document.getElementById('saved').textContent === 'Saved'")
        page.reload()
        title(page, "Video 3 of 5 · 2")
        wait_until(page, "document.querySelector('.found .when').textContent.startsWith('Frames 5–13')")
        assert page.input_value("[aria-label='What is wrong with it?']") == NASTY
        keys(page, "Enter")

        title(page, "Video 4 of 5 · 3")
        page.click("[data-answer=normal]")
        page.click("#done")
        title(page, "Video 5 of 5 · 4")
        keys(page, "2", "w", "u", "u", "n", "Enter")
        wait_until(page, "!!document.getElementById('export')")
        assert page.problems == []

        said = study.store.finished("Ann")
        second, third = (said[order[k].key]["anomalies"][0] for k in (1, 2))
        assert [said[i.key]["status"] for i in order] == ["normal", "abnormal", "abnormal", "normal", "normal"]
        assert second["type"] == "Object Distortion" and second["frames"] == [8, 16]
        ((frame, (box,)),) = second["boxes"].items()
        assert frame == "16" and np.allclose(box, [200, 300, 500, 800], atol=6)
        assert third["type"] == "Motion Anomalies" and third["frames"] == [5, 13] and third["reason"] == NASTY
        assert third["boxes"] == {"13": [[420, 400, 620, 620]]}
        second_rater(browser, url, study, {order[0].key, order[1].key}, tmp_path)


def second_rater(browser, url, study, wrong, tmp_path):
    """Bob, on a phone in the dark, finds two videos abnormal; Ann found one of these and another one."""
    phone = open_tab(browser, url, "Bob", width=390, height=844, scheme="dark")
    for number, item in enumerate(study.store.order("Bob"), 1):
        title(phone, f"Video {number} of 5 · {number - 1}")
        if item.key in wrong:
            keys(phone, "4", "w")
            shown(phone, 0)
            phone.screenshot(path=tmp_path / "phone-dark.png", full_page=True)
        else:
            keys(phone, "n")
        keys(phone, "Enter")
    wait_until(phone, "!!document.getElementById('export')")
    assert hangs_over(phone) == []
    # Three of five agree; by chance (2 * 2 + 3 * 3) / 25: (0.6 - 0.52) / 0.48.
    text = phone.locator("#results").inner_text()
    assert f"{(0.6 - 0.52) / 0.48:.2f}" in text and "Ann" in text
    phone.screenshot(path=tmp_path / "phone-results.png", full_page=True)
    phone.click("#export")
    wait_until(phone, "document.querySelectorAll('#written li').length === 5")
    assert phone.problems == []


def test_review_round_trip(browser, folder, clips, tmp_path):
    records = [
        Record(name, replace(t, video_id=name, width=256, height=256, prompt=NASTY), extra={"annotator": NASTY})
        for name, t in clips[1].items()
    ]
    annotations = write_annotations(folder / "annotations.jsonl", records)
    study = open_review(folder, annotations)
    with served(study) as url:
        page = open_tab(browser, url, "Rev", scheme="dark")
        order = study.store.order("Rev")
        for number, item in enumerate(order, 1):
            title(page, f"Video {number} of 5 · {number - 1}")
            if number == 3:
                keys(page, "r")
                page.keyboard.type("the window is too long")
                page.keyboard.press("Control+Enter")
            else:
                if item.record.truth.anomalies and number < 3:
                    page.click("text=Show")
                    wait_until(page, "document.querySelectorAll('#boxes rect').length > 0")
                    page.screenshot(path=tmp_path / "review-dark.png")
                keys(page, "a", "Enter")
        wait_until(page, "!!document.getElementById('export')")
        said = study.store.finished("Rev")
        decided = [said[i.key]["decision"] for i in order]
        assert decided == ["accept", "accept", "return", "accept", "accept"]
        assert said[order[2].key]["note"] == "the window is too long"
        assert page.problems == []


def test_names_and_prompts_stay_text(browser, folder, tmp_path):
    nasty = "<img src=x onerror=alert(3)>.mp4"
    (folder / "a/one.mp4").rename(folder / "a" / nasty)
    (folder / "a" / nasty).with_suffix(".txt").write_text(NASTY)
    study = open_rating(folder)
    with served(study) as url:
        page = open_tab(browser, url, "Ann")
        prompts = []
        for number in range(1, 6):
            title(page, f"Video {number} of 5")
            prompts.append(page.locator("#prompt").inner_text())
            keys(page, "n", "Enter")
        wait_until(page, "!!document.getElementById('export')")
        assert sum("<script>alert(1)</script>" in p and "{{ 7 * 7 }}" in p for p in prompts) == 1
        assert not any("\u202e" in p for p in prompts)
        page.click("#export")
        wait_until(page, "document.querySelectorAll('#written li').length === 4")
        assert page.evaluate("document.querySelectorAll('script').length") == 1
        assert page.problems == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_raters_are_told_what_counts_and_what_is_missing(browser, folder, tmp_path, width, scheme):
    study = open_rating(folder)
    with served(study) as url:
        page = open_tab(browser, url, "Ann", width=width, scheme=scheme)
        keys(page, "Enter")
        assert "normal (N) or abnormal (A)" in page.text_content("#message")
        assert page.text_content("#prompt") == "not known"
        keys(page, "a")
        assert page.locator(".types button").all_inner_texts()[1].endswith("too many, missing or split.")
        keys(page, "h")
        assert page.locator("#guide").is_visible() and page.evaluate("document.getElementById('guide').scrollTop") == 0
        keys(page, "n", "Escape")
        assert page.locator("#guide").is_hidden()
        settled(page)
        (answer,) = study.store._answers.values()
        assert answer["status"] == "abnormal"  # keys in the dialog answer nothing
        assert hangs_over(page) == []
        assert [p for p in page.problems if "422" not in p] == []
