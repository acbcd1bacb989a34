"""The page shows evidence and escapes what others wrote; people's ratings and curves are read as they were written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cac_align.table2 import page
from cac_align.table2.curves import plot_curves, read_steps, running_mean, series
from cac_align.table2.matrix import Matrix
from cac_align.table2.output import write_table_files
from cac_align.table2.page import example_places
from cac_align.table2.ratings import Ratings, video_name
from reward_model.data.annotations import write_annotations
from reward_model.data.records import Record
from reward_model.schema import VideoAnnotation
from reward_model.world import make_video
from tests.browser import hangs_over, wait_until
from tests.cac_align.table2 import tables
from tests.campaigns import slow_but

HOSTILE = "a <script>alert(1)</script> ball & \u202egnp"


@pytest.fixture(scope="module")
def judged(table_inputs, judge_folder, tmp_path_factory):
    """A base row judged by a real tiny judge, with a prompt nobody should trust."""
    folder = tmp_path_factory.mktemp("judged")
    prompts = folder / "eval.txt"
    prompts.write_text(f"{HOSTILE}\na blue ball moves left\n")
    changes = {
        "eval_prompts": str(prompts),
        "eval_seeds": [0],
        "rewards": [{"reward": "cac", "options": {"model": str(judge_folder), "device": "cpu"}}],
        "judge": "cac",
        "rows": [{"name": "base"}, {"name": "BoN cac", "kind": "best_of_n", "rewards": ["cac"]}],
        "columns": ["motion_energy", "anomaly_judge", "anomaly_rule"],
        "n": 2,
    }
    job = tables.make_job(table_inputs, folder / "out", **changes)
    job.work(["draw", "score"])
    return job


@pytest.fixture(scope="module")
def written(judged):
    """The same, with its files."""
    write_table_files(judged)
    return judged


def test_verdicts_are_kept_with_their_readouts(judged):
    item, base = judged.draws.items[0], judged.sources["base"]
    answer = judged.scores.answer(base, item, 1, "cac")
    assert answer["verdict"]["status"] in ("normal", "abnormal")
    assert answer["parts"]["paper"] == pytest.approx(answer["score"])  # what a checkpoint without judge.json supports
    assert 0 <= answer["parts"]["direct"] <= 1
    matrix = Matrix(judged)
    rate = next(c for c in matrix.columns if c.name == "anomaly_judge")
    assert set(np.unique(matrix.array(judged.settings.row("base"), rate))) <= {0.0, 1.0}


def test_the_page_escapes_what_others_wrote(written):
    html = (written.folder / "table2.html").read_text()
    script = (Path(page.__file__).parent / "templates" / "table2.js").read_text()
    assert html.count("<script") == 1 and f"<script>{script}</script>" in html, "ours and no other"
    assert "alert(1)" in html and "\u202e" not in html
    assert "default-src" in html and 'src="http' not in html
    assert '<span class="status' in html and html.count("<article data-together>") == 2


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(written, browser, width):
    """Nothing sticks out, a wide table says so, videos of a prompt run and stop together, nothing is refused."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    shown, said = context.new_page(), []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.goto((written.folder / "table2.html").resolve().as_uri())
    assert hangs_over(shown) == []
    wide = "[...document.querySelectorAll('.scroll')].map(b => b.scrollWidth > b.clientWidth + 1)"
    told = "[...document.querySelectorAll('.wider')].map(p => !p.hidden)"
    assert shown.evaluate(wide) == shown.evaluate(told) and (width > 390 or any(shown.evaluate(told)))
    article = shown.locator("article").first
    article.scroll_into_view_if_needed()
    paused = "[...document.querySelector('article').querySelectorAll('video')].map(v => v.paused)"
    wait_until(shown, f"!{paused}.some(p => p)")
    assert article.locator("video[controls]").count() == 0
    article.locator("button").click()
    assert all(shown.evaluate(paused)) and article.locator("button").inner_text() == "Play"
    assert said == []
    context.close()


def test_examples_show_losses_beside_gains(judged):
    matrix = Matrix(judged)
    assert sorted(example_places(matrix)) == [0, 1]
    few = Matrix(judged)
    few.settings = replace(judged.settings, examples=1)
    assert len(example_places(few)) == 1


def test_people_rate_the_videos_of_the_table(written, tmp_path):
    judged = written
    matrix = Matrix(judged)
    [chosen] = matrix.chosen(judged.settings.row("base"))
    listed = sorted((judged.folder / "videos-mp4").glob("*.mp4"))
    assert {v.name for v in chosen} <= {p.stem for p in listed}
    truth = make_video(3, "split")[1]
    records = [
        Record(f"../{chosen[0].name}.mp4", replace(truth, video_id="one")),
        Record(f"../{chosen[1].name}.mp4", VideoAnnotation("two", 81, 16.0, 48, 48, "", ())),
    ]
    path = write_annotations(tmp_path / "ratings" / "consensus.jsonl", records)
    rated = Matrix(judged)
    rated.settings = replace(judged.settings, ratings=str(path), columns=["anomaly_people"], motion=None)
    rated.ratings = Ratings(path)
    values = rated.array(judged.settings.row("base"), rated.columns[0])
    assert values.ravel().tolist() == [1.0, 0.0]
    assert rated.ratings.value("nobody") is None
    with pytest.raises(ValueError, match=r"no ratings at .*; rate the videos \(cac-align rate OUTPUT/videos-mp4\)"):
        Ratings(tmp_path / "none.jsonl")


def test_names_for_people_tell_nothing_of_the_row():
    names = {video_name(s, "0000-0", k) for s in ("base", "grpo/seed-0") for k in range(2)}
    assert len(names) == 4 and all(set(n) <= set("0123456789abcdef") for n in names)


@pytest.mark.parametrize("drawn", slow_but([False, True], False))
def test_curves_read_what_a_run_logged(table_inputs, tmp_path, drawn):
    job = tables.make_job(table_inputs, tmp_path)
    [training] = job.trainings.values()
    assert plot_curves([training], tmp_path) == []
    lines = [{"step": 0, "eval/reward": 0.5}, *({"step": k, "reward/mean": k / 10} for k in range(1, 13))]
    training.folder.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (training.folder / "metrics.jsonl").write_text(text + '{"step": 13, "rew')
    steps = read_steps(training.folder)
    assert len(steps) == 13, "the line that broke off does not count"
    assert series(steps, "eval/reward") == ([0.0], [0.5])
    if not drawn:
        return
    light, dark = (pixels(path) for path in plot_curves([training], tmp_path))
    assert light[0, 0].min() > 240 and dark[0, 0].max() < 40, "the ground of each picture"


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_running_mean():
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_templates_ship_with_the_package():
    import cac_align.table2

    folder = Path(cac_align.table2.__file__).parent / "templates"
    assert {p.name for p in folder.iterdir()} == {"table2.css", "table2.html.j2", "table2.js"}
