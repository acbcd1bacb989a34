"""LoRAs in the original names: read back by diffusers' own conversion, and by a plain reader of the original model."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cac_align.cli import main
from cac_align.flow_grpo.learner.lora_convert import convert_lora
from cac_align.flow_grpo.learner.lora_files import COMFYUI_WEIGHTS, WEIGHTS, load_lora
from tests.cac_align.flow_grpo.learner.adapters import ALPHA, RANK, TARGETS, WRITERS, answer, close, export_trained
from tests.cac_align.flow_grpo.learner.test_wan_names import ORIGINAL_MODULES
from tests.cac_align.flow_grpo.runs import tiny_pipe
from tests.cac_align.flow_grpo.test_image_to_video import image_pipe
from tests.campaigns import slow_but

EVERYTHING = (*TARGETS, "add_k_proj", "add_v_proj", "net.0.proj", "net.2", "proj_out")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return export_trained(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def trained_i2v(tmp_path_factory):
    return export_trained(tmp_path_factory.mktemp("i2v"), image_pipe(), EVERYTHING)


@pytest.mark.parametrize("kind", slow_but(["trained", "trained_i2v"]))
def test_diffusers_reads_the_original_names_as_it_reads_its_own(kind, request):
    """Bit for bit; and the folder still means the file by diffusers' names."""
    _, folder, expected = request.getfixturevalue(kind)
    make = tiny_pipe if kind == "trained" else image_pipe
    answers = []
    for source in (folder / COMFYUI_WEIGHTS, folder / WEIGHTS, folder):
        pipe = make()
        pipe.load_lora_weights(source)
        answers.append(answer(pipe))
        assert close(pipe, expected)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[1], answers[2])


def original_checkpoint(transformer):
    """The transformer's weights by the original names: diffusers' conversion, looked up backwards."""
    ours = transformer.state_dict()
    norms = ("norm3", "self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k")
    inside = [f"blocks.0.{name}" for name in (*norms, "cross_attn.norm_k_img")]
    modules = [*ORIGINAL_MODULES, *inside, "patch_embedding", "img_emb.proj.0", "img_emb.proj.4"]
    names = [f"{module}.{part}" for module in modules for part in ("weight", "bias")]
    names += ["head.modulation", "blocks.0.modulation"]
    found = {name: next(iter(convert_wan_transformer_to_diffusers({name: torch.zeros(1)}))) for name in names}
    checkpoint = {name: ours[target] for name, target in found.items() if target in ours}
    assert len(checkpoint) == len(ours)
    return checkpoint


