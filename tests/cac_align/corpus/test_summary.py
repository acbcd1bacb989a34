"""Rates of a table of verdicts, and the page of what to look at."""

import json
import re

import pytest

from cac_align.cli import main
from cac_align.corpus.gallery import chosen_rows
from cac_align.corpus.rates import rates_by
from reward_model.statistics.intervals import wilson
from tests.browser import SCREENS, faint_text, hangs_over, reached_by_tab, wait_until

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


def row(score, status="normal", types=(), **more):
    return {"video": "a.mp4", "score": score, "status": status, "types": list(types), **more}


ROWS = [
    row(0.9, maker="a", out_of_domain=False),
    row(0.2, "abnormal", ["Motion Anomalies"], maker="a", out_of_domain=True),
    row(0.4, "abnormal", ["Motion Anomalies", "Object Distortion"], maker="b"),
    row(None, None, maker="b"),
]


def test_rates_with_intervals_in_all_rows_and_by_a_column():
    verdicts, types = rates_by(ROWS, "maker")
    lines = {line[0]: line for line in verdicts.rows}
    assert list(lines) == ["all", "a", "b"] and [line[1] for line in lines.values()] == [4, 2, 2]
    assert lines["all"][2].value == 0.75 and lines["all"][3].value == pytest.approx(2 / 3), "abnormal of the judged"
    assert lines["all"][3].interval == wilson(2, 3) and lines["b"][3].value == 1
    assert lines["all"][4].value == pytest.approx(0.5) and lines["all"][5].value == 0.5, "of those that could be told"
    assert lines["b"][5].value is None
    found = {line[0]: [cell.value for cell in line[1:]] for line in types.rows}
    assert types.columns == ("type", "all", "a", "b") and len(found) == 2
    assert found["Motion Anomalies"] == [pytest.approx(2 / 3), 0.5, 1.0]


def test_both_ends_of_each_type_are_chosen_and_no_row_twice():
    rows = [row(k / 10, "abnormal", ["Motion Anomalies"]) for k in (3, 1, 5, 2)] + [row(0.8), row(None, None)]
    sections = {s.title: s for s in chosen_rows(rows, 2)}
    assert sections["Motion Anomalies"].ends == {"Lowest scores": [1, 3], "Highest scores": [2, 0]}
    assert sections["Called normal"].ends == {"Lowest scores": [4]} and sections["Called normal"].num == 1


@pytest.fixture
def table(corpus):
    """Verdicts about the tiny videos; what a model and a user wrote is hostile."""
    anomaly = {"type": "Motion Anomalies", "first_frame": 2, "last_frame": 5, "start_s": 0.125, "end_s": 0.375}
    box = {"type": "Motion Anomalies", "frame": 3, "x0": 100, "y0": 200, "x1": 300, "y1": 500}
    rows = [
        row(
            0.1, "abnormal", ["Motion Anomalies"], prompt=HOSTILE, maker=HOSTILE, domain_reason=HOSTILE, model="m",
            anomalies=[{**anomaly, "reason": HOSTILE}], boxes=[box, {**box, "frame": 99}], window_start_s=0.0,
            window_end_s=0.5, fps=16.0,
        ),
        row(0.9, prompt="p", maker="b", model="m"),
        row(None, None, prompt="p", maker="b", model="m", error=HOSTILE),
    ]  # fmt: skip
    for k, name in enumerate(("clips/1.mp4", "clips/0.mp4", "clips/broken.mp4")):
        rows[k]["video"] = name
    path = corpus.with_name("scores.jsonl")
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_the_page_shows_videos_and_runs_nothing_of_what_was_written(capsys, table):
    page = table.with_name("summary.html")
    assert main(["summary", str(table), "--by", "maker", "--page", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "Motion Anomalies" in out and "0.500" in out and not err
    text = page.read_text()
    assert "<script" not in text and "<img src=x" not in text and "&lt;script&gt;alert(1)" in text
    assert text.count("data:video/mp4") == 2 and "Not judged" in text
    assert '<rect x="100" y="200" width="200" height="300">' in text and "frame 3" in text
    assert re.search(r'class="window" x="0.0%" width="88.89%"', text)


def test_a_video_that_is_gone_costs_itself(capsys, table):
    (table.parent / "clips" / "1.mp4").unlink()
    page = table.with_name("summary.html")
    assert main(["summary", str(table), "--page", str(page)]) == 0
    assert "left out of the page" in capsys.readouterr().err and page.read_text().count("data:video/mp4") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nosuch.jsonl"], "no table at"),
        (["TABLE", "--by", "nosuch"], "no such column"),
        (["TABLE", "--videos", "0"], "--videos 0 must be at least 1"),
        (["MANIFEST"], "has no column 'score'; it must be a table of cac-align score"),
    ],
)
def test_what_is_not_a_table_of_verdicts_is_refused(capsys, table, argv, said):
    places = {"TABLE": table, "MANIFEST": table.with_name("manifest.jsonl")}
    assert main(["summary", *(str(places.get(a, a)) for a in argv)]) == 2
    assert said in capsys.readouterr().err


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def look(browser, tmp_path):
    """Opens a page on a screen; at the end nothing failed, nothing hangs over the edge, and all text is legible."""
    tabs, faults = [], []

    def open_page(page_file, width, height, scheme):
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        tab.goto(page_file.as_uri())
        wait_until(tab, "[...document.querySelectorAll('video')].every(v => v.readyState > 1)", seconds=120)
        tabs.append((tab, tmp_path / f"{page_file.stem}-{width}-{scheme}.png"))
        return tab

    yield open_page
    for tab, picture in tabs:
        tab.screenshot(path=str(picture), full_page=True)
        assert hangs_over(tab) == []
        assert faint_text(tab) == []
        tab.close()
    assert not faults, faults


