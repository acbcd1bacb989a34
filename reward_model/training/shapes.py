"""Configurations of published models, written down so that a plan needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, Qwen3VLConfig

#: Published size of Qwen/Qwen3-VL-8B-Instruct ("8.77B"); a test holds the configuration below to it.
QWEN3_VL_8B_PARAMETERS = 8_767_123_696
#: That of Qwen/Qwen3-VL-2B-Instruct ("2.13B"), its head tied to the embedding.
QWEN3_VL_2B_PARAMETERS = 2_127_532_032
#: Sizes that differ between the published models, by the size in their names: text, vision, tied head.
_SIZES: dict[str, tuple[dict[str, int], dict[str, Any], bool]] = {
    "2b": (
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
        True,
    ),
    "8b": (
        {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
        False,
    ),
}


def qwen3_vl_config(size: str = "8b") -> Qwen3VLConfig:
    """The configuration of a published Qwen3-VL, written down here so that planning needs no download.

    Args:
        size: ``"2b"`` or ``"8b"``.
    """
    from transformers import Qwen3VLConfig

    own_text, own_vision, tied = _SIZES[size]
    text = {
        "vocab_size": 151_936,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": tied,
        **own_text,
    }
    vision = {
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": own_text["hidden_size"],
        "num_position_embeddings": 2304,
        **own_vision,
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def qwen3_vl_8b_config() -> Qwen3VLConfig:
    """The configuration of Qwen3-VL-8B."""
    return qwen3_vl_config("8b")


def model_config(model: str) -> PretrainedConfig:
    """The transformers configuration behind a model name, without network.

    Raises:
        ValueError: neither a published model whose configuration is known nor a local folder.
    """
    if Path(model).is_dir():
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(model)
    for size in _SIZES:
        if f"qwen3-vl-{size}" in model.lower():
            return qwen3_vl_config(size)
    raise ValueError(f"cannot plan {model!r} offline; give a local folder, or Qwen/Qwen3-VL-2B or 8B-Instruct")
