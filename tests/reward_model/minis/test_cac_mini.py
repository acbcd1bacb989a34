"""The mini judge: stock classes load it, the fast training path equals the stock one, training moves what it
should, the checkpoint does its job.
"""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from reward_model.data.example import IGNORE
from reward_model.minis.collator import MiniCollator, use_equal_images
from reward_model.minis.model import build_judge, build_processor, judge_settings
from reward_model.minis.rows import TRAIN_SEEDS, draw_rows, make_example
from reward_model.minis.stage_rows import stage1_rows, stage2_rows
from reward_model.minis.tokenizer import coordinate_values, number_pieces, template_pieces
from reward_model.parsing import STATUS_PREFIX, ParseError, format_report, parse_turn
from reward_model.prompts import load_prompts
from reward_model.training.judge_folder import write_judge
from reward_model.training.sft.trainer import AnswerCollator, AnswerTrainer, run_sft, sft_config
from reward_model.video.clip import sample_indices
from reward_model.world import KINDS, make_annotation, make_scene, make_video
from reward_model.world.narration import narrate_scan, narrate_zoom
from tests.campaigns import Scale, draws

CHECKPOINT = Path(__file__).parents[3] / "assets" / "cac-mini"
GRID = sample_indices(81, 16, 4)


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def rows():
    return list(draw_rows(["scan", "zoom", "frame", "clip", "scan", "zoom"], seed=4))


@pytest.fixture(scope="module")
def shipped():
    model = Qwen3VLForConditionalGeneration.from_pretrained(CHECKPOINT)
    return model.eval(), AutoProcessor.from_pretrained(CHECKPOINT)


# --- tokenizer and processor ------------------------------------------------------------------------------------------


def test_the_verdict_words_keep_qwens_trap(processor):
    encode = processor.tokenizer.encode
    prefix = encode(STATUS_PREFIX)
    normal, abnormal = (encode(STATUS_PREFIX + word)[len(prefix) :] for word in ("normal", "abnormal"))
    assert len(normal) == 1
    assert len(abnormal) == 2
    assert abnormal[1] == normal[0]
    for cot in ("", "Frame 0: normal. No anomaly."):
        start = f'{{"COT": "{cot}", {STATUS_PREFIX}'
        assert encode(start + 'abnormal", "anomalies": [')[: len(encode(start)) + 2] == [*encode(start), *abnormal]


@pytest.mark.parametrize(
    "text",
    ["Ünïcode ✓ 漢字 \t\n", "abnormality is abnormal", "Frame 99: [1234, 5]", "\x00\x7f", "1000 10000 0.5 -3 007"],
)
def test_any_text_encodes_and_comes_back(processor, text):
    assert processor.tokenizer.decode(processor.tokenizer.encode(text)) == text


def test_every_template_piece_and_number_is_one_token(processor):
    for piece in [*template_pieces(), *number_pieces()]:
        assert len(processor.tokenizer.encode(piece)) == 1, piece


def test_boxes_on_the_pixel_grid_only_use_known_coordinates():
    seen = set()
    for seed in range(40):
        for boxes in make_annotation(make_scene(seed, "split")).anomalies[0].boxes.values():
            seen |= {v for box in boxes for v in box.as_list()}
    assert seen <= set(coordinate_values())
    assert {20, 21, 41, 42} <= set(coordinate_values())


def test_answers_are_short(processor):
    count = {
        kind: len(processor.tokenizer.encode(format_report(narrate_scan(truth, GRID), boxes=False)))
        for kind in (None, *KINDS)
        for truth in [make_annotation(make_scene(3, kind))]
    }
    assert count[None] <= 50
    assert max(count.values()) <= 70


