"""Rates of a table of verdicts, and the page of what to look at."""

import json
import re

import pytest

from cac_align.cli import main
from cac_align.corpus.gallery import chosen_rows
from cac_align.corpus.rates import rates_by
from reward_model.statistics.intervals import wilson

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


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_the_page_in_a_browser(browser, table, size, scheme, tmp_path):
    page_file = table.with_name("summary.html")
    assert main(["summary", str(table), "--page", str(page_file)]) == 0
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    faults = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(page_file.as_uri())
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState > 1)")
    assert not faults, faults
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing hangs over the edge"
    assert page.locator("article.evidence").count() == 2
    page.screenshot(path=str(tmp_path / f"{size[0]}-{scheme}.png"), full_page=True)
    page.close()
