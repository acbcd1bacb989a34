"""Stage 3 as users run it: the command line, the plan of the mini, and the card beside the judge."""

import json
import shutil
from collections import Counter
from dataclasses import fields, replace

import pytest
import yaml

from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.data.annotations import Record, read_annotations, write_annotations
from reward_model.data.stage_split import stage_records
from reward_model.rewards import RewardWeights
from reward_model.training.grpo.card import SHOWN, last_numbers
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.setup import OWN, longest_scan
from reward_model.training.grpo.videos import annotated_rows, chunk_loader, world_loader, world_rows
from reward_model.video.writing import write_video
from reward_model.world import LOOK_ALIKES, make_video
from tests.campaigns import draws, slow_but
from tests.launched import ROOT

STEP = ["max_steps=1", "prompts_per_step=2", "num_generations=2", "per_device_train_batch_size=16"]


@pytest.fixture
def recipe(load_recipe):
    return load_recipe("stage3_grpo")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, judge_folder):
    folder = shutil.copytree(judge_folder, tmp_path_factory.mktemp("tiny"), dirs_exist_ok=True)
    settings = {"prompts": "compact", "frame_size": 48, "max_scan_tokens": 4, "max_zoom_tokens": 4, "demo_scale": True}
    (folder / "judge.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("lora", slow_but(["false", "true"], "true"))
def test_both_sets_count_and_a_card_lies_beside_the_judge(recipe, tiny, tmp_path, lora):
    from huggingface_hub import ModelCard

    first = ["--set", f"model={tiny}", f"output_dir={tmp_path / 'out'}", *STEP]
    second = ["--set", "data={source: world, rows: 4}", f"use_lora={lora}", "lora_r=2"]
    recipe.main([*first, *second])
    card = ModelCard.load(tmp_path / "out" / "judge" / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and "stage3" in card.data.tags
    assert f"after stage3 (two-turn GRPO), started from `{tiny}`" in card.text
    assert "4 prompts of source 'world' (rows 4)" in card.text and "Demonstration scale" in card.text
    assert "| steps | 1 |" in card.text and "2 prompts x 2 rollouts" in card.text
    assert "r=2" in card.text if lora == "true" else "| LoRA | no |" in card.text
    logged = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"| reward | {logged['reward/mean']:.4g} |" in card.text and "training prompts" in card.text


@pytest.mark.slow
def test_a_finished_run_that_is_exported_again_keeps_its_numbers(recipe, tiny, tmp_path):
    arguments = ["--set", f"model={tiny}", f"output_dir={tmp_path / 'out'}", *STEP, "data.rows=4"]
    recipe.main(arguments)
    card = tmp_path / "out" / "judge" / "README.md"
    before = card.read_text()
    card.write_text("old")
    recipe.main(arguments)
    assert card.read_text() == before and "Measured during training" in before


def test_without_a_log_nothing_was_measured(tmp_path):
    assert last_numbers(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 2}\n{"step": 2, "reward/mean": 3.5}\n')
    assert last_numbers(tmp_path) == {SHOWN["reward/mean"]: 3.5}


def test_the_plan_of_the_mini_speaks_of_no_gpu(recipe, capsys):
    recipe.main(["--dry-run"])
    text = capsys.readouterr().out
    assert "64 samples a step x 300 steps" in text and "on the CPU" in text
    assert "GPU" not in text and "TFLOP" not in text and "of peak" not in text


# --- the procedural world ---------------------------------------------------------------------------------------------

STORIES = {"shifted": 0.3, "look-alike": 0.4, "short": 0.2}


def test_stories_are_told_exactly_and_turn_one_can_see_them():
    """A reward for finding what no frame shows would teach guessing."""
    judge = JudgeConfig(max_scan_frames=25)
    rows = world_rows(draws(120, 30), seed=1, stories=STORIES, judge=judge)
    load = chunk_loader(world_loader(48), judge)
    told = Counter("look-alike" if row["story"] in LOOK_ALIKES else row["story"] for row in rows)
    assert set(told) == {"plain", *STORIES} and told["look-alike"] > told["shifted"] / 2
    for row in rows:
        sample = load(row)
        (grid,) = [sample.grid] if sample.grid else scan_grids(sample.truth.num_frames, sample.truth.fps, judge)
        seen = [n for a in sample.truth.anomalies for n in grid if n in a.frames]
        assert bool(seen) == (sample.truth.status == "abnormal") == bool(row["kind"]), row
        assert sample.frames(grid[:2]).shape == (2, sample.truth.height, sample.truth.width, 3)


def test_the_longest_scan_is_that_of_all_videos_not_of_the_first():
    rows, load, judge = world_rows(100, seed=3, stories={"shifted": 1.0}), world_loader(48), JudgeConfig()
    lengths = [len(scan_grids(t.num_frames, t.fps, judge)[0]) for t in (load(row).truth for row in rows)]
    assert max(lengths[:64]) == 27 and longest_scan(rows, load, judge) == max(lengths) == 33


def test_rows_without_stories_are_what_they_were():
    rows = world_rows(3, seed=0)
    assert rows[1] == {"seed": 157560, "kind": "change", "setting": "sign"}
    assert rows.column_names == ["seed", "kind", "setting"]


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ("{source: world, rows: 4, stories: {tall: 0.1}}", "must give shares of shifted, short, look-alike"),
        ("{source: world, rows: 4, story: {short: 0.1}}", "unexpected keyword argument 'story'"),
        ("{source: world}", "'rows'"),
    ],
)
def test_a_wrong_setting_of_the_world_is_named(recipe, tiny, tmp_path, data, rule):
    with pytest.raises((ValueError, SystemExit), match=rule):
        recipe.main(["--set", f"model={tiny}", f"output_dir={tmp_path / 'out'}", *STEP, f"data={data}"])