def test_saved_files_load_as_stock_classes(tmp_path):
    model, processor = build_judge("tiny")
    write_judge(model, processor, tmp_path / "judge", judge_settings(load_prompts("compact").version))
    loaded, again = (
        Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "judge"),
        AutoProcessor.from_pretrained(tmp_path / "judge"),
    )
    text = format_report(narrate_scan(make_annotation(make_scene(3, "squash")), GRID))
    assert again.tokenizer.encode(text) == processor.tokenizer.encode(text)
    assert type(again) is type(processor)
    assert again.tokenizer.padding_side == "left"
    for (name, a), (_, b) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert (
        json.loads((tmp_path / "judge" / "judge.json").read_text())["prompt_version"] == load_prompts("compact").version
    )


# --- initial weights --------------------------------------------------------------------------------------------------


def test_weights_start_at_fan_in_scale():
    model, _ = build_judge("mini")
    layer = model.model.language_model.layers[0]
    # The heads that look back start quieter; see init_attention.
    assert layer.self_attn.q_proj.weight[:64].std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert layer.self_attn.v_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx((384 * 8) ** -0.5, rel=0.05)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert sum(p.numel() for p in model.parameters()) < 2_000_000


def test_neighbouring_numbers_start_as_neighbours(processor):
    model, _ = build_judge("mini")
    weight = model.get_input_embeddings().weight

    def distance(a, b):
        ids = [processor.tokenizer.encode(f"{v}, ")[0] for v in (a, b)]
        return (weight[ids[0]] - weight[ids[1]]).norm().item()

    assert distance(500, 521) < 0.8 * distance(500, 834)


def test_the_seed_decides_the_weights():
    a, b, c = (build_judge("tiny", seed=s)[0].state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["model.visual.patch_embed.proj.weight"], c["model.visual.patch_embed.proj.weight"])


# --- samples ----------------------------------------------------------------------------------------------------------


def test_rows_and_samples_are_functions_of_their_seed(rows):
    assert rows == list(draw_rows(["scan", "zoom", "frame", "clip", "scan", "zoom"], seed=4))
    for row in rows:
        a, b = make_example(row), make_example(row)
        assert a.answer == b.answer
        assert all(
            np.array_equal(x, y) for x, y in zip(a.conversation[0].content, b.conversation[0].content, strict=True)
        )


def test_training_stays_inside_its_seeds_and_every_answer_parses():
    data = stage2_rows(2, 16, seed=9)
    assert len(data) == 32
    assert all(row["seed"] in TRAIN_SEEDS for row in data)
    assert TRAIN_SEEDS.stop <= 100_000
    for row in data:
        example = make_example(row)
        frames = sum(not isinstance(p, str) for p in example.conversation[0].content)
        if row["task"] in ("scan", "zoom"):
            parse_turn(example.answer, turn=1 if row["task"] == "scan" else 2, num_frames=frames)


def test_stages_hold_normal_and_abnormal_samples_of_every_task():
    for data, tasks in (
        (stage1_rows(8, 32, seed=0), {"frame", "clip", "splice"}),
        (stage2_rows(16, 16, seed=0), {"scan", "splice", "zoom", "frame"}),
    ):
        for task in tasks:
            some = [r for r in data if r["task"] == task][: 48 : draws(1, 2)]
            share = np.mean(['"abnormal"' in make_example(r).answer for r in some])
            assert 0.3 < share < 0.7, (task, share)


def test_rows_alternate_in_half_batches_of_scans_and_clips():
    tasks = stage2_rows(3, 16, seed=0)["task"]
    for k, start in enumerate(range(0, 48, 8)):
        assert set(tasks[start : start + 8]) <= ({"scan", "splice"} if k % 2 == 0 else {"zoom", "frame"})


# --- the fast path equals the stock path ------------------------------------------------------------------------------


def test_the_fast_batch_equals_the_stock_processors(processor, rows):
    fast, stock = (collator(processor, make_example)(rows) for collator in (MiniCollator, AnswerCollator))
    assert torch.equal(fast["input_ids"], stock["input_ids"])
    assert torch.equal(fast["labels"], stock["labels"])
    assert torch.equal(fast["image_grid_thw"], stock["image_grid_thw"])
    assert torch.allclose(fast["pixel_values"], stock["pixel_values"], atol=1e-5)


