"""The demo page in a real browser, desktop and phone, light and dark, with the minis; and as a hosted Space.

Skipped where gradio is not installed: the extra ``demo`` brings it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from reward_model.video.writing import write_mp4
from reward_model.world import make_video
from tests.browser import SCREENS, faint_text, hangs_over, reached_by_tab

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
#: Milliseconds a loaded machine may take for an answer.
PATIENCE = 120_000


@pytest.fixture(scope="module")
def served(load_recipe, tmp_path_factory):
    """Address of the page, served as the recipe serves it, and the desk behind it."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        gradio = pytest.importorskip("gradio")
        recipe = load_recipe("demo_app")
        desk = recipe.open_desk(folder / "answers", str(ROOT / "assets/cac-mini"), str(ROOT / "assets/wan-mini"))
        page = recipe.build_page(gradio, desk).queue(max_size=20)
        page.launch(**recipe.launch_options(gradio, None, None), prevent_thread_lock=True, quiet=True)
        yield page.local_url, desk
        page.close()


@pytest.fixture(scope="module")
def site(served):
    return served[0]


@pytest.fixture
def open_site(browser, site):
    """Opens a tab; at the end nothing was asked of another host, nothing failed in it, and what is ours is legible."""
    faults, strangers, tabs = [], [], []

    def open_tab(width=1280, scheme="light"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.set_default_timeout(PATIENCE)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda r: strangers.append(r.url) if not r.url.startswith((site, "data:", "blob:")) else None)
        tab.goto(site)
        tabs.append(tab)
        return tab

    yield open_tab
    for tab in tabs:
        assert hangs_over(tab) == []
        assert faint_text(tab, ".cac-demo, .prose") == []
        tab.close()
    assert not faults, faults
    assert not strangers, strangers


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_drawn_scene_is_judged(open_site, width, scheme, tmp_path):
    tab = open_site(width, scheme)
    tab.get_by_role("tab", name="Draw one").click()
    tab.get_by_role("button", name="Draw and judge").click()
    verdict = tab.get_by_role("region", name="Verdict")
    verdict.wait_for()
    assert "Drawn with missing limb (Human Distortion)" in verdict.inner_text()
    tab.wait_for_function("[...document.querySelectorAll('video')].some(v => v.readyState > 1 && v.videoWidth)")
    tab.screenshot(path=str(tmp_path / f"draw-{width}-{scheme}.png"), full_page=True)


def test_an_upload_is_judged_and_its_prompt_stays_text(open_site, tmp_path):
    frames, _ = make_video(3, "squash", num_frames=33)
    write_mp4(tmp_path / "clip.mp4", frames, 16)
    tab = open_site(390)
    tab.locator("input[type=file]").first.set_input_files(tmp_path / "clip.mp4")
    tab.get_by_label("Prompt it was made from").fill("<img src=x onerror=document.title='owned'>")
    tab.wait_for_function("document.querySelector('video')?.readyState > 1")
    tab.get_by_role("button", name="Judge", exact=True).click()
    verdict = tab.get_by_role("region", name="Verdict")
    verdict.wait_for()
    assert "<img src=x" in verdict.inner_text() and tab.title() != "owned"
    tab.screenshot(path=str(tmp_path / "upload.png"), full_page=True)


def test_the_keyboard_alone_gets_a_verdict(open_site):
    tab = open_site()
    tab.get_by_role("button", name="Judge", exact=True).wait_for()
    reached = reached_by_tab(tab, 30)
    names = [(role or tag, name) for tag, role, name, _ in reached]
    assert ("tab", "Judge a video") in names and ("button", "Judge") in names
    assert "textarea" in [tag for tag, *_ in reached] and all(marked for *_, marked in reached), reached
    tab.get_by_role("tab", name="Judge a video").focus()
    for _ in range(8):
        if tab.get_by_role("tab", name="Draw one").evaluate("e => e === document.activeElement"):
            break
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    button = tab.get_by_role("button", name="Draw and judge")
    button.wait_for()
    for _ in range(30):
        if button.evaluate("e => e === document.activeElement"):
            break
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.get_by_role("region", name="Verdict").wait_for()


