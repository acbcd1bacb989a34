"""MUSIQ (Ke et al., ICCV 2021, arXiv 2108.05997), the image quality network behind VBench's imaging quality.

Written from the paper and the Apache-2.0 JAX code of its authors. Where the torch weights of VBench differ from the
latter (the two smaller scales are resized bicubically, without antialiasing), this follows the weights.

Each image is seen at three scales: long side 224, long side 384 and as it is. A scale is cut into patches of 32 x 32,
a small convolutional stem makes a token of each, a hash of its place on a 10 x 10 grid and its scale are added, and a
transformer reads the tokens of all scales together. The padding tokens of batched implementations are masked out of
the attention there and simply absent here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from cac_align.metrics.weights import entry, fill_model, read_tensors

PATCH, GRID, HEADS = 32, 10, 6
LONG_SIDES = (224, 384)


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and standard deviation 1, padded as TensorFlow's SAME."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return functional.conv2d(
            same(x, self.kernel_size[0], self.stride[0]), (self.weight - mean) / (spread + 1e-5), None, self.stride
        )


class Bottleneck(nn.Module):
    """The stem's one residual block, 64 -> 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardisedConv(64, 64, 1), nn.GroupNorm(32, 64, eps=1e-4)
        self.conv2, self.gn2 = StandardisedConv(64, 64, 3), nn.GroupNorm(32, 64, eps=1e-4)
        self.conv3, self.gn3 = StandardisedConv(64, 256, 1), nn.GroupNorm(32, 256, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardisedConv(64, 256, 1), nn.GroupNorm(32, 256, eps=1e-4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.gn1(self.conv1(x)).relu()
        y = self.gn2(self.conv2(y)).relu()
        return (self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x))).relu()


class Attention(nn.Module):
    """Full self-attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with an exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-6), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PositionTable(nn.Module):
    """One embedding per cell of the 10 x 10 grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_emb = nn.Parameter(torch.zeros(1, GRID * GRID, width))


class ScaleTable(nn.Module):
    """One embedding per scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_emb = nn.Parameter(torch.zeros(len(LONG_SIDES) + 1, width))


class Encoder(nn.Module):
    """The transformer over the tokens of all scales; what it gives is the class token."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.posembed_input, self.scaleembed_input = PositionTable(width), ScaleTable(width)
        self.transformer = nn.ModuleDict({f"encoderblock_{k}": Block(width) for k in range(depth)})
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: torch.Tensor, places: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.posembed_input.position_emb[0, places] + self.scaleembed_input.scale_emb[scales]
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.transformer.values():
            x = block(x)
        return self.encoder_norm(x)[:, 0]


class Musiq(nn.Module):
    """Image quality, for the SPAQ weights on a scale of about 0 to 100."""

    def __init__(self, width: int = 384, depth: int = 14) -> None:
        super().__init__()
        self.conv_root, self.gn_root = StandardisedConv(3, 64, 7, stride=2), nn.GroupNorm(32, 64, eps=1e-6)
        self.block1 = Bottleneck()
        self.embedding = nn.Linear(256 * (PATCH // 4) ** 2, width)
        self.transformer_encoder = Encoder(width, depth)
        self.head = nn.Linear(width, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1], all of one size -> (B,)."""
        tokens, places, scales = [], [], []
        for scale, image in enumerate(pyramid(2 * images - 1)):
            patches, cells = cut(image)
            made = self.embed(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
            tokens.append(made)
            places.append(cells)
            scales.append(torch.full_like(cells, scale))
        encoded = self.transformer_encoder(torch.cat(tokens, 1), torch.cat(places), torch.cat(scales))
        return self.head(encoded)[:, 0]

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) -> (N, width)."""
        x = self.gn_root(self.conv_root(patches)).relu()
        x = self.block1(functional.max_pool2d(same(x, 3, 2), 3, 2))
        return self.embedding(x.permute(0, 2, 3, 1).flatten(1))


def load_musiq(path: Path, device: str | torch.device = "cpu") -> Musiq:
    """The network of a file; width and depth are read from it.

    Raises:
        WeightsError: if the file is broken or holds another model.
    """
    state = read_tensors(path)
    depth = len({k.split(".")[2] for k in state if k.startswith("transformer_encoder.transformer.")})
    with torch.device("meta"):
        model = Musiq(entry(state, "embedding.weight", path).shape[0], depth)
    return fill_model(model, state, path).to(device)


def pyramid(images: torch.Tensor) -> list[torch.Tensor]:
    """The images with long side 224, with long side 384, and as they are."""
    height, width = images.shape[-2:]
    smaller = []
    for side in LONG_SIDES:
        ratio = side / max(height, width)
        size = round(height * ratio), round(width * ratio)
        smaller.append(functional.interpolate(images, size=size, mode="bicubic", align_corners=False))
    return [*smaller, images]


def cut(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, H, W) -> patches (B, N, 3, 32, 32) row by row, and the cell (N,) of the 10 x 10 grid each falls into."""
    images = same(images, PATCH, PATCH)
    rows, columns = (side // PATCH for side in images.shape[-2:])
    patches = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    row, column = (torch.arange(n, device=images.device) * GRID // n for n in (rows, columns))
    return patches, (row[:, None] * GRID + column).flatten()


def same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Zeros around the picture so that ceil(side / stride) windows fit; an odd one goes right or below."""
    missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    (top, bottom), (left, right) = ((m // 2, m - m // 2) for m in missing)
    return functional.pad(x, (left, right, top, bottom))