def test_the_fast_forward_and_gradients_equal_the_stock_ones(rows):
    model, processor = build_judge("tiny")
    stock = model(**AnswerCollator(processor, make_example)(rows)).loss
    stock.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    with use_equal_images(model):
        fast = model(**MiniCollator(processor, make_example)(rows)).loss
        fast.backward()
    assert fast.item() == pytest.approx(stock.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-5), name


def test_only_the_answer_and_its_end_are_learned(processor, rows):
    batch = AnswerCollator(processor, make_example)(rows)
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        kept, example = labels != IGNORE, make_example(row)
        assert processor.tokenizer.decode(labels[kept]) == example.answer + "<|im_end|>"
        assert processor.tokenizer.decode(ids[kept]) == (example.read or example.answer) + "<|im_end|>"


# --- training ---------------------------------------------------------------------------------------------------------


def train(folder, steps, *, model=None, **changes):
    made, processor = build_judge("tiny")
    model = model or made
    settings = {
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "gradient_checkpointing": False,
    }
    settings |= {
        "learning_rate": 1e-3,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "save_steps": 2,
    }
    rows = draw_rows(["frame", "clip"] * 4, seed=1)
    config = sft_config(folder, max_steps=steps, disable_tqdm=True, **{**settings, **changes})
    with use_equal_images(model):
        trainer = run_sft(model, processor, rows, MiniCollator(processor, make_example), config)
    return model, trainer


def test_two_steps_move_every_part_of_the_model(tmp_path):
    before, _ = build_judge("tiny")
    after, _ = train(tmp_path, 2)
    still = [
        n
        for (n, a), (_, b) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if torch.equal(a, b)
    ]
    assert still == []


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, _ = train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    resumed, trainer = train(tmp_path / "parts", 4)
    assert trainer.state.global_step == 4
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_trainers_loss_is_the_stock_loss(tmp_path, rows):
    """Accumulated half batches of unequal length must weigh tokens, not halves."""
    model, processor = build_judge("tiny")
    config = sft_config(tmp_path, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False)
    collator = MiniCollator(processor, make_example)
    trainer = AnswerTrainer(model, config, collator, draw_rows(["frame"], seed=0), processing_class=processor)
    with use_equal_images(model):
        halves = [collator(rows[:3]), collator(rows[3:])]
        total = sum((h["labels"] != IGNORE).sum() for h in halves)
        loss = sum(trainer.compute_loss(model, h, num_items_in_batch=total) for h in halves)
        whole = model(**collator(rows)).loss
    assert loss.item() == pytest.approx(whole.item(), abs=1e-5)


@pytest.mark.slow
def test_the_whole_build_runs_small_and_resumes(tmp_path):
    command = [sys.executable, str(CHECKPOINT.parents[1] / "recipes" / "build_minis.py"), "--only", "judge"]
    command += ["--output", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work"), "--scale", "0.004"]
    subprocess.run(command, check=True)
    folder = tmp_path / "out" / "cac-mini"
    first = (folder / "model.safetensors").read_bytes()
    assert (folder / "judge.json").exists()
    assert list((tmp_path / "work").rglob("events.out.tfevents*"))
    subprocess.run(command, check=True)
    assert (folder / "model.safetensors").read_bytes() == first


# --- the shipped checkpoint -------------------------------------------------------------------------------------------


def test_the_checkpoint_is_small_and_names_the_wording_it_was_trained_with():
    assert sum(f.stat().st_size for f in CHECKPOINT.iterdir()) < 20e6
    settings = json.loads((CHECKPOINT / "judge.json").read_text())
    assert settings["prompt_version"] == load_prompts(settings["prompts"]).version
    assert not list(CHECKPOINT.glob("*.bin"))


def ask(model, processor, conversations, max_new_tokens=400):
    texts = [
        processor.apply_chat_template([m.to_chat() for m in c], add_generation_prompt=True, tokenize=False)
        for c in conversations
    ]
    images = [p for c in conversations for m in c for p in m.content if not isinstance(p, str)]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=max_new_tokens)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.slow