@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS)
def test_a_hard_verdict(open_site, served, verdict_of, monkeypatch, width, height, scheme, tmp_path):
    """Pages of reasoning, a name without a break, Arabic, markup: what a judge may write and a visitor may type."""
    _, truth = make_video(7, "squash", num_frames=33)
    arabic, word = "\u0643\u0631\u0629 \u062d\u0645\u0631\u0627\u0621 (1)", "a-name-without-a-break-" * 20
    nasty = f"<img src=x onerror=document.title='owned'> {arabic} {word} "
    found = verdict_of(truth, -4.0, nasty * 60)
    worded = tuple(replace(a, reason=nasty, region=nasty) for a in found.anomalies)
    verdict = replace(found, anomalies=worded, out_of_domain=True, domain_reason=nasty)
    monkeypatch.setattr(served[1], "reward", type("Judge", (), {"judge": lambda *a, **k: verdict})())
    tab = open_site(width, scheme)
    tab.get_by_role("tab", name="Draw one").click()
    tab.get_by_role("button", name="Draw and judge").click()
    shown = tab.get_by_role("region", name="Verdict")
    shown.wait_for()
    for summary in shown.locator("summary").all():
        if not summary.evaluate("e => e.parentElement.open") and summary.is_visible():
            summary.click()
    tab.wait_for_function("[...document.querySelectorAll('video')].some(v => v.readyState > 1 && v.videoWidth)")
    assert shown.get_by_text(arabic).first.is_visible() and tab.title() != "owned"
    tab.screenshot(path=str(tmp_path / f"hard-{width}-{scheme}.png"), full_page=True)


def test_what_is_missing_or_too_long_is_said(open_site, tmp_path):
    tab = open_site()
    tab.get_by_role("button", name="Judge", exact=True).click()
    alert = tab.get_by_role("alert").filter(has_text="Not judged")
    alert.wait_for()
    assert "No video was chosen" in alert.inner_text()
    frames, _ = make_video(3, None, num_frames=33)
    write_mp4(tmp_path / "long.mp4", frames, 1)
    tab.locator("input[type=file]").first.set_input_files(tmp_path / "long.mp4")
    tab.wait_for_function("document.querySelector('video')?.readyState > 1")
    tab.get_by_role("button", name="Judge", exact=True).click()
    alert.filter(has_text="takes up to 20 s").wait_for()
    tab.screenshot(path=str(tmp_path / "refused.png"), full_page=True)


@pytest.mark.parametrize("width", [1280, 390])
def test_best_of_n_shows_its_report(open_site, width, tmp_path):
    tab = open_site(width)
    tab.get_by_role("tab", name="Best of n").click()
    tab.get_by_role("spinbutton").first.fill("2")
    tab.get_by_role("button", name="Draw, judge, choose").click()
    report = tab.frame_locator("iframe[title^=Report]")
    report.get_by_text(re.compile("Chosen: candidate")).wait_for()
    tab.screenshot(path=str(tmp_path / f"best-{width}.png"), full_page=True)


def test_the_server_hands_out_no_file_of_the_machine(site):
    for path in ("/gradio_api/file=/etc/passwd", f"/gradio_api/file={ROOT / 'pyproject.toml'}"):
        with pytest.raises(OSError, match=r"40[34]"):
            urllib.request.urlopen(site.rstrip("/") + path, timeout=30)


def test_it_runs_as_a_space(tmp_path):
    """The folder of docs/how_to/demo_app.md: packages beside the app, and none installed."""
    pytest.importorskip("gradio")
    for name in ("cac_align", "reward_model"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cac-mini", "wan-mini"):
        shutil.copytree(ROOT / "assets" / name, tmp_path / "assets" / name)
    shutil.copy(ROOT / "recipes" / "demo_app.py", tmp_path / "app.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    running = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path, env=environment)
    try:
        for _ in range(240):
            with suppress(OSError):
                assert "gradio" in urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read().decode()
                break
            assert running.poll() is None, "the app has ended"
            time.sleep(0.5)
        else:
            pytest.fail("the app did not answer within two minutes")
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(60)
    assert list((tmp_path / "cac_align").rglob("*.pyc")), "the code of the folder ran, not an installed one"