# --- annotated footage ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Forty-five annotated videos, two out of three abnormal; two files under many names."""
    folder = tmp_path_factory.mktemp("own")
    truths = {}
    for name, kind in (("normal", None), ("squash", "squash")):
        frames, truths[name] = make_video(3, kind, num_frames=17)
        write_video(folder / f"{name}.mp4", frames, truths[name].fps)
    records = []
    for k in range(45):
        name = "squash" if k % 3 else "normal"
        (folder / f"v{k}.mp4").hardlink_to(folder / f"{name}.mp4")
        records.append(Record(f"v{k}.mp4", replace(truths[name], video_id=f"v{k}")))
    return write_annotations(folder / "annotations.jsonl", records)


def ids(rows):
    return [json.loads(t)["video_id"] for t in rows["truth"]]


def test_stage_3_is_dealt_its_own_footage_one_to_one(footage):
    options = {"disjoint": True, "held_out": 0.1, "rows": 30, "seed": 3}
    rows = annotated_rows(footage, **options)
    found = ids(rows)
    records = read_annotations(footage)
    dealt = {}
    for stage in ("stage1", "stage2", "stage3"):
        train, held = stage_records(records, stage, disjoint=True, held_out=0.1, seed=3)
        dealt[stage] = {r.truth.video_id for r in train}
        dealt["held"] = {r.truth.video_id for r in held}
    assert set(found) <= dealt["stage3"] and dealt["held"]
    assert not set(found) & (dealt["stage1"] | dealt["stage2"] | dealt["held"])
    status = [json.loads(t)["status"] for t in rows["truth"]]
    assert len(rows) == 30 and status.count("normal") == 15
    for which in ("normal", "abnormal"):
        times = Counter(v for v, s in zip(found, status, strict=True) if s == which)
        assert max(times.values()) - min(times.values()) <= 1, "none comes again before all have come"
    assert ids(annotated_rows(footage, **options)) == found != ids(annotated_rows(footage, **{**options, "seed": 0}))
    # Without a number: every video of the rarer status once.
    every = annotated_rows(footage)
    assert len(every) == 30 and len(set(ids(every))) == 30


