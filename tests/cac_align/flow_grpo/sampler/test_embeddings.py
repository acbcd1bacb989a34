"""The text cache: what it returns is what the live encoder returns, and it knows when it must not."""

import copy

import pytest
import torch

from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings, encoder_id, unload_text_encoder
from tests.cac_align.flow_grpo.runs import PROMPTS, tiny_pipe


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


@torch.no_grad()
def test_a_hit_is_the_live_encoding_to_the_bit(pipe, tmp_path):
    texts = TextEmbeddings(tmp_path, encoder_id(pipe), 16)
    assert texts.fill(pipe, [*PROMPTS, "", PROMPTS[0]]) == 5
    for prompt in PROMPTS:
        live, blank = pipe.encode_prompt(prompt, None, True, max_sequence_length=16, device="cpu")
        assert torch.equal(texts.batch([prompt]), live) and torch.equal(texts.batch([""]), blank)
    together, _ = pipe.encode_prompt(PROMPTS, None, False, max_sequence_length=16, device="cpu")
    assert torch.allclose(texts.batch(PROMPTS), together, atol=1e-5)
    again = TextEmbeddings(tmp_path, encoder_id(pipe), 16)
    assert again.fill(None, PROMPTS) == 0, "nothing is encoded twice"


def test_other_weights_length_or_text_miss(pipe, tmp_path):
    texts = TextEmbeddings(tmp_path, encoder_id(pipe), 16)
    texts.fill(pipe, PROMPTS)
    other = tiny_pipe()
    other.text_encoder = copy.deepcopy(pipe.text_encoder)  # all tiny pipelines share theirs
    with torch.no_grad():
        other.text_encoder.shared.weight[3] += 1e-3
    assert encoder_id(other) != encoder_id(pipe)
    assert TextEmbeddings(tmp_path, encoder_id(other), 16).missing(PROMPTS) == PROMPTS
    assert TextEmbeddings(tmp_path, encoder_id(pipe), 32).missing(PROMPTS) == PROMPTS
    assert texts.missing([PROMPTS[0] + "."]) == [PROMPTS[0] + "."]
    with torch.no_grad():
        other.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    assert encoder_id(other) == encoder_id(pipe)
    other.text_encoder.to(torch.bfloat16)
    assert encoder_id(other) != encoder_id(pipe)


def test_a_cut_file_is_encoded_again(pipe, tmp_path):
    texts = TextEmbeddings(tmp_path, encoder_id(pipe), 16)
    texts.fill(pipe, PROMPTS[:1])
    path = texts.path(PROMPTS[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert texts.fill(pipe, PROMPTS[:1]) == 1 and path.read_bytes() == whole
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_encoder_can_go(tmp_path):
    pipe = tiny_pipe()
    texts = TextEmbeddings(tmp_path, encoder_id(pipe), 16)
    texts.fill(pipe, ["a red ball", ""])
    call = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
    start = {"generator": torch.Generator().manual_seed(0), "max_sequence_length": 16}
    live = pipe("a red ball", **call, **start).frames
    unload_text_encoder(pipe)
    embeds = {"prompt_embeds": texts.batch(["a red ball"]), "negative_prompt_embeds": texts.batch([""])}
    assert torch.equal(pipe(**embeds, **call, generator=torch.Generator().manual_seed(0)).frames, live)
    with pytest.raises(KeyError, match="no embedding of 'a cat'"):
        texts["a cat"]