def summary_of(table, *options):
    page_file = table.with_suffix(".html")
    assert main(["summary", str(table), "--page", str(page_file), *options]) == 0
    return page_file


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS)
def test_the_page_in_a_browser(look, table, width, height, scheme):
    page = look(summary_of(table, "--by", "maker"), width, height, scheme)
    assert page.locator("article.evidence").count() == 2 and page.title() == "What the judge found"
    assert page.get_by_role("heading", name="What the judge found").is_visible()
    assert page.get_by_text(HOSTILE, exact=True).first.is_visible(), "what was written is shown as it is"
    reached = reached_by_tab(page)
    assert [name for tag, role, name, _ in reached if role == "region"] == ["Verdicts by maker", "Types"]
    assert [tag for tag, *_ in reached].count("video") >= 2, "whose buttons show themselves where one is"
    assert all(marked for tag, *_, marked in reached if tag != "video")


LONG = "a-very-long-name-without-a-break-" * 8
ARABIC = "\u0643\u0631\u0629 \u062d\u0645\u0631\u0627\u0621 \u062a\u0642\u0641\u0632 (1)"


@pytest.fixture
def hard_table(table):
    """Five thousand rows: long names, pages of reasoning, Arabic, control characters, and rows of errors alone."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    clips = table.parent / "clips"
    names = [f"{LONG[:200]}.mp4", f"{ARABIC}.mp4", f"{ARABIC} {LONG[:90]}.mp4"]
    for k, name in enumerate(names):
        (clips / name).write_bytes((clips / f"{k % 2}.mp4").read_bytes())
    anomaly = rows[0]["anomalies"][0]
    hard = [
        {**rows[0], "video": f"clips/{names[0]}", "prompt": LONG * 4, "score": 0.01, "maker": LONG},
        {**rows[0], "video": f"clips/{names[1]}", "prompt": ARABIC * 5, "score": 0.02, "maker": ARABIC,
         "anomalies": [{**anomaly, "reason": f"{ARABIC}. {LONG} " * 30}]},
        {**rows[0], "video": f"clips/{names[2]}", "score": 0.03, "anomalies": [anomaly] * 12,
         "types": ["Motion Anomalies", LONG]},
    ]  # fmt: skip
    plain = [{**rows[1], "score": 0.5 + k / 20_000, "maker": "b"} for k in range(4967)]
    lost = [{**rows[2], "video": f"clips/{LONG}-{k}.mp4", "error": f"\x1b[31m{HOSTILE} {LONG}"} for k in range(30)]
    path = table.with_name("hard.jsonl")
    path.write_text("".join(json.dumps(r) + "\n" for r in hard + plain + lost))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS)
def test_a_hard_table_in_a_browser(look, hard_table, width, height, scheme, capsys):
    page = look(summary_of(hard_table, "--by", "maker"), width, height, scheme)
    assert page.get_by_text("5000 videos").is_visible() and page.get_by_text("and 10 more").is_visible()
    assert page.locator("article.evidence").count() >= 5 and "\x1b" not in page.content()
    score = page.locator("p.again", has_text="shown above").filter(has_text="\u0643").locator(".small").first
    link = page.locator("p.again", has_text="shown above").filter(has_text="\u0643").locator("a").first
    assert score.inner_text().startswith("P(normal) 0.0") and link.is_visible()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "scheme"), [SCREENS[0], SCREENS[3]])
def test_a_table_in_which_nothing_was_judged(look, table, width, height, scheme):
    path = table.with_name("lost.jsonl")
    path.write_text(table.read_text().splitlines()[2] + "\n")
    page = look(summary_of(path), width, height, scheme)
    assert page.get_by_role("heading", name="Not judged 1").is_visible()
    assert page.get_by_text("1 video", exact=True).is_visible()
    assert not page.get_by_text("window that turn one named").count(), "a legend of nothing"
