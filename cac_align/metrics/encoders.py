"""The image encoders of VBench, built by timm from the original files: DINO ViT-B/16 and CLIP's vision towers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.metrics.weights import WeightsError, entry, fill_model, read_tensors

if TYPE_CHECKING:
    import torch

#: Width of one attention head, in all of them.
HEAD_WIDTH = 64


class DinoEncoder:
    """DINO's class token after the last norm. Width and depth are read from the file, so that the ViT-S weights, or
    smaller ones, work too.

    Args:
        path: ``dino_vitbase16_pretrain.pth``.
        device: where it runs.

    Raises:
        WeightsError: if the file is broken or holds another model.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        state = read_tensors(path)
        width, _, self.patch, _ = entry(state, "patch_embed.proj.weight", path).shape
        self.grid = math.isqrt(entry(state, "pos_embed", path).shape[1] - 1)
        self.model = _vit(
            "vit_base_patch16_224",
            embed_dim=width,
            depth=_depth(state, "blocks."),
            num_heads=max(1, width // HEAD_WIDTH),
            img_size=self.grid * self.patch,
            patch_size=self.patch,
            num_classes=0,
        )
        fill_model(self.model, state, path).to(device)
        self.model.patch_embed.strict_img_size = False

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised pixels of any size -> (B, width)."""
        import torch

        rows, columns = (side // self.patch for side in pixels.shape[-2:])
        # The patch convolution leaves out what does not fill a patch; timm wants it cut off before.
        pixels = pixels[..., : rows * self.patch, : columns * self.patch]
        with torch.inference_mode():
            return torch.func.functional_call(self.model, {"pos_embed": self._positions(rows, columns)}, (pixels,))

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """DINO's position table for a grid: bicubic with a tenth of a patch added to the target, which shifts the
        samples a little (timm's and transformers' own interpolation differs by 1e-2 in the features).
        """
        import torch
        from torch.nn import functional

        table = self.model.pos_embed
        if rows == columns == self.grid:
            return table
        square = table[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        factor = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
        wide = functional.interpolate(square, scale_factor=factor, mode="bicubic")
        return torch.cat([table[:, :1], wide.flatten(2).transpose(1, 2)], dim=1)


class ClipEncoder:
    """CLIP's projected image embedding, in fp32. All sizes are read from the file, as openai-clip does.

    The package runs CLIP in half precision on a GPU and in fp32 on a CPU; this is the latter everywhere.

    Args:
        path: ``ViT-B-32.pt`` or ``ViT-L-14.pt``, a TorchScript archive or a plain state.
        device: where it runs.

    Raises:
        WeightsError: if the file is broken or holds another model.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        from timm.models.vision_transformer import checkpoint_filter_fn

        state = {k: v.float() for k, v in read_tensors(path).items() if k.startswith("visual.")}
        width, _, patch, _ = entry(state, "visual.conv1.weight", path).shape
        grid = math.isqrt(entry(state, "visual.positional_embedding", path).shape[0] - 1)
        self.width = entry(state, "visual.proj", path).shape[1]
        self.model = _vit(
            "vit_base_patch32_clip_quickgelu_224",
            embed_dim=width,
            depth=_depth(state, "visual.transformer.resblocks."),
            num_heads=max(1, width // HEAD_WIDTH),
            img_size=grid * patch,
            patch_size=patch,
            num_classes=self.width,
        )
        fill_model(self.model, checkpoint_filter_fn(state, self.model), path).to(device)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, 224, 224) normalised pixels -> (B, width)."""
        import torch

        with torch.inference_mode():
            return self.model(pixels)


def aesthetic_head(path: Path, device: torch.device | str = "cpu") -> torch.nn.Linear:
    """LAION's linear head, from a normalised CLIP ViT-L/14 embedding to a rating of about 0 to 10."""
    import torch

    state = read_tensors(path)
    with torch.device("meta"):
        head = torch.nn.Linear(entry(state, "weight", path).shape[1], 1)
    return fill_model(head, state, path).to(device)


def _depth(state: dict[str, Any], prefix: str) -> int:
    blocks = {k.removeprefix(prefix).partition(".")[0] for k in state if k.startswith(prefix)}
    if not blocks:
        raise WeightsError(f"the weights have no {prefix}*; they belong to another model")
    return len(blocks)


def _vit(name: str, **sizes: Any) -> Any:
    """A vision transformer whose parameters are on the meta device."""
    from accelerate import init_empty_weights

    try:
        import timm
    except ImportError as error:
        raise ImportError("this dimension needs timm: pip install 'cac-align[vbench]'") from error
    with init_empty_weights():  # torch.device("meta") would move what older timm computes on the way, too
        return timm.create_model(name, pretrained=False, **sizes)
