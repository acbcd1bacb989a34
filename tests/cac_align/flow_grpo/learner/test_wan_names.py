"""Names of Wan's modules: against the modules of the original code, and against diffusers' own conversion of whole
checkpoints.
"""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from cac_align.flow_grpo.learner.wan_names import diffusers_name, original_name
from tests.cac_align.flow_grpo.test_image_to_video import image_pipe

#: Linear modules of WanModel in Wan-Video/Wan2.1, wan/modules/model.py, as they are named there; i2v with one block.
ORIGINAL_MODULES = [
    *("text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2", "time_projection.1"),
    *("blocks.0.self_attn.q", "blocks.0.self_attn.k", "blocks.0.self_attn.v", "blocks.0.self_attn.o"),
    *("blocks.0.cross_attn.q", "blocks.0.cross_attn.k", "blocks.0.cross_attn.v", "blocks.0.cross_attn.o"),
    *("blocks.0.cross_attn.k_img", "blocks.0.cross_attn.v_img", "blocks.0.ffn.0", "blocks.0.ffn.2"),
    *("img_emb.proj.1", "img_emb.proj.3", "head.head"),
]


def by_diffusers(module):
    """The name that diffusers' conversion of a whole checkpoint gives."""
    converted = convert_wan_transformer_to_diffusers({f"{module}.weight": torch.zeros(1)})
    return next(iter(converted)).removesuffix(".weight")


@pytest.mark.parametrize("module", ORIGINAL_MODULES)
def test_names_are_those_of_diffusers_own_conversion(module):
    assert diffusers_name(module) == by_diffusers(module)
    assert original_name(by_diffusers(module)) == module
    assert original_name(module) == module and diffusers_name(by_diffusers(module)) == by_diffusers(module)
    for flat in (module.replace(".", "_"), by_diffusers(module).replace(".", "_")):
        assert diffusers_name(flat) == by_diffusers(module) and original_name(flat) == module


def test_every_linear_module_of_the_transformer_has_an_original_name():
    """So whatever lora_targets names can be exported."""
    transformer = image_pipe().transformer
    linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(map(original_name, linear)) == sorted(ORIGINAL_MODULES)


def test_the_number_of_a_block_is_kept():
    assert diffusers_name("blocks_39_self_attn_o") == "blocks.39.attn1.to_out.0"
    assert original_name("blocks.39.attn2.add_v_proj") == "blocks.39.cross_attn.v_img"


@pytest.mark.parametrize("name", ["blocks.0.norm3", "double_blocks.0.img_attn.qkv", "blocks.x.ffn.0", "ffn.0", ""])
def test_modules_of_other_models_are_refused(name):
    for translate in (diffusers_name, original_name):
        with pytest.raises(ValueError, match="is not a linear module of Wan's transformer; its modules have names"):
            translate(name)
