"""unified-mini: its data have the truth they claim, it is asked in training as in use, and a killed build continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("datasets")

from cac_align import UnifiedReward  # noqa: E402
from cac_align.minis import unified_data, unified_measure  # noqa: E402
from cac_align.minis.unified_captions import (  # noqa: E402
    SLOTS,
    Caption,
    agreement,
    change_slot,
    change_slots,
    read_caption,
)
from cac_align.minis.unified_config import build_unified, picture_side  # noqa: E402
from cac_align.minis.unified_damage import (  # noqa: E402
    NUM_STEPS,
    PICTURE_KINDS,
    TIME_KINDS,
    Timing,
    damage_pictures,
    draw_timing,
    roughness,
)
from cac_align.minis.unified_data import (  # noqa: E402
    DESCRIBED_UNTIL,
    FIRST_ANOMALY_SEED,
    TEST_SEEDS,
    TRAIN_SEEDS,
    draw_score_rows,
    enlarge_frames,
    first_rows,
    make_score_example,
    prompt_of,
    second_rows,
    true_scores,
    undamaged_scene,
    video_of,
)
from cac_align.minis.unified_mini import build_unified_mini, export  # noqa: E402
from cac_align.minis.unified_settings import UnifiedMiniConfig  # noqa: E402
from cac_align.minis.unified_tokenizer import (  # noqa: E402
    ApsScores,
    answer_labels,
    build_unified_tokenizer,
    score_texts,
    write_answer,
)
from cac_align.minis.wan_config import world_prompts  # noqa: E402
from cac_align.prompts import read_prompts  # noqa: E402
from cac_align.rewards import unified_model  # noqa: E402
from reward_model.data.example import Example  # noqa: E402
from reward_model.minis.collator import MiniCollator, use_equal_images  # noqa: E402
from reward_model.training.sft.trainer import AnswerCollator  # noqa: E402
from reward_model.unified.protocols import APS  # noqa: E402
from reward_model.world import make_scene  # noqa: E402
from reward_model.world.kinds import SETTINGS  # noqa: E402
from tests.campaigns import draws  # noqa: E402

ROOT = Path(__file__).parents[2]
ASSET = ROOT / "assets" / "unified-mini"
GENERATOR_PROMPTS = ("mini_prompts.txt", "mini_eval_prompts.txt")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny():
    return build_unified("tiny")


@pytest.fixture(scope="module")
def rows():
    return list(draw_score_rows(400, seed=3))


@pytest.fixture(scope="module")
def scenes(rows):
    """The scenes that the rows are drawn from."""
    return [undamaged_scene(row) for row in rows]


@pytest.fixture(scope="module")
def trained():
    """The rows of both rounds of a training."""
    return first_rows(600, seed=0), second_rows(300, seed=0)


def plain(row, **changes):
    """The same video without damage and with its own prompt, then changed."""
    return {**row, "num_wrong": 0, "elsewhere": -1, "time": "", "picture": "", **changes}


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_prompt_of_the_world_is_read_and_written_back(setting):
    prompts = [make_scene(seed, setting=setting).prompt for seed in range(draws(60, 30))]
    assert [str(read_caption(prompt)) for prompt in prompts] == prompts


def test_slots_of_a_prompt_with_more_in_it():
    found = read_caption("a red sign that reads CAR with a blue ball on a teal background")
    assert found == Caption("red", "sign", "that reads CAR", "teal", " with a blue ball")
    found = read_caption("a red ball slides against a blue block on a gray background")
    assert found == Caption("red", "ball", "slides against a blue block", "gray")


def test_a_sentence_of_another_world_is_refused():
    with pytest.raises(ValueError, match="'a dog runs' is not a prompt of the procedural world; expected"):
        read_caption("a dog runs")


@pytest.mark.parametrize("setting", SETTINGS)
def test_wrong_prompts_are_wrong_in_as_many_slots_as_asked(setting):
    rng = np.random.default_rng(0)
    for seed in range(draws(30, 10)):
        right = read_caption(make_scene(seed, setting=setting).prompt)
        for num_wrong in range(5):
            wrong = change_slots(right, num_wrong, rng)
            assert agreement(right, wrong) == 4 - num_wrong and wrong.others == right.others
            assert read_caption(str(wrong)) == wrong
        for slot in SLOTS:
            wrong = change_slot(right, slot, rng)
            assert [getattr(wrong, s) != getattr(right, s) for s in SLOTS] == [s == slot for s in SLOTS]
    with pytest.raises(ValueError, match="num_wrong=5 must lie in 0 to 4"):
        change_slots(right, 5, rng)


# --- damage ----------------------------------------------------------------------------------------------------------


def test_roughness_by_hand():
    shown = np.arange(NUM_STEPS)
    smooth = Timing(np.arange(NUM_STEPS), np.ones(NUM_STEPS))
    assert roughness(smooth, shown) == 0
    # Every second step stands still and the next is twice as long: each is wrong by one step.
    held = Timing(np.arange(NUM_STEPS) // 2 * 2, np.ones(NUM_STEPS))
    assert roughness(held, shown) == pytest.approx(1 / 1.6)
    # One jump of ten steps counts as four.
    cut = Timing(np.arange(NUM_STEPS) + 10 * (np.arange(NUM_STEPS) > 7), np.ones(NUM_STEPS))
    assert roughness(cut, shown) == pytest.approx(4 / 15 / 1.6)
    light = Timing(np.arange(NUM_STEPS), 1 + 0.1 * (np.arange(NUM_STEPS) % 2))
    assert roughness(light, shown) == pytest.approx(0.1 / 0.4)
    assert roughness(Timing(held.order[::-1], 5 * light.gain), shown) == 1


@pytest.mark.parametrize("num_frames", [33, 81, 97])
@pytest.mark.parametrize("kind", TIME_KINDS)
def test_stronger_damage_of_time_is_rougher_and_stays_inside_the_video(kind, num_frames):
    shown = np.asarray(APS.pick(num_frames))
    means = []
    for strength in (0.0, 0.5, 1.0):
        drawn = [draw_timing(kind, strength, num_frames, np.random.default_rng(k)) for k in range(40)]
        assert all(t.order.shape == t.gain.shape == (num_frames,) for t in drawn)
        assert all(t.order.min() >= 0 and t.order.max() < num_frames for t in drawn)
        means.append(np.mean([roughness(t, shown) for t in drawn]))
    assert 0.04 < means[0] < means[1] - 0.1 < means[2] - 0.2
    assert roughness(draw_timing("", 1.0, num_frames, np.random.default_rng(0)), shown) == 0


def test_cuts_are_runs_of_the_scene():
    timing = draw_timing("cuts", 1.0, 81, np.random.default_rng(5))
    assert (np.diff(timing.order) != 1).sum() in range(1, 7)


def test_slow_motion_shows_a_smaller_part_of_the_scene_evenly():
    """Fails where a slow video still gets to its end: then nothing in it would be slow."""
    for strength, pace, rough in ((0.0, 0.95, 0.1), (0.25, 0.775, 0.45), (0.75, 0.425, 1.0), (1.0, 0.0, 1.0)):
        timing = draw_timing("slow", strength, 81, np.random.default_rng(1))
        assert timing.pace == pytest.approx(pace) and timing.order[-1] - timing.order[0] == pytest.approx(
            80 * pace, abs=1
        )
        assert np.abs(np.diff(timing.order) - pace).max() < 1
        assert roughness(timing, np.asarray(APS.pick(81))) == pytest.approx(rough, abs=0.06)


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_stronger_damage_of_pictures_is_further_from_the_truth(kind):
    clean = video_of(plain(draw_score_rows(1, seed=0)[0], setting="single"), range(8))
    index = np.arange(8)
    errors = [
        np.abs(damage_pictures(clean, kind, s, seed=1, index=index).astype(int) - clean).mean() for s in (0, 0.5, 1)
    ]
    assert 0 < errors[0] < 0.75 * errors[1] and errors[1] < 0.9 * errors[2]


def test_unknown_damage_is_refused():
    with pytest.raises(ValueError, match="kind='rain' must be '' or one of blur, noise, blocks"):
        damage_pictures(np.zeros((1, 8, 8, 3), np.uint8), "rain", 1, seed=0, index=np.arange(1))
    with pytest.raises(ValueError, match="kind='rain' must be '' or one of jitter"):
        draw_timing("rain", 1, 81, np.random.default_rng(0))


# --- rows ------------------------------------------------------------------------------------------------------------


def test_half_of_the_rows_are_wrong_in_each_way_and_the_ways_are_independent(rows):
    wrong = np.array([[r["num_wrong"] > 0, r["time"] != "", r["picture"] != ""] for r in rows])
    assert np.abs(wrong.mean(axis=0) - 0.5).max() < 0.08
    assert np.abs(np.corrcoef(wrong.T) - np.eye(3)).max() < 0.15
    for key, kinds in (("time", TIME_KINDS), ("picture", PICTURE_KINDS)):
        assert {r[key] for r in rows} == {"", *kinds}
    assert {r["num_wrong"] for r in rows} == {0, 1, 2, 3, 4} and {r["setting"] for r in rows} == set(SETTINGS)


def test_rows_follow_from_the_seed_and_reserved_videos_are_never_trained_on(rows, trained):
    assert list(draw_score_rows(100, seed=3)) == rows[:100] != list(draw_score_rows(100, seed=4))
    assert all(r["seed"] in TEST_SEEDS and (r["elsewhere"] == -1 or r["elsewhere"] in TEST_SEEDS) for r in rows)
    for round_rows in trained:
        assert all(seed in TRAIN_SEEDS for seed in round_rows["seed"])
    assert TRAIN_SEEDS.stop <= TEST_SEEDS.start and TEST_SEEDS.stop <= FIRST_ANOMALY_SEED


def test_training_asks_for_descriptions_first_and_for_scores_alone_in_the_end(trained):
    asked = np.array(trained[0]["task"]) == "describe"
    assert asked[:100].mean() > 0.55 and not asked[int(DESCRIBED_UNTIL * 600) :].any()
    row = trained[0][int(asked.argmax())]
    assert make_score_example(row).answer == undamaged_scene(row).prompt


def test_slow_motion_comes_in_the_second_round(trained):
    first, second = (rows["time"] for rows in trained)
    assert "slow" not in first and set(trained[1]["task"]) == {"rate"}
    damaged = [kind for kind in second if kind]
    assert 0.3 < damaged.count("slow") / len(damaged) < 0.5


def test_no_video_has_an_anomaly(scenes):
    assert all(scene.fault is None for scene in scenes)


def test_truth_of_right_and_wrong_rows(rows):
    for row in rows[: draws(60, 8)]:
        assert true_scores(plain(row)) == ApsScores(5, 5, 5) and prompt_of(plain(row)) == undamaged_scene(row).prompt
        for num_wrong in (1, 4):
            assert true_scores(plain(row, num_wrong=num_wrong)).alignment == 5 - num_wrong
        assert true_scores(plain(row, picture="blur", picture_strength=0.25)) == ApsScores(5, 5, 4)
        assert true_scores(plain(row, time="flicker", time_strength=1.0)).physics < 4
        slow = plain(row, time="slow", time_strength=0.25, num_frames=81)  # at 0.775 of its pace: 0.45 of the worst
        assert true_scores(slow).alignment == pytest.approx(4.55) and 2.9 < true_scores(slow).physics <= 3.2
        asked = read_caption(prompt_of({**slow, "num_wrong": 4}))
        assert true_scores({**slow, "num_wrong": 4}).alignment == 1 and asked.action not in undamaged_scene(row).prompt
    elsewhere = [true_scores(row).alignment for row in rows if row["elsewhere"] >= 0]
    assert min(elsewhere) == 1 and np.mean(elsewhere) < 3


def test_time_is_never_damaged_where_one_cannot_see_it(rows, scenes):
    still = [r for r, scene in zip(rows, scenes, strict=True) if "stands" in scene.prompt or "reads" in scene.prompt]
    assert still and {r["time"] for r in still} <= {"", "flicker"}


@pytest.mark.parametrize(
    ("time_kind", "picture"), zip(("", *TIME_KINDS), ("", *PICTURE_KINDS, "noise", "blur"), strict=True)
)
def test_a_frame_is_the_same_in_any_selection(rows, time_kind, picture):
    """Fails where training draws other frames than the whole video shows that is measured later."""
    row = {**rows[0], "time": time_kind, "picture": picture, "setting": "single"}
    shown = APS.pick(row["num_frames"])
    assert (video_of(row, shown) == video_of(row)[shown]).all()


# --- question and answer ---------------------------------------------------------------------------------------------


def test_answers_are_read_by_the_parser_of_the_protocol_to_the_nearest_step():
    for alignment, physics, style in ((1, 5, 3.2), (2.0, 1.04, 4.99), (4.25, 3.3, 1)):
        read = APS.read(write_answer(ApsScores(alignment, physics, style)))
        told = [1 + 4 * read[axis] for axis in APS.axes]
        assert told == pytest.approx([alignment, physics, style], abs=0.1 + 1e-9)
    with pytest.raises(ValueError, match=r"'Physics Score \(1-5\):' cannot be 0.5; it must lie in 1 to 5"):
        write_answer(ApsScores(1, 0.5, 1))


def test_question_captions_and_scores_are_a_token_a_piece(rows):
    tokenizer = build_unified_tokenizer()
    folder = ROOT / "recipes" / "configs" / "flow_grpo"
    asked = [prompt.text for name in GENERATOR_PROMPTS for prompt in read_prompts(folder / name)]
    assert set(asked) <= set(world_prompts())
    for prompt in world_prompts():
        # before, a, colour, thing, motion, on a, background's colour, background, after
        assert len(tokenizer.encode(APS.question.replace("{caption}", prompt))) == 9
    for text in (*score_texts(), *answer_labels()):
        assert len(tokenizer.encode(text)) == 1
    for row in rows[:50]:
        assert len(tokenizer.encode(prompt_of(row))) <= 8 + 2 * 4
    for text in ("a dog runs 3.456 m, 5.0.1 or 25.0 \u00e9\n", APS.question, write_answer(ApsScores(1, 2, 3))):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_asks_as_the_protocol_does(rows):
    for row in rows[:5]:
        [asked] = make_score_example(row, side=48).conversation
        [official] = APS.conversation(video_of(row), prompt_of(row))
        assert asked.role == official.role and asked.content[-1] == official.content[-1]
        shown = np.stack(official.content[:-1])
        assert (np.stack(asked.content[:-1]) == enlarge_frames(shown, 48)).all() and len(shown) == 16


def test_training_batches_are_what_the_stock_processor_makes_of_small_videos(tiny, rows):
    """Fails where frames are enlarged in another way than the loader's processor does, or positions differ."""
    model, processor = tiny
    side = picture_side(processor)
    chosen = [row for row in rows if row["size"] == 32][:3]

    def load(row):
        return Example(APS.conversation(video_of(row), prompt_of(row)), make_score_example(row, side).answer)

    stock = AnswerCollator(processor, load)(chosen)
    fast = MiniCollator(processor, lambda row: make_score_example(row, side), side // 8)(chosen)
    with torch.no_grad():
        expected = model(**stock).loss
        with use_equal_images(model):
            found = model(**fast).loss
    assert torch.allclose(fast["pixel_values"], stock["pixel_values"], atol=1e-5)
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_vision_tower_is_the_judges_and_the_rest_is_new():
    from transformers import AutoModelForImageTextToText

    judge = AutoModelForImageTextToText.from_pretrained(ROOT / "assets" / "cac-mini", dtype="float32")
    model, _ = build_unified(ROOT / "assets" / "cac-mini", seed=1)
    seen = judge.model.visual.state_dict()
    assert all(torch.equal(value, seen[name]) for name, value in model.model.visual.state_dict().items())
    other = build_unified(ROOT / "assets" / "cac-mini", seed=2)[0]
    name = "model.language_model.layers.3.mlp.up_proj.weight"
    assert not torch.equal(model.state_dict()[name], other.state_dict()[name])
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 2e6
    with pytest.raises(ValueError, match=r"judge='/nowhere' is not a folder of a trained judge; build one with"):
        build_unified("/nowhere")


def test_attention_starts_by_comparing_with_the_picture_before(tiny):
    """Fails where the distance, the signs or the rotary layout of the comparing heads are wrong."""
    model, processor = tiny[0], tiny[1]
    collator = MiniCollator(processor, lambda row: make_score_example(row, 48))
    batch = collator([plain(draw_score_rows(1, seed=0)[0])])
    kept = {}
    layer = model.model.language_model.layers[0].self_attn
    hook = layer.register_forward_hook(lambda module, args, out: kept.update(weights=out[1]))
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad(), use_equal_images(model):
            model(**{k: v for k, v in batch.items() if k != "labels"})
    finally:
        hook.remove()
        model.set_attn_implementation({"text_config": before})
    places = np.flatnonzero(batch["input_ids"][0].numpy() == processor.image_token_id)
    weights = kept["weights"][0, -1].numpy()  # the head that looks back
    per_picture = len(places) // 16
    later = places[per_picture:]
    earlier = places[:-per_picture]
    own = kept["weights"][0, -2].numpy()
    assert (
        weights[later, earlier].mean() > 5 / len(places)
        and weights[later, earlier].mean() > 3 * weights[later, later].mean()
    )
    assert own[later, later].mean() > 3 * own[later, earlier].mean()


def test_a_folder_loads_through_the_reward_and_answers_like_the_model_in_memory(tiny, tmp_path, rows):
    model, processor = tiny
    export(model, processor, tmp_path / "unified")
    reward = UnifiedReward(tmp_path / "unified", device="cpu", max_new_tokens=4)
    backend = reward.opened_backend
    assert type(backend.model) is type(model) and type(backend.processor) is type(processor)
    saved = backend.model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    row = plain(rows[0])
    [found] = reward.score([video_of(row)], [prompt_of(row)], fps=16)
    # Untrained, it answers anything but three scores: that is no score, and the answer is kept.
    assert found.score is None and "Alignment Score" in found.error
    [message] = APS.conversation(video_of(row), prompt_of(row))
    text = processor.apply_chat_template([message.to_chat()], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=list(message.content[:-1]), return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    assert found.text == processor.tokenizer.decode(answer, skip_special_tokens=True)


# --- measuring -------------------------------------------------------------------------------------------------------


def test_figures_of_known_scores():
    good, bad = np.array([0.9, 0.8, np.nan, 0.7]), np.array([0.1, 0.8])
    figure = unified_measure._separate(good, bad)
    assert figure.num == 5 and figure.value == pytest.approx((2 + 1.5 + 1) / 6)
    assert figure.interval.low <= figure.value <= figure.interval.high
    truths = np.linspace(0, 1, 30)
    assert unified_measure._correlate(truths**3, truths).value == pytest.approx(1)
    assert unified_measure._correlate(np.ones(30), truths).value == 0
    assert np.isnan(unified_measure._separate(good[:0], bad).value)


# --- building --------------------------------------------------------------------------------------------------------

#: Rates far above the recipe's: a tiny model has to learn the form of an answer in seconds.
SMALL = UnifiedMiniConfig(
    max_steps=120,
    second_steps=12,
    batch_size=4,
    learning_rate=0.01,
    matrix_lr=0.03,
    vision_lr_scale=1.0,
    save_steps=1000,
    num_test_videos=24,
)


def test_scale_of_the_recipe():
    assert UnifiedMiniConfig().scaled(0.001).max_steps == 4 and UnifiedMiniConfig().scaled(1).max_steps == 4000
    assert UnifiedMiniConfig().scaled(0.01).second_steps == 16
    assert UnifiedMiniConfig(second_steps=0).scaled(0.01).second_steps == 0
    with pytest.raises(ValueError, match="scale=0 must be above zero"):
        UnifiedMiniConfig().scaled(0)


@pytest.mark.slow
def test_a_tiny_training_learns_the_form_of_the_answers_and_ships_what_it_measured(tmp_path):
    folder = build_unified_mini(tmp_path / "unified", tmp_path / "work", judge="tiny", config=SMALL)
    states = sorted((tmp_path / "work").glob("checkpoint-*/trainer_state.json"))
    losses = [entry["loss"] for entry in json.loads(states[-1].read_text())["log_history"] if "loss" in entry]
    assert losses[-1] < 0.4 * losses[0]
    assert list((tmp_path / "work").rglob("events.out.tfevents.*")), "TensorBoard has no log"
    measured = json.loads((folder / "measured.json").read_text())
    assert measured["num_asked"] > 24 and measured["num_unscored"] == 0
    card = (folder / "README.md").read_text()
    assert f"| style | {measured['spearman']['style']['value']:.3f} " in card and "{" not in card.partition("json")[0]
    assert {p.suffix for p in folder.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    row = plain(draw_score_rows(1, seed=1)[0])
    [found] = UnifiedReward(folder, device="cpu").score([video_of(row)], [prompt_of(row)], fps=16)
    assert 0 <= found.score <= 1 and set(found.axes) == set(APS.axes)


@pytest.mark.slow
def test_the_recipe_builds_it_from_the_shipped_judge(tmp_path):
    recipe = [sys.executable, str(ROOT / "recipes" / "build_minis.py"), "--only", "unified", "--scale", "0.0005"]
    places = ["--output", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*recipe, *places], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    folder = tmp_path / "out" / "unified-mini"
    assert f"unified: {folder}" in done.stdout and not folder.with_name("unified-mini.new").exists()
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8 * 2**20
    assert "The vision tower starts from `cac-mini`'s" in (folder / "README.md").read_text()


TRAIN = """
import sys, torch
from pathlib import Path
from cac_align.minis.unified_mini import export, train_unified
from cac_align.minis.unified_settings import UnifiedMiniConfig
config = UnifiedMiniConfig(max_steps=8, second_steps=6, batch_size=4, save_steps=2)
torch.set_num_threads(1)
model, processor = train_unified(Path(sys.argv[1]), "tiny", config, 0)
export(model, processor, Path(sys.argv[1]) / "out")
"""


def start(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(folder)], env=environment, cwd=ROOT, **quiet)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", [".", "second"])
def test_a_killed_training_continues_to_the_same_bytes(tmp_path, stopped_in):
    from reward_model.engine.guards import last_complete_checkpoint

    assert start(tmp_path / "whole").wait(timeout=900) == 0
    cut, work, deadline = start(tmp_path / "cut"), tmp_path / "cut", time.monotonic() + 600
    place = work / stopped_in
    while (
        cut.poll() is None and not (place.is_dir() and last_complete_checkpoint(place)) and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    os.kill(cut.pid, signal.SIGKILL)
    cut.wait()
    assert last_complete_checkpoint(place) is not None and not (work / "out").exists()
    assert start(work).wait(timeout=900) == 0
    same = [(tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert same[0] == same[1]


# --- the shipped checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ASSET.is_dir(), reason="no unified-mini is shipped")
def test_the_shipped_checkpoint_is_small_and_answers_in_form(rows):
    assert sum(f.stat().st_size for f in ASSET.rglob("*") if f.is_file()) < 8 * 2**20
    reward = UnifiedReward(ASSET, device="cpu")
    good = [plain(row, setting="single", size=32, num_frames=81) for row in rows[: draws(8, 4)]]
    bad = [{**row, "num_wrong": 4, "picture": "blocks", "picture_strength": 0.8} for row in good]
    unified_model.announce_mini.cache_clear()  # said once per process
    with pytest.warns(UserWarning, match="demo-scale"):
        found = [reward.score([*map(video_of, part)], [*map(prompt_of, part)], fps=16) for part in (good, bad)]
    assert all(f.score is not None for part in found for f in part)
    for axis in ("Alignment Score", "Style Score"):
        means = [np.mean([f.axes[axis] for f in part]) for part in found]
        assert means[0] > means[1] + 0.2
    assert unified_data.true_scores(good[0]) == ApsScores(5, 5, 5)
