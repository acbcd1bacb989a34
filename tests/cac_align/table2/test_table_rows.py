"""Rows that are drawn in their own way, choose from trained generators, or bring adapters from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cac_align.flow_grpo.learner.lora_files import save_tensors
from cac_align.prompts import read_prompts
from cac_align.selection import run_folder
from cac_align.selection.candidates import generate
from cac_align.table2.adapters import adapter_needs
from cac_align.table2.drawing import Drawing
from cac_align.table2.draws import source_pipeline, sources
from cac_align.table2.forecast import forecast
from cac_align.table2.matrix import Matrix
from cac_align.table2.settings import TableSettings, read_settings
from cac_align.table2.tables import TableMaker
from cac_align.table2.training import trainings
from tests.cac_align.table2 import tables
from tests.cac_align.table2.tables import settings

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGS = tables.ROOT / "recipes" / "configs"
BRIGHT = {"kind": "best_of_n", "rewards": ["bright"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"num_inference_steps": 1}, "row 'x': num_inference_steps=1 must be a whole number of at least 2"),
        ({"guidance_scale": 0}, "row 'x': guidance_scale=0.0 must be a number of at least 1, or null; 1 turns"),
        ({"n": 2}, "row 'x': n=2 belongs to rows of kind best_of_n only, not base"),
        ({"of": "base"}, "row 'x': of='base' belongs to rows of kind best_of_n only, not base"),
        ({**BRIGHT, "n": 0}, "row 'x': n=0 must be a whole number of at least 1"),
        ({**BRIGHT, "of": "y"}, "row 'x': of='y' must name a row of kind flow_grpo or lora; there is 'lora'"),
        ({**BRIGHT, "of": "base"}, "row 'x': of='base' must name a row of kind flow_grpo or lora"),
        ({"kind": "best_of_n", "n": 2}, "row 'x' of kind best_of_n must have rewards"),
        ({**BRIGHT, "loras": ["a"]}, r"row 'x': loras=\('a',\) belongs to rows of kind lora only"),
        ({"kind": "lora"}, "row 'x' of kind lora must have loras, a folder for each of train_seeds"),
        ({"kind": "lora", "loras": "a"}, "row 'x': loras='a' must be a list of texts"),
        ({"kind": "lora", "loras": ["a"]}, "row 'x' has 1 loras for 2 train_seeds; name one for each"),
        ({"kind": "lora", "loras": ["a", "b"], "rewards": ["red"]}, "row 'x' of kind lora must have no rewards"),
    ],
)
def test_rows_are_refused(tmp_path, row, said):
    rows = [{"name": "base"}, {"name": "lora", "kind": "lora", "loras": ["a", "b"]}, {"name": "x", **row}]
    with pytest.raises(ValueError, match=said):
        TableSettings(**settings(tmp_path, tmp_path, rows=rows, train_seeds=[0, 1]))


def test_the_base_is_not_named_against(tmp_path):
    with pytest.raises(ValueError, match="against='base' is the base, which every row is compared with; leave it out"):
        TableSettings(**settings(tmp_path, tmp_path, against=["base"]))
    with pytest.raises(ValueError, match="no row 'BoN'; there are 'base', 'BoN bright'"):
        TableSettings(**settings(tmp_path, tmp_path, against=["BoN"]))


def found_sources(inputs: Path, *rows: dict, **changes: object) -> dict[str, int]:
    found = TableSettings(**settings(inputs, inputs / "out", rows=list(rows), **changes))
    return {s.name: s.count for s in sources(found, {(t.row.slug, t.seed): t for t in trainings(found)})}


def test_what_is_drawn_alike_is_drawn_once(table_inputs):
    """The inputs draw in 3 steps with guidance 3: a row that says so draws as the table does."""
    trained = {"name": "T", "kind": "flow_grpo", "rewards": ["red"]}
    assert found_sources(table_inputs, {"name": "base"}, trained) == {"base": 1, "t/seed-0": 1}
    rows = [
        {"name": "base", "num_inference_steps": 8, "guidance_scale": 2},
        {"name": "base, as the table", "num_inference_steps": 3, "guidance_scale": 3},
        {"name": "three", **BRIGHT, "n": 3},
        {"name": "five at eight", **BRIGHT, "n": 5, "num_inference_steps": 8},
        trained,
        {"name": "two of T", **BRIGHT, "n": 2, "of": "T"},
        {"name": "T at eight", "kind": "best_of_n", "n": 1, "of": "t", "num_inference_steps": 8},
    ]
    assert list(found_sources(table_inputs, *rows, train_seeds=[1, 0]).items()) == [
        ("base_8-steps-guidance-2", 1),
        ("base", 3),
        ("base_8-steps-guidance-3", 5),
        ("t/seed-1", 2),
        ("t/seed-1_8-steps-guidance-3", 1),
        ("t/seed-0", 2),
        ("t/seed-0_8-steps-guidance-3", 1),
    ]


def test_the_work_of_a_choice_is_its_trained_row_s_too(table_inputs, tmp_path):
    rows = [
        {"name": "base"},
        {"name": "T", "kind": "flow_grpo", "rewards": ["red"]},
        {"name": "best of T", **BRIGHT, "of": "T"},
        {"name": "T at eight", "kind": "best_of_n", "n": 1, "of": "T", "num_inference_steps": 8},
    ]
    job = tables.make_job(table_inputs, tmp_path, rows=rows, train_seeds=[0, 1], eval_seeds=[0])
    train = ["train seed-0 t", "train seed-1 t"]
    assert [u.name for u in job.units(["train"])] == train, "once, though drawn in two ways"
    assert [u.name for u in job.units(["train"], row="best of T")] == train
    drawn = [u.name for u in job.units(["draw"], row="T at eight", seed=1)]
    assert drawn == [f"draw t/seed-1_8-steps-guidance-3 000{k}-0" for k in range(2)]
    assert [u.name for u in job.units(["draw"], row="base")] == ["draw base 0000-0", "draw base 0001-0"]


@pytest.fixture(scope="module")
def fair(made_table, tmp_path_factory):
    """A table whose base is drawn otherwise, and whose adapter comes from the other table."""
    other, _ = made_table
    [training] = other.trainings.values()
    rows = [
        {"name": "base", "num_inference_steps": 4, "guidance_scale": 1},
        {"name": "base, 3 steps", "kind": "base"},
        {"name": "brought", "kind": "lora", "loras": [str(training.lora)]},
        {"name": "best of brought", **BRIGHT, "of": "brought"},
        {"name": "brought, 4 steps", "kind": "best_of_n", "n": 1, "of": "brought", "num_inference_steps": 4},
    ]
    folder = tmp_path_factory.mktemp("fair")
    changes = {"rows": rows, "against": ["best of brought"], "n": 2, "eval_seeds": [0]}
    job = tables.make_job(Path(other.settings.flow_grpo).parent, folder, **changes)
    job.work(["train", "draw", "score"])
    return job


def test_videos_are_drawn_as_their_row_says_from_the_same_latents(fair):
    item, base = fair.draws.items[1], fair.sources["base_4-steps-guidance-1"]
    seeds = {fair.draws.made_by(s, item, 0)["candidate_seed"] for s in fair.sources.values()}
    assert len(seeds) == 1
    arguments = {**fair.draws.arguments, "num_inference_steps": 4, "guidance_scale": 1.0}
    with source_pipeline(fair.draws.config, base, "cpu") as pipe:
        [frames] = generate(pipe, item.prompt, [*seeds], arguments)
    drawn = [fair.draws.load(source, item, 0) for source in fair.sources.values()]
    assert np.array_equal(frames, fair.draws.load(base, item, 0))
    assert all(not np.array_equal(a, b) for k, a in enumerate(drawn) for b in drawn[:k]), "four ways of drawing"


def test_an_adapter_from_elsewhere_draws_as_the_training_it_came_from(fair, made_table):
    other, _ = made_table
    theirs, ours = other.sources["grpo-bright/seed-0"], fair.sources["brought/seed-0"]
    there = next(item for item in other.draws.items if item.name == fair.draws.items[1].name)
    assert np.array_equal(other.draws.load(theirs, there, 0), fair.draws.load(ours, fair.draws.items[1], 0))


def test_the_best_is_chosen_among_the_adapters_own_candidates(fair):
    source = fair.sources["brought/seed-0"]
    [chosen] = Matrix(fair).chosen(fair.settings.row("best of brought"))
    for item, video in zip(fair.draws.items, chosen, strict=True):
        scores = tables.brightness([fair.draws.load(source, item, k) for k in range(2)], fps=16)
        assert video.source is source and video.index == int(np.argmax(scores))


def test_forwards_are_those_that_were_counted(fair, made_table, tmp_path):
    """As many as the plan expects: a step takes two with guidance, and a choice takes those of all candidates."""
    other, _ = made_table
    results = Matrix(fair).results()
    names = {r.slug: r.name for r in fair.settings.table_rows}
    assert {names[slug]: count for slug, count in results.forwards.items()} == {
        "base": 4,
        "base, 3 steps": 6,
        "brought": 6,
        "best of brought": 12,
        "brought, 4 steps": 8,
    }
    text, _ = forecast(fair.settings)
    assert all(f"{count} forwards a delivered video" in text for count in (4, 6, 12, 8))
    means = TableMaker(results).means()
    assert [row[means.columns.index("forwards")] for row in means.rows] == [4, 6, 6, 12, 8]
    [training] = other.trainings.values()
    own = Matrix(other).results().training_forwards["grpo-bright"]
    # one group of two videos of 3 steps with guidance, and one step of each that is trained on
    assert own == results.training_forwards["brought"] == 2 * 2 * 3 + 2 * 2 * 1
    assert f"{training.name}: 1 steps of 2 videos, {own} forwards" in forecast(other.settings)[0]
    assert f"to draw and to learn: brought {own}." in means.notes[1]


def test_what_was_drawn_before_forwards_were_counted_has_none(table_inputs, tmp_path):
    changes = {"rows": [{"name": "base"}], "num_eval_prompts": 2, "eval_seeds": [0]}
    job = tables.make_job(table_inputs, tmp_path, **changes)
    base, item = job.sources["base"], job.draws.items[0]
    assert job.draws.forwards(base, 1) is None
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    run_folder.store(job.draws.place(base, item), 0, frames, job.draws.made_by(base, item, 0))
    assert np.array_equal(job.draws.load(base, item, 0), frames) and job.draws.forwards(base, 1) is None


def test_an_adapter_that_is_not_there_or_not_of_this_model_is_refused(table_inputs, tmp_path):
    def rows(source):
        return [{"name": "base"}, {"name": "brought", "kind": "lora", "loras": [str(source)]}]

    gone = tmp_path / "gone"
    with pytest.raises(ValueError, match=r"row 'brought', seed 0: loras entry '.*gone': no LoRA at"):
        tables.make_job(table_inputs, tmp_path, rows=rows(gone))
    found = TableSettings(**settings(table_inputs, tmp_path, rows=rows(gone)))
    assert [need.state for need in adapter_needs(found)] == ["missing"] and not forecast(found)[1]
    module = "transformer.blocks.0.attn1.to_q"
    wide = {f"{module}.lora_A.weight": torch.zeros(2, 999), f"{module}.lora_B.weight": torch.zeros(999, 2)}
    save_tensors(wide, tmp_path / "wide" / "pytorch_lora_weights.safetensors")
    with pytest.raises(
        ValueError, match=r"is one of another model: .*lora_A\.weight has the shape .*; name an adapter"
    ):
        tables.make_job(table_inputs, tmp_path, rows=rows(tmp_path / "wide"))


@pytest.mark.parametrize("kind", ["prompts", "pairs", "pairs of winners", "gone", "strange"])
def test_an_adapter_that_was_trained_on_evaluation_prompts_is_refused(made_table, table_inputs, tmp_path, kind):
    [training] = made_table[0].trainings.values()
    shutil.copytree(training.lora, tmp_path / "lora")
    name = {"prompts": "own.txt", "gone": "gone.txt", "strange": "strange.txt"}.get(kind, "pairs.jsonl")
    prompt = "a red square  bounces"
    lines = {"prompts": prompt, "pairs": json.dumps({"prompt": prompt, "chosen": "gone.mp4", "rejected": "gone2.mp4"})}
    if kind not in ("gone", "strange"):
        (tmp_path / name).write_text(lines.get(kind, json.dumps({"prompt": prompt, "video": "gone.mp4"})) + "\n")
    told = {"prompts" if name.endswith(".txt") else "pairs": str(tmp_path / name)}
    if kind == "strange":
        told = {"prompts": ["a list"], "pairs": 3}
    (tmp_path / "lora" / "settings.yaml").write_text(json.dumps({"model": "gone", **told}))
    rows = [{"name": "base"}, {"name": "brought", "kind": "lora", "loras": [str(tmp_path / "lora")]}]
    if kind == "gone":
        with pytest.warns(UserWarning, match=r"row 'brought', seed 0: whether .* known: no prompt file at .*gone"):
            tables.make_job(table_inputs, tmp_path, rows=rows)
        return
    if kind == "strange":
        tables.make_job(table_inputs, tmp_path, rows=rows)
        return
    with pytest.raises(ValueError, match=r"row 'brought', seed 0: 1 evaluation prompts are trained on, such as 'a red"):
        tables.make_job(table_inputs, tmp_path, rows=rows)


def test_single_frames_are_refused_where_changes_are_measured(table_inputs, tmp_path):
    still = {"overrides": {"num_frames": 1}}
    with pytest.raises(ValueError, match=r"column 'motion' needs videos of at least 2 frames, and num_frames=1; draw"):
        tables.make_job(table_inputs, tmp_path, columns=["motion", "sharpness"], motion="motion", **still)
    moving = [{"reward": "motion", "options": {"full": 1.0}}, {"reward": f"{tables.TOYS}:brightness", "name": "bright"}]
    rows = [{"name": "base"}, {"name": "BoN", "kind": "best_of_n", "rewards": ["bright"]}]
    with pytest.raises(ValueError, match=r"reward 'motion' needs videos of at least 2 frames, and num_frames=1; draw"):
        tables.make_job(table_inputs, tmp_path, rewards=moving, rows=rows, columns=["sharpness"], motion=None, **still)
    tables.make_job(table_inputs, tmp_path, rows=rows, columns=["sharpness"], motion=None, **still)


def test_a_drawing_says_what_it_costs():
    assert [Drawing(6, 1.0).forwards, Drawing(6, 1.5).forwards] == [6, 12]
    assert Drawing(16, 2.0).slug != Drawing(16, 2.5).slug


def test_test_prompts_are_new_and_of_the_world(monkeypatch):
    monkeypatch.chdir(tables.ROOT)
    test = [p.text for p in read_prompts(CONFIGS / "table2/mini_test_prompts.txt")]
    seen = ("table2/mini_eval_prompts.txt", "flow_grpo/mini_prompts.txt", "flow_grpo/mini_eval_prompts.txt")
    assert len(test) == 24 and not set(test) & {p.text for name in seen for p in read_prompts(CONFIGS / name)}
    words = [text.split() for text in test]
    colours, shapes = Counter(w[1] for w in words), Counter(w[2] for w in words)
    motions, grounds = Counter(" ".join(w[3 : w.index("on")]) for w in words), Counter(w[-2] for w in words)
    assert colours == dict.fromkeys(("red", "green", "blue", "yellow", "purple", "white"), 4)
    assert shapes == dict.fromkeys(("ball", "square", "triangle"), 8)
    moves = [f"moves {where}" for where in ("right", "left", "up", "down")]
    assert motions == dict.fromkeys((*moves, "bounces", "circles"), 4)
    assert grounds == dict.fromkeys(("black", "gray", "brown", "teal"), 6)


def test_the_fair_test_takes_the_development_tables_adapters(monkeypatch):
    monkeypatch.chdir(tables.ROOT)
    names = ("mini_fair", "mini_at_best", "mini_pairs", "mini_fair_test")
    development, at_best, pairs, test = (read_settings(CONFIGS / f"table2/{name}.yaml") for name in names)
    known = [(development, r) for r in development.table_rows]
    shown = {r.name for r in development.table_rows}
    known += [(at_best, r) for r in at_best.table_rows if r.name not in shown]
    known += [(pairs, r) for r in pairs.table_rows if r.kind == "lora"]
    assert [r.name for _, r in known] == [r.name for r in test.table_rows]
    made = {(t.row.name, t.seed): str(t.lora) for table in (development, at_best) for t in trainings(table)}
    for (table, ours), tested in zip(known, test.table_rows, strict=True):
        assert table.drawing_of(ours) == test.drawing_of(tested)
        assert table.candidates(ours) == test.candidates(tested)
        if ours.has_loras:
            trained = [made.get((ours.name, seed)) for seed in table.train_seeds]
            assert list(tested.loras) == (list(ours.loras) or trained)
    shared = [r for r in pairs.table_rows if r.kind != "lora"]
    assert shared == [development.row(r.name) for r in shared]
    again = [r for r in at_best.table_rows if r.name in shown]
    assert [at_best.drawing_of(r) for r in again] == [development.drawing_of(development.row(r.name)) for r in again]
    assert at_best.prompts == pairs.prompts == development.prompts