def test_a_reader_without_metadata_applies_the_right_strength(trained_i2v):
    """ComfyUI's rule: what is called ``<module of the model>.lora_A/B.weight`` adds B A to it, scaled by alpha over
    rank where there is an alpha, else by 1. Every entry finds its module, and the answers are those of the training.
    """
    _, folder, expected = trained_i2v
    with safe_open(folder / COMFYUI_WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    lora = load_file(folder / COMFYUI_WEIGHTS)
    transformer = image_pipe().transformer
    checkpoint = {f"diffusion_model.{k}": v for k, v in original_checkpoint(transformer).items()}
    used = set()
    for key in [k for k in checkpoint if k.endswith(".weight")]:
        names = [key.replace(".weight", ending) for ending in (".lora_A.weight", ".lora_B.weight", ".alpha")]
        if names[0] in lora:
            used |= {name for name in names if name in lora}
            scale = lora[names[2]].item() / lora[names[0]].shape[0] if names[2] in lora else 1.0
            checkpoint[key] = checkpoint[key] + scale * lora[names[1]] @ lora[names[0]]
    assert used == set(lora), "lora key not loaded"
    plain = {k.removeprefix("diffusion_model."): v for k, v in checkpoint.items()}
    patched = WanTransformer3DModel.from_config(transformer.config)
    patched.load_state_dict(convert_wan_transformer_to_diffusers(plain))
    pipe = image_pipe()
    pipe.transformer = patched.eval()
    assert close(pipe, expected)


@pytest.mark.parametrize(
    ("write", "names"),
    slow_but(
        [(write, names) for write in WRITERS for names in ("comfyui", "diffusers")],
        *[(write, ("comfyui", "diffusers")[k % 2]) for k, write in enumerate(WRITERS)],
    ),
)
def test_every_form_is_converted_to_both(trained, tmp_path, write, names):
    state, folder, expected = trained
    write(state, tmp_path / "lora.safetensors")
    output = tmp_path / "out" / "converted.safetensors"
    made = convert_lora(tmp_path, output, names)
    assert (made.num_modules, made.ranks) == (len(state) // 2, (RANK,))
    pipe = tiny_pipe()
    pipe.load_lora_weights(output)
    assert close(pipe, expected)
    same = load_file(folder / (COMFYUI_WEIGHTS if names == "comfyui" else WEIGHTS))
    found = load_file(output)
    assert found.keys() == same.keys() and all(torch.equal(found[k], same[k]) for k in same)


def test_there_and_back_is_the_same_file(trained_i2v, tmp_path):
    _, folder, _ = trained_i2v
    convert_lora(folder / COMFYUI_WEIGHTS, tmp_path / "a.safetensors", "diffusers")
    convert_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "comfyui")
    assert (tmp_path / "b.safetensors").read_bytes() == (folder / COMFYUI_WEIGHTS).read_bytes()


def one_module(path, extra=None, metadata=None):
    module = "transformer.blocks.0.attn1.to_q"
    tensors = {f"{module}.lora_A.weight": torch.ones(RANK, 24), f"{module}.lora_B.weight": torch.ones(24, RANK)}
    save_file({**tensors, **(extra or {})}, path, metadata)
    return path


def test_a_bias_is_scaled_by_alpha_once_and_an_added_one_never(tmp_path):
    bias = {"transformer.blocks.0.attn1.to_q.lora_B.bias": torch.ones(24)}
    told = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": ALPHA})}
    source = one_module(tmp_path / "a.safetensors", bias, told)
    convert_lora(source, tmp_path / "comfyui.safetensors", "comfyui")
    made = load_file(tmp_path / "comfyui.safetensors")
    assert set(made["diffusion_model.blocks.0.self_attn.q.diff_b"].tolist()) == {ALPHA / RANK}
    made["diffusion_model.blocks.0.self_attn.q.alpha"] = torch.tensor(2.0 * RANK)
    save_file(made, tmp_path / "scaled.safetensors")
    convert_lora(tmp_path / "scaled.safetensors", tmp_path / "diffusers.safetensors", "diffusers")
    made = load_file(tmp_path / "diffusers.safetensors")
    assert set(made["transformer.blocks.0.attn1.to_q.lora_B.bias"].tolist()) == {ALPHA / RANK}
    assert set(made["transformer.blocks.0.attn1.to_q.lora_B.weight"].flatten().tolist()) == {2.0 * ALPHA / RANK}


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(
    ("told", "scale"),
    [
        ({"r": RANK, "lora_alpha": 2, "alpha_pattern": {"^blocks.0.attn1.to_q": ALPHA}}, ALPHA / RANK),
        ({"r": RANK, "lora_alpha": 2, "alpha_pattern": {"to_q": ALPHA}, "use_rslora": True}, ALPHA / RANK**0.5),
        ({"r": RANK, "lora_alpha": ALPHA}, ALPHA / RANK),
    ],
)
def test_alphas_of_single_modules_are_found_as_peft_finds_them(tmp_path, told, scale, convert):
    """diffusers hands the same metadata to PEFT, which says by what it scales."""
    told = {f"transformer.{k}": v for k, v in {**told, "target_modules": ["to_q"]}.items()}
    source = one_module(tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": json.dumps(told)})
    reference, pipe = tiny_pipe(), tiny_pipe()
    reference.load_lora_weights(source)
    if convert:
        source = convert_lora(source, tmp_path / "b.safetensors", "comfyui").path
    load_lora(pipe, source)
    adapted = [p.transformer.blocks[0].attn1.to_q for p in (reference, pipe)]
    strengths = [a.scaling["default_0"] * a.lora_B["default_0"].weight.detach()[0, 0].item() for a in adapted]
    assert strengths == pytest.approx([scale, scale])


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"transformer.blocks.0.attn1.to_q.dora_scale": torch.ones(1)}, "dora_scale' is DoRA, which has no place"),
        ({"lora_unet_blocks_0_ffn_0.lokr_w1": torch.ones(1)}, "lokr_w1' is LoKr, which has no place in a LoRA"),
        ({"diffusion_model.blocks.0.norm3.diff": torch.ones(1)}, "norm3.diff' is a change of whole weights"),
        ({"diffusion_model.blocks.0.ffn.0.diff_b": torch.ones(1)}, "bias of blocks.0.ffn.net.0.proj stands without"),
        ({"lora_te_encoder.lora_A.weight": torch.ones(1)}, "'lora_te_encoder' is not a linear module of Wan's"),
        ({"something": torch.ones(1)}, "'something' is not a name that LoRA files have"),
        ({"blocks.0.self_attn.q.lora_A.weight": torch.ones(1)}, "names the same weight as another entry"),
        ({"blocks.0.ffn.0.lora_up.weight": torch.ones(1)}, "lacks transformer.blocks.0.ffn.net.0.proj.lora_A.weight"),
    ],
)
def test_what_cannot_be_converted_is_named_and_nothing_is_written(tmp_path, extra, said, capsys):
    source = one_module(tmp_path / "a.safetensors", extra)
    argv = ["lora", "convert", str(source), "--to", "comfyui", "--output", str(tmp_path / "b.safetensors")]
    assert main(argv) == 2
    line = capsys.readouterr().err.strip()
    assert said in line and "\n" not in line and str(source) in line
    assert not (tmp_path / "b.safetensors").exists()


def test_zeros_for_what_was_not_trained_are_left_out(tmp_path):
    source = one_module(tmp_path / "a.safetensors", {"diffusion_model.blocks.0.norm3.diff": torch.zeros(24)})
    assert convert_lora(source, tmp_path / "b.safetensors", "comfyui").num_modules == 1


def test_from_a_shell(trained, tmp_path, capsys):
    _, folder, _ = trained
    output = tmp_path / "for-comfyui.safetensors"
    assert main(["lora", "convert", str(folder), "--to", "comfyui", "--output", str(output)]) == 0
    assert f"for-comfyui.safetensors: 16 modules of rank {RANK}, alpha multiplied in" in capsys.readouterr().out
    assert output.read_bytes() == (folder / COMFYUI_WEIGHTS).read_bytes()
    for source, target, said in (
        (tmp_path / "none", output, "no LoRA at"),
        (folder, tmp_path / "lora.bin", "must end with .safetensors"),
        (output, output, "is the source itself; name another file"),
    ):
        assert main(["lora", "convert", str(source), "--to", "diffusers", "--output", str(target)]) == 2
        assert said in capsys.readouterr().err