def test_what_cannot_be_trained_on_is_named(footage, tmp_path):
    records = read_annotations(footage)
    only = write_annotations(tmp_path / "only.jsonl", [r for r in records if r.truth.anomalies])
    with pytest.raises(ValueError, match="no normal video of stage 3"):
        annotated_rows(only, video_root=footage.parent)
    with pytest.raises(ValueError, match="no record of split 'train'"):
        annotated_rows(footage, split="train")
    with pytest.raises(ValueError, match="no video file at"):
        annotated_rows(write_annotations(tmp_path / "moved.jsonl", records))


@pytest.mark.slow
def test_the_papers_settings_run_from_the_file_all_stages_share(recipe, tiny, footage, tmp_path, capsys):
    """full.yaml, cut down in size alone: same data, dealing, wording, crop and limits."""
    size = ["max_steps=1", "prompts_per_step=1", "num_generations=2", "per_device_train_batch_size=8", "use_vllm=false"]
    size.append("domain_videos=0")  # hundreds of videos, looked at once more
    places = [
        f"model={tiny}",
        f"output_dir={tmp_path / 'out'}",
        f"data.path={footage}",
        f"data.cache_dir={tmp_path / 'f'}",
    ]
    full = ROOT / "recipes" / "configs" / "stage3" / "full.yaml"
    recipe.main(["--config", str(full), "--set", *places, *size])
    assert "7500 rows (annotations)" in capsys.readouterr().out
    judge = json.loads((tmp_path / "out" / "judge" / "judge.json").read_text())
    assert (judge["prompts"], judge["window_margin"], judge["max_zoom_frames"]) == ("paper", "none", 48)
    assert (judge["crop"], judge["context"], judge["num_turns"], judge["max_scan_tokens"]) == ("hull", "fresh", 2, 4)
    assert judge["readouts"] == ["paper"]


# --- variants ---------------------------------------------------------------------------------------------------------

VARIANTS = yaml.safe_load((ROOT / "recipes" / "configs" / "stage3" / "variants.yaml").read_text())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_changes_the_reward_and_nothing_else(recipe, name):
    plain = recipe.settings(recipe.parse([]))
    chosen = recipe.settings(recipe.parse(["--variant", name]))
    recipe.check(chosen)
    assert chosen.pop("output_dir") == f"{plain.pop('output_dir')}-{name}"
    assert VARIANTS[name].items() <= chosen.items()
    assert {k: v for k, v in chosen.items() if plain.get(k) != v}.items() <= VARIANTS[name].items()
    changed = GrpoConfig.from_dict({k: v for k, v in chosen.items() if k not in OWN})
    repaired = changed.saliency_repair != "none"
    # Those of the second look name both of their settings, of which one may be what the file has.
    both = {"scale_rewards", "rescued_normal"} <= set(VARIANTS[name])
    assert repaired or both or changed.reward_config() != GrpoConfig().reward_config()


def test_variants_cover_every_weight_and_repair():
    weights = [f"weight_{f.name}" for f in fields(RewardWeights)]
    for name in weights:
        values = {v[name] for v in VARIANTS.values() if list(v) == [name]}
        paper = getattr(GrpoConfig(), name)
        assert not paper or {paper / 2, paper * 2} <= values, name
    assert {v.get("saliency_repair") for v in VARIANTS.values()} == {None, "scale_advantage", "mean_only"}
    looks = {(v["scale_rewards"], v["rescued_normal"]) for v in VARIANTS.values() if "scale_rewards" in v}
    assert {("group", -0.5), ("group", 0.0), ("batch", -0.5), ("batch", 0.0), ("none", -0.5)} <= looks
    assert {v.get("spatial_norm") for v in VARIANTS.values()} == {None, "gt", "named"}


@pytest.mark.slow
def test_a_variant_runs(recipe, tiny, tmp_path):
    where = f"output_dir={tmp_path / 'out'}"
    recipe.main(["--variant", "accuracy_only", "--set", f"model={tiny}", where, *STEP, "data.rows=4"])
    assert (tmp_path / "out" / "judge" / "judge.json").is_file()
    with pytest.raises(ValueError, match="'nonsense' must be one of accuracy_only"):
        recipe.settings(recipe.parse(["--variant", "nonsense"]))
