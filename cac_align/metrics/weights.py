"""Locations of VBench's weights, and a reader that runs no code from them.

The files are those the ``vbench`` package downloads, in its own folders: one download serves both. Nothing is
downloaded here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cac_align.metrics.archives import archive_tensors, is_archive
from reward_model.folders import file_digest

if TYPE_CHECKING:
    import torch

Network = TypeVar("Network", bound="torch.nn.Module")

CACHE_VARIABLE = "VBENCH_CACHE_DIR"


class WeightsError(ValueError):
    """A weight file is missing, broken or of another model. The message names file, source and folder."""


@dataclass(frozen=True)
class WeightFile:
    """One file of the package's cache.

    Attributes:
        path: inside the cache folder.
        source: where it comes from.
        torch_hub: the package looks in torch's hub folder, not in its own cache.
        clip_home: name in ``~/.cache/clip``, where the package's CLIP keeps it unless told otherwise.
    """

    path: str
    source: str
    torch_hub: bool = False
    clip_home: bool = False

    def places(self, cache_dir: str | os.PathLike[str] | None = None) -> list[Path]:
        """Possible paths of the file, likeliest first."""
        own = cache_root(cache_dir) / self.path
        if self.torch_hub:
            return [torch_home() / "hub" / "checkpoints" / own.name, own]
        return [own, Path.home() / ".cache" / "clip" / own.name] if self.clip_home else [own]

    def find(self, cache_dir: str | os.PathLike[str] | None = None) -> Path:
        """The file.

        Raises:
            WeightsError: if it is nowhere.
        """
        places = self.places(cache_dir)
        for place in places:
            if place.is_file():
                return place
        raise WeightsError(
            f"weights {Path(self.path).name} are missing: download {self.source} and put the file at "
            f"{places[0]}" + (f" (or {places[1]})" if len(places) > 1 else "") + f"; ${CACHE_VARIABLE} moves the folder"
        )


_CLIP = "https://openaipublic.azureedge.net/clip/models"
_VBENCH = "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main"

DINO_B16 = WeightFile(
    "dino_model/dino_vitbase16_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    torch_hub=True,
)
MUSIQ_SPAQ = WeightFile(
    "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
)
RAFT_THINGS = WeightFile(
    "raft_model/models/raft-things.pth",
    "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip (unpack it)",
)
CLIP_B32 = WeightFile(
    "clip_model/ViT-B-32.pt",
    f"{_CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    clip_home=True,
)
CLIP_L14 = WeightFile(
    "clip_model/ViT-L-14.pt",
    f"{_CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    clip_home=True,
)
AESTHETIC_HEAD = WeightFile(
    "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    "https://github.com/LAION-AI/aesthetic-predictor/blob/main/sa_0_4_vit_l_14_linear.pth?raw=true",
)
AMT_S = WeightFile("amt_model/amt-s.pth", "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth")
UMT_L16 = WeightFile(
    "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth", f"{_VBENCH}/l16_ptk710_ftk710_ftk400_f16_res224.pth"
)
VICLIP = WeightFile("ViCLIP/ViClip-InternVid-10M-FLT.pth", f"{_VBENCH}/ViClip-InternVid-10M-FLT.pth")


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The package's cache: the argument, else ``$VBENCH_CACHE_DIR``, else ``~/.cache/vbench``."""
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "vbench"


def torch_home() -> Path:
    """Torch's cache, found as torch finds it, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser()


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a ``.pth`` file, or of a TorchScript archive as CLIP's are; no code of the file is run: plain
    files are read with ``weights_only=True``, archives by :func:`cac_align.metrics.archives.archive_tensors`.

    Raises:
        WeightsError: if the file is truncated, is not a weight file, or holds more than tensors.
    """
    import torch

    try:
        state: Any = (
            archive_tensors(path) if is_archive(path) else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a broken file makes an unpickler raise whatever comes its way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        size = path.stat().st_size if path.is_file() else 0
        raise WeightsError(
            f"cannot read the weights {path} ({size} bytes): {reason}. The download may have broken off: delete the "
            "file and fetch it again"
        ) from error
    for key in ("params", "state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(hasattr(v, "shape") for v in state.values()):
        raise WeightsError(f"{path} holds {type(state).__name__}, not named tensors; fetch it again from its source")
    return dict(state)


def fill_model(model: Network, state: Mapping[str, Any], path: Path) -> Network:
    """The model with exactly these weights in float32, ready to evaluate.

    Args:
        model: on the meta device, so that no weights are drawn which are then overwritten.
        state: its tensors by name; the model keeps them.
        path: where they are from, for the message.

    Raises:
        WeightsError: if names or shapes differ.
    """
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise WeightsError(
            f"{path} holds the weights of another model than {type(model).__name__}: {' '.join(lines[1:3])[:300]}"
        ) from error
    return model.float().eval().requires_grad_(False)


def entry(state: Mapping[str, Any], name: str, path: Path) -> torch.Tensor:
    """One tensor of a state.

    Raises:
        WeightsError: if the state has no tensor of this name.
    """
    if name not in state:
        raise WeightsError(f"{path} holds the weights of another model: it has no {name!r}")
    return state[name]


def weights_digest(path: Path) -> str:
    """SHA-256 of a file; read once as long as it does not change."""
    return file_digest(path)
