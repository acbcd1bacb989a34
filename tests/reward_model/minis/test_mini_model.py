"""How the mini judge starts: numbers that can be told apart, heads that find a frame."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from reward_model.minis.model import build_judge, fourier
from reward_model.prompts import load_prompts

ROOT = Path(__file__).resolve().parents[3]

#: The seed of the shipped mini: how sharply the first head finds its mark is a matter of the draw.
SEED = yaml.safe_load((ROOT / "recipes/configs/stage1/mini.yaml").read_text(encoding="utf-8"))["seed"]


@pytest.fixture(scope="module")
def looks():
    """Attention of the untrained mini on six frames and a sentence about frame 3, and what each position holds."""
    model, processor = build_judge("mini", seed=SEED)
    model.set_attn_implementation("eager")
    frames = np.random.default_rng(0).integers(0, 255, (6, 48, 48, 3), dtype=np.uint8)
    chat = [m.to_chat() for m in load_prompts("compact").scan(frames)]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    text += '{"COT": "Frame 0: normal. Frame 1: normal. Frame 2: normal. Frame 3:'
    inputs = processor(text=[text], images=list(frames), return_tensors="pt")
    with torch.no_grad():
        weights = [a[0] for a in model(**inputs, output_attentions=True).attentions]
    return weights, inputs["input_ids"][0].tolist(), processor


def test_a_mark_looks_at_its_own_picture(looks):
    weights, ids, processor = looks
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    pictures = [k for k, token in enumerate(ids) if token == image]
    for number in range(6):
        mark = ids.index(processor.tokenizer.encode(f" Frame {number}:", add_special_tokens=False)[0])
        own = [k for k in pictures if k < mark][-4:]
        row = weights[0][2, mark]
        others = [row[pictures[4 * n : 4 * n + 4]].sum() for n in range(6) if n != number]
        assert row[own].sum() > 0.35 and row[own].sum() > 2.5 * max(others)


def test_a_mark_is_compared_with_the_mark_before(looks):
    """Two heads with one value and opposite outputs: one stays at the mark, one looks a picture back."""
    weights, ids, processor = looks
    marks = [ids.index(processor.tokenizer.encode(f" Frame {k}:", add_special_tokens=False)[0]) for k in range(6)]
    for before, mark in pairwise(marks):
        assert weights[1][2, mark].argmax() == mark
        assert weights[1][3, mark].argmax() == before
    model, _ = build_judge("mini", seed=SEED)
    layer = model.model.language_model.layers[1]
    dim = model.config.text_config.head_dim
    out = layer.self_attn.o_proj.weight
    assert torch.equal(out[:, 2 * dim : 3 * dim], -out[:, 3 * dim :])
    half = layer.mlp.gate_proj.out_features // 2
    assert torch.equal(layer.mlp.gate_proj.weight[:half], layer.mlp.up_proj.weight[:half])


def test_a_sentence_looks_at_the_mark_of_its_frame(looks):
    weights, ids, processor = looks
    mark = processor.tokenizer.encode(" Frame 3:", add_special_tokens=False)[0]
    first, last = ids.index(mark), len(ids) - 1
    assert ids[last] == mark
    others = [
        ids.index(processor.tokenizer.encode(f" Frame {k}:", add_special_tokens=False)[0]) for k in (0, 1, 2, 4, 5)
    ]
    row = weights[0][0, last]
    assert row[first] > 2 * row[others].max()
    assert row[first] > 2 / len(ids), "twice its share, and the rest of it on itself"


def test_near_frames_are_as_different_as_far_ones_and_near_coordinates_alike():
    rough = torch.stack([fourier(k / 61.5, 128, rough=True) for k in range(25)])
    smooth = torch.stack([fourier(k / 48, 128) for k in range(25)])
    alike = torch.nn.functional.cosine_similarity
    assert alike(rough[:-1], rough[1:]).max() < 0.2
    assert alike(smooth[:-1], smooth[1:]).min() > 0.5
    assert rough.pow(2).mean().item() == pytest.approx(1, abs=0.05)
