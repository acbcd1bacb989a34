"""Frozen blocks that are lent copies: the same numbers, and one block's copies at a time."""

import weakref

import pytest

from cac_align.flow_grpo.learner import offload
from tests.cac_align.flow_grpo.runs import build, equal, tiny_pipe, weights
from tests.campaigns import slow_but

RUN = {"objective": "rvm", "kernel": "ode", "noise_level": None, "guidance_scale": 1.0, "batch": "1x2"}
RUN |= {"num_inference_steps": 2, "max_steps": 1, "rvm_num_sigmas": 1, "sample_batch_size": 2}
RUN |= {"gradient_checkpointing": True}


@pytest.mark.parametrize("precision", slow_but([None, "int8"], "int8"))
def test_offloaded_blocks_train_as_others_do(tmp_path, monkeypatch, precision):
    if precision is not None:
        pytest.importorskip("torchao")
    lent, most = weakref.WeakSet(), 0
    plain = offload.device_copy

    def watched(parameter, device):
        nonlocal most
        copy = plain(parameter, device)
        assert copy.data_ptr() != parameter.data_ptr() or precision == "int8"  # torchao's wrapper has no address
        lent.add(copy)
        most = max(most, len(lent))
        return copy

    monkeypatch.setattr(offload, "device_copy", watched)
    found = build(tmp_path / "a", pipe=tiny_pipe(), base_precision=precision, offload_blocks=True, **RUN)
    per_block = len(list(found.transformer.blocks[0].parameters())) - len(
        [n for n, _ in found.transformer.blocks[0].named_parameters() if "lora_" in n]
    )
    found.train()
    assert most == per_block, "copies of one block at a time, in the backward pass too"
    assert not lent, "none is left"
    wanted = build(tmp_path / "b", pipe=tiny_pipe(), base_precision=precision, **RUN)
    start = weights(wanted)
    wanted.train()
    assert equal(weights(found), weights(wanted)) and not equal(weights(found), start)