def test_it_answers_through_stock_batched_generation(shipped):
    """Left padding, batches of unequal prompts and the answer's end all have to work with nothing but transformers."""
    prompts = load_prompts("compact")
    videos = [(300_000 + i, kind) for i, kind in enumerate((None, "squash"))]
    made = [make_video(seed, kind, setting="single", size=32) for seed, kind in videos]
    grids = [GRID[:17], GRID[:13]]
    conversations = [prompts.scan(frames[grid]) for (frames, _), grid in zip(made, grids, strict=True)]
    together, alone = ask(*shipped, conversations), [ask(*shipped, [c])[0] for c in conversations]
    assert together == alone
    for answer, grid in zip(together, grids, strict=True):
        parse_turn(answer, turn=1, num_frames=len(grid))


@pytest.mark.parametrize(("rounds", "least"), [(1, 5), pytest.param(3, 15, marks=pytest.mark.slow)])
def test_it_finds_clear_anomalies_and_leaves_normal_videos_alone(shipped, rounds, least):
    prompts = load_prompts("compact")
    cases = [(310_000 + i, kind) for i, kind in enumerate([None, "squash", None, "split", None, "vanish"] * rounds)]
    made = [make_video(seed, kind, setting="single", size=32) for seed, kind in cases]
    answers = ask(*shipped, [prompts.scan(frames[GRID]) for frames, _ in made])
    right = 0
    for (_, kind), answer in zip(cases, answers, strict=True):
        with suppress(ParseError):
            right += parse_turn(answer, turn=1, num_frames=21).status == ("abnormal" if kind else "normal")
    assert right >= least


@pytest.mark.slow
def test_it_draws_boxes_in_turn_two(shipped):
    frames, truth = make_video(320_001, "squash")
    middle = (truth.anomalies[0].frames.start + truth.anomalies[0].frames.end) // 4 * 2
    grid = list(range(max(0, middle - 6), min(80, middle + 6) + 1, 2))
    answer = ask(*shipped, [load_prompts("compact").zoom(frames[grid], cot="The ball is squashed.")])[0]
    report = parse_turn(answer, turn=2, num_frames=len(grid))
    assert report.types == narrate_zoom(truth, grid).types
    assert report.anomalies[0].boxes


def test_samples_of_every_story_parse_and_look_as_the_judge_is_shown_them():
    shares = {"shifted": 0.4, "look-alike": 0.3, "short": 0.1}
    rows = stage2_rows(5, 16, seed=4, stories=shares)
    assert {"plain", "shifted"} < set(rows["story"]) and len(set(rows["story"])) > 4
    known = set()
    for row in rows:
        what = (row["story"], row["task"], Scale.whole and len(known))
        if what in known:
            continue
        known.add(what)
        example = make_example(row)
        frames = [part for message in example.conversation for part in message.content if not isinstance(part, str)]
        assert all(frame.shape == (48, 48, 3) for frame in frames) and len(frames) <= 25
        turn = 2 if row["task"] in ("zoom", "clip") else 1
        if row["task"] != "frame":
            parse_turn(example.answer, turn=turn, num_frames=len(frames))


def test_a_zoom_on_a_look_alike_is_told_what_a_scan_would_suspect():
    row = {"task": "zoom", "seed": 5, "kind": "", "setting": "objects", "small": False, "strength": -1.0}
    row |= {"num_frames": 81, "cot": True, "story": "fade", "stratum": "zoom"}
    hints = [make_example({**row, "draw": k}) for k in range(8)]
    assert all('"status": "normal"' in example.answer for example in hints)
    told = ["".join(p for m in e.conversation for p in m.content if isinstance(p, str)) for e in hints]
    assert sum(" vanishes" in text for text in told) >= 4
