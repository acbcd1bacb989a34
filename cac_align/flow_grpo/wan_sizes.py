"""Wan 2.1's published sizes, written down here so that planning needs no download."""

from __future__ import annotations

from typing import Any

#: Wan-AI/Wan2.1-T2V-1.3B-Diffusers as published (the VAE is diffusers' default; the text encoder is UMT5-XXL).
FULL: dict[str, dict[str, Any]] = {
    "vae": {},
    "transformer": {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "num_layers": 30,
        "ffn_dim": 8960,
        "text_dim": 4096,
        "freq_dim": 256,
        "in_channels": 16,
        "out_channels": 16,
        "rope_max_seq_len": 1024,
    },
    "text_encoder": {
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "vocab_size": 256384,
    },
    "scheduler": {"flow_shift": 3.0},
}
