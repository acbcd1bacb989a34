"""A frozen base in 8 or 4 bits under a float32 adapter, with tiny real transformers on the CPU."""

import pytest
import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner import quantised
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.learner.quantised import block_linears, check_storage, num_weights, quantise_base, stored_as
from tests.cac_align.flow_grpo.learner.adapters import answer
from tests.cac_align.flow_grpo.runs import build, equal, settings, shallow_pipe, weights
from tests.campaigns import slow_but

PRECISIONS = ["fp8", "int8", "nf4"]
RUN = {"objective": "rvm", "kernel": "ode", "noise_level": None, "guidance_scale": 1.0, "batch": "1x4"}
RUN |= {"num_inference_steps": 2, "max_steps": 2, "save_every": 1, "rvm_num_sigmas": 1}


def package(precision):
    return pytest.importorskip(quantised.PACKAGES[precision])


@pytest.mark.parametrize("precision", slow_but(PRECISIONS))
def test_a_run_on_a_quantised_base(tmp_path, precision):
    """The adapter alone learns; the base answers when it is off; its file has the usual names; a run resumes."""
    package(precision)
    plain = shallow_pipe()
    whole = answer(plain)
    trainer = build(tmp_path / "run", base_precision=precision, **RUN)
    transformer = trainer.transformer
    assert stored_as(transformer) == precision
    base = answer(trainer.pipe)
    near = (base - whole).norm() / whole.norm()
    assert 0 < near < (0.2 if precision == "nf4" else 0.05)
    before = weights(trainer)
    trainer.train()
    assert not equal(weights(trainer), before)
    assert all(("lora_" in name) == p.requires_grad for name, p in transformer.named_parameters())
    assert all(p.grad is None for name, p in transformer.named_parameters() if "lora_" not in name)
    with adapter_off(transformer):
        assert torch.equal(answer(trainer.pipe), base)
    assert not torch.equal(answer(trainer.pipe), base)

    half = build(tmp_path / "half", base_precision=precision, **{**RUN, "max_steps": 2})
    half.run_step()
    half.save()
    again = build(tmp_path / "half", base_precision=precision, **RUN)
    again.train()
    assert equal(weights(again), weights(trainer))

    from safetensors import safe_open

    ordinary = build(tmp_path / "plain", **RUN)
    with (
        safe_open(next(trainer.export(tmp_path / "a").glob("*.safetensors")), "pt") as found,
        safe_open(next(ordinary.export(tmp_path / "b").glob("*.safetensors")), "pt") as wanted,
    ):
        assert set(found.keys()) == set(wanted.keys())
    said = [(tmp_path / folder / "README.md").read_text("utf-8") for folder in "ab"]
    assert f"were stored in {precision};" in said[0] and "were stored" not in said[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_reckoned_bytes_are_those_that_are_held(precision):
    package(precision)
    transformer = shallow_pipe().transformer
    reckoned = quantised.stored_bytes(transformer, precision, 4)
    count = sum(p.numel() for p in transformer.parameters())
    quantise_base(transformer, precision)
    assert sum(num_weights(p) for p in transformer.parameters()) == count
    held = 0
    for name in block_linears(transformer):
        weight = transformer.get_submodule(name).weight
        if precision == "nf4":
            held += weight.numel()
        else:
            parts = [getattr(weight, part) for part in weight.tensor_data_names]
            held += sum(p.numel() * p.element_size() for p in parts)
    if precision == "nf4":  # of so small a model, tables outweigh scales
        assert held == sum(a * b for a, b in block_linears(transformer).values()) / 2 < reckoned < 1.04 * held
    else:
        assert held == reckoned


def test_a_model_that_is_stored_otherwise_is_refused(tmp_path):
    package("int8")
    pipe = shallow_pipe()
    quantise_base(pipe.transformer, "int8")
    with pytest.raises(ValueError, match="base_precision=null is not how the transformer that was passed is stored"):
        build(tmp_path, pipe=pipe)
    with pytest.raises(ValueError, match=r"stored \(int8\)"):
        build(tmp_path, pipe=pipe, base_precision="fp8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_precision": "fp8", "mixed_precision": "fp16"}, "set mixed_precision: bf16"),
        ({"base_precision": "int4"}, "base_precision"),
        ({"offload_blocks": True, "base_precision": "nf4"}, "bitsandbytes holds"),
        ({"offload_blocks": True}, "set gradient_checkpointing: true"),
    ],
)
def test_settings_that_cannot_be(changes, said):
    with pytest.raises(ValueError, match=said):
        FlowGRPOConfig(**changes)


def test_a_gpu_without_fp8_is_refused(tmp_path, monkeypatch):
    """Before anything is loaded. The device's own numbers are all that is replaced."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 3090")
    with pytest.raises(ValueError, match=r"compute capability 8\.9 .* RTX 3090 has 8\.6; use int8"):
        check_storage(settings(tmp_path, base_precision="fp8"), torch.device("cuda"))
    with pytest.raises(ValueError, match="the device is 'mps'"):
        check_storage(settings(tmp_path, base_precision="nf4"), torch.device("mps"))


def test_a_missing_package_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(quantised.PACKAGES, "nf4", "no_such_package")
    with pytest.raises(ImportError, match="base_precision='nf4' needs the package no_such_package"):
        check_storage(settings(tmp_path, base_precision="nf4"), torch.device("cpu"))
