"""Published sizes of Wan 2.1 and 2.2, written down here so that planning needs no download."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class WanLayout:
    """The parts of a Wan pipeline that a plan asks for.

    Attributes:
        transformer: configuration of each transformer.
        boundary_ratio: share of the timesteps below which a second transformer of the same size takes over; None: one.
        spatial_factor: pixels per latent cell in each direction.
        expand_timesteps: a timestep for every token.
        flow_shift: shift of the published scheduler; None where it is not known here.
    """

    transformer: dict[str, Any]
    boundary_ratio: float | None = None
    spatial_factor: int = 8
    expand_timesteps: bool = False
    flow_shift: float | None = None

    @property
    def num_experts(self) -> int:
        return 1 if self.boundary_ratio is None else 2


#: Wan 2.1's large model, and each expert of Wan 2.2 A14B.
_14B = {**FULL["transformer"], "num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
_5B = {"num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
#: By a part of the hub id. Wan 2.2's numbers are those of its public code (wan/configs). The shifts that code serves
#: with (12 for A14B text-to-video) need not be those of a checkpoint's scheduler, so none is assumed.
PUBLISHED: dict[str, WanLayout] = {
    "Wan2.1-T2V-1.3B": WanLayout(FULL["transformer"], flow_shift=3.0),
    "Wan2.1-T2V-14B": WanLayout(_14B),
    "Wan2.2-T2V-A14B": WanLayout(_14B, boundary_ratio=0.875),
    "Wan2.2-I2V-A14B": WanLayout({**_14B, "in_channels": 36}, boundary_ratio=0.9),
    "Wan2.2-TI2V-5B": WanLayout({**FULL["transformer"], **_5B}, spatial_factor=16, expand_timesteps=True),
}


def forward_flop(transformer: dict[str, Any], parameters: int, tokens: int) -> float:
    """Operations of one forward of one video, reckoned: two per parameter and token, and self-attention's four per pair
    of tokens, width and layer.

    Args:
        transformer: its configuration.
        parameters: how many it has.
        tokens: of one video.
    """
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    return 2.0 * parameters * tokens + 4.0 * tokens**2 * width * transformer["num_layers"]
