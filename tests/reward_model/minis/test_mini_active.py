"""The tokens a mini writes operators with: short, exact, and beside those it knows."""

from __future__ import annotations

import copy

import numpy as np
import torch

from reward_model.active.moves import read_move, write_look
from reward_model.active.operators import FACTORS, WIDTHS, Backtrack, Expand, Zoom
from reward_model.active.policies import THOUGHTS
from reward_model.config import JudgeConfig
from reward_model.minis.active import active_pieces, add_active_pieces
from reward_model.minis.model import build_judge
from reward_model.parsing import format_report
from reward_model.world import make_video
from reward_model.world.narration import narrate_zoom

INDICES = tuple(range(0, 81, 8))


def test_operators_are_a_few_tokens_and_everything_else_is_as_it_was():
    model, processor = build_judge("tiny")
    tokenizer = processor.tokenizer
    known = copy.deepcopy(tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    answers = [
        format_report(narrate_zoom(make_video(seed, kind)[1], INDICES))
        for seed, kind in enumerate(["squash", None, "vanish", "change", "dim", "extra_limb"][:4])
    ]
    assert add_active_pieces(model, processor) == len(active_pieces()) and add_active_pieces(model, processor) == 0
    for text in (*answers, "\nZoom.", "Frame 3:", "0.53 metres"):
        assert tokenizer.encode(text) == known.encode(text), text
    assert torch.equal(model.get_input_embeddings().weight[: len(known)], before)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.text_config.vocab_size == len(tokenizer) == len(known) + len(active_pieces())
    looks = [Backtrack(k / 2, w) for k in range(11) for w in WIDTHS]
    looks += [Expand(a / 2, b / 2) for a in range(11) for b in range(0, 11, 3)]
    looks += [Zoom(a / 2, b / 2, k) for a in range(11) for b in range(a, 11) for k in FACTORS]
    for look in looks:
        text = write_look(look, THOUGHTS[look.name], indices=INDICES, fps=16.0, frames=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) <= 7, (text, tokenizer.convert_ids_to_tokens(ids))
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert read_move(text, INDICES, 16.0, JudgeConfig()).operator == look
    new = model.get_input_embeddings().weight[len(known) :].detach()
    assert np.isfinite(new.numpy()).all() and 0.1 < float(new.std() / before.std()) < 1.5


def test_the_tokens_are_saved_with_the_judge(tmp_path):
    from transformers import AutoTokenizer

    model, processor = build_judge("tiny")
    add_active_pieces(model, processor)
    processor.save_pretrained(tmp_path)
    text = write_look(Zoom(2.0, 3.0, 4), THOUGHTS["zoom"], indices=INDICES, fps=16.0, frames=True)
    assert AutoTokenizer.from_pretrained(tmp_path).encode(text) == processor.tokenizer.encode(text)
