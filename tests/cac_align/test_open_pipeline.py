"""Pipelines whose checkpoint lacks weights are refused before anything is drawn. Tiny real pipelines, saved."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from safetensors.torch import load_file, save_file

from cac_align.pipelines import open_pipeline
from cac_align.selection.run_folder import describe_pipeline
from tests.campaigns import slow_but

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"
FILES = {
    "text_encoder": TRANSFORMERS,
    "image_encoder": TRANSFORMERS,
    "vae": DIFFUSERS,
    "transformer": DIFFUSERS,
}


def clip():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=16, **size))


@pytest.fixture(scope="module")
def saved(wan_i2v_pipe, tmp_path_factory):
    """Image-to-video: it has every kind of part."""
    from transformers import CLIPImageProcessor

    parts = {**wan_i2v_pipe.components, "image_encoder": clip(), "image_processor": CLIPImageProcessor()}
    folder = tmp_path_factory.mktemp("pipe")
    WanImageToVideoPipeline(**parts).save_pretrained(folder)
    return folder


@pytest.fixture
def weights(saved):
    """Changes the weights of a part of the saved pipeline, until the test ends."""
    before = {}

    def change(part, edit):
        path = saved / part / FILES[part]
        before.setdefault(path, path.read_bytes())
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        return str(saved)

    yield change
    for path, content in before.items():
        path.write_bytes(content)


def last_matrix(tensors):
    return [name for name, tensor in tensors.items() if tensor.ndim > 1 and name != "shared.weight"][-1]


@pytest.mark.parametrize("part", slow_but(FILES, "text_encoder", "vae"))
def test_a_missing_weight_of_any_part_is_refused(weights, part):
    gone = []
    folder = weights(part, lambda t: gone.extend([(k := last_matrix(t)), t.pop(k)]))
    words = rf"{re.escape(folder)}/{part}' are not those .*: 1 missing \({re.escape(gone[0])}\).*download it again"
    with pytest.raises(ValueError, match=words):
        open_pipeline(folder)


@pytest.mark.parametrize("part", slow_but(FILES, "text_encoder", "vae"))
def test_a_weight_of_another_shape_is_refused(weights, part):
    folder = weights(part, lambda t: t.update({last_matrix(t): torch.ones(3, 5)}))
    with pytest.raises(ValueError, match=rf"/{part}' are not those .* 1 of another shape"):
        open_pipeline(folder)


VALUES = [*zip(FILES, [float(v) for v in ("nan", "inf", "inf", "-inf")], strict=True)]


@pytest.mark.parametrize(("part", "value"), slow_but(VALUES, VALUES[0], VALUES[-1]))
def test_weights_that_are_not_numbers_are_refused(weights, part, value):
    folder = weights(part, lambda t: t[last_matrix(t)].view(-1)[-1:].fill_(value))
    with pytest.raises(ValueError, match=rf"1 of the weights in .*/{part}' hold numbers that are infinite or none"):
        open_pipeline(folder)


def test_several_missing_weights_are_counted(weights):
    folder = weights("text_encoder", lambda t: [t.pop(k) for k in list(t) if "layer_norm" in k])
    with pytest.raises(ValueError, match=r"3 missing \(encoder\.[\w.]+, encoder\.[\w.]+, \.\.\.\)"):
        open_pipeline(folder)


@pytest.mark.slow
def test_tied_weights_are_stored_under_either_name_or_both_and_not_under_neither(weights, wan_i2v_pipe):
    shared, tied = "shared.weight", "encoder.embed_tokens.weight"
    want = wan_i2v_pipe.text_encoder.state_dict()[shared]
    weights("text_encoder", lambda t: t.update({tied: t[shared].clone()}))
    assert torch.equal(open_pipeline(weights("text_encoder", lambda t: None)).text_encoder.shared.weight, want)
    pipe = open_pipeline(weights("text_encoder", lambda t: t.pop(shared)))
    assert torch.equal(pipe.text_encoder.encoder.embed_tokens.weight, want)
    with pytest.raises(ValueError, match=r"/text_encoder' .* 2 missing \(encoder.embed_tokens.weight, shared.weight\)"):
        open_pipeline(weights("text_encoder", lambda t: t.pop(tied)))


def test_buffers_may_be_absent(ltx_pipe, tmp_path):
    ltx_pipe.save_pretrained(tmp_path)
    path = tmp_path / "vae" / DIFFUSERS
    tensors = load_file(path)
    assert tensors.pop("latents_mean") is not None
    save_file(tensors, path, metadata={"format": "pt"})
    assert type(open_pipeline(str(tmp_path))) is type(ltx_pipe)


def test_a_whole_pipeline_is_that_of_diffusers(saved):
    ours, theirs = open_pipeline(str(saved)), WanImageToVideoPipeline.from_pretrained(saved)
    assert type(ours) is WanImageToVideoPipeline and describe_pipeline(ours) == describe_pipeline(theirs)
    for part in FILES:
        one, other = getattr(ours, part), getattr(theirs, part)
        assert not one.training and one.dtype == other.dtype
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    half = open_pipeline(str(saved), dtype={"default": torch.bfloat16, "vae": torch.float32})
    assert (half.vae.dtype, half.transformer.dtype, half.text_encoder.dtype) == (
        torch.float32,
        torch.bfloat16,
        torch.bfloat16,
    )


def test_a_part_left_out_is_not_looked_at(weights):
    folder = weights("text_encoder", lambda t: t.pop("shared.weight"))
    assert open_pipeline(folder, parts={"text_encoder": None}).text_encoder is None


def test_a_name_of_the_hub_is_looked_at_in_its_cache(wan_pipe, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0" * 40
    cache = tmp_path / "models--owner--name"
    snapshot = cache / "snapshots" / commit
    wan_pipe.save_pretrained(snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_pipeline("owner/name").config["_name_or_path"] == "owner/name"
    assert open_pipeline("owner/name", revision="main", parts={"text_encoder": None}).text_encoder is None
    path = snapshot / "transformer" / DIFFUSERS
    tensors = load_file(path)
    del tensors[last_matrix(tensors)]
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"'owner/name/transformer' .* 1 missing"):
        open_pipeline("owner/name")


def test_every_way_to_open_a_pipeline_refuses(wan_pipe, tmp_path):
    from cac_align.commands.best_of_n import load_any_pipeline
    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.loading import load_pipeline as load_for_training
    from cac_align.probes.videos import pipeline_videos

    wan_pipe.save_pretrained(tmp_path)
    path = tmp_path / "text_encoder" / TRANSFORMERS
    tensors = load_file(path)
    tensors.pop("encoder.final_layer_norm.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    assert WanPipeline.from_pretrained(tmp_path) is not None  # diffusers itself does not
    folder, prompts = str(tmp_path), tmp_path / "p.txt"
    prompts.write_text("a red ball\n")
    for opens in (
        lambda: load_any_pipeline(folder, "cpu"),
        lambda: load_for_training(FlowGRPOConfig(model=folder)),
        lambda: pipeline_videos(folder, prompts, 1),
    ):
        with pytest.raises(ValueError, match=r"/text_encoder' .* 1 missing \(encoder.final_layer_norm.weight\)"):
            opens()


def test_nothing_else_opens_one():
    root = Path(__file__).resolve().parents[2]
    files = [p for top in ("cac_align", "recipes", "reward_model") for p in (root / top).rglob("*.py")]
    opening = re.compile(r"(?<!`)\b(\w+Pipeline|AutoencoderKL\w*)\.from_pretrained\(\w")
    found = [p.name for p in files if ".from_pretrained(" in (text := p.read_text()) and opening.search(text)]
    assert not found, "open it by cac_align.pipelines.open_pipeline"
