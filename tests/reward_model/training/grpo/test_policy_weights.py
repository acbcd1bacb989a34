"""The weights an engine is given: whole, merged, named as in a checkpoint, and the policy untouched."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from reward_model.minis.model import build_judge
from reward_model.training.grpo.policy_weights import policy_weights
from reward_model.training.lora import lora_config


def with_adapter():
    torch.manual_seed(3)
    model = get_peft_model(build_judge("tiny")[0], lora_config(r=4, alpha=6, dropout=0.0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_names_and_values_are_those_of_the_saved_judge(tmp_path):
    model = build_judge("tiny")[0]
    model.save_pretrained(tmp_path)
    saved, found = load_file(tmp_path / "model.safetensors"), dict(policy_weights(model))
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[k], saved[k]) for k in saved)


def test_an_adapter_is_added_and_the_policy_stays(tmp_path):
    model = with_adapter()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = {k: v.clone() for k, v in policy_weights(model)}
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    model.merge_and_unload().save_pretrained(tmp_path)
    merged = load_file(tmp_path / "model.safetensors")
    base = build_judge("tiny")[0].state_dict()
    assert found.keys() == merged.keys()
    assert max(float((found[k] - merged[k]).abs().max()) for k in merged) < 1e-6
    assert sum(not torch.equal(found[k], base[k]) for k in merged) > 10


def test_two_adapters_at_once_are_refused():
    model = with_adapter()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match="one LoRA"):
        dict(policy_weights(model))
