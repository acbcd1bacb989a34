"""A diffusers pipeline from its folder or hub id, whole: every weight of every part comes from the files.

``from_pretrained`` fills what the checkpoint of a part lacks with random numbers, or leaves it without any, and says
so in a warning; videos drawn with that look like those of a bad generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


class Pipeline(Protocol):
    """A diffusers video pipeline: called with its own arguments, and its output has ``frames``.

    Its parts are attributes (``transformer``, ``vae``, ``scheduler``, ``text_encoder``, ...); which of them there are,
    and what a call takes, depends on the family.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


def videos_passed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Videos in one forward pass of a denoiser, by its arguments: the rows of its latents, both sides of guidance
    counted; 1 where it is not given a batch.
    """
    given = [*args, *(kwargs[name] for name in ("hidden_states", "sample") if name in kwargs)]
    return len(given[0]) if given and hasattr(given[0], "shape") else 1


def open_pipeline(
    model: str,
    kind: type[DiffusionPipeline] | None = None,
    *,
    dtype: torch.dtype | str | Mapping[str, object] | None = None,
    revision: str | None = None,
    parts: Mapping[str, Any] | None = None,
    loaded: Callable[[str, Any], None] | None = None,
) -> Pipeline:
    """The pipeline, on the CPU. Each model in it is loaded once and handed over; nothing else changes against
    ``kind.from_pretrained``.

    Args:
        model: folder or hub id.
        kind: pipeline class; None: the one that the checkpoint names.
        dtype: a torch dtype for all parts, or one for each by name with ``"default"`` for the others; None: as
            ``from_pretrained`` chooses.
        revision: revision on the hub.
        parts: models used in place of the checkpoint's; a part that is None is left out.
        loaded: called with name and model of each part that was loaded, before the next one is.

    Raises:
        CheckpointError: if weights of a part are missing, of another shape, not finite, or cannot be read. A ValueError
            that names the part.
        OSError: if there is no such folder and no such pipeline on the hub.

    Example:
        >>> pipe = open_pipeline("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", dtype=torch.bfloat16)        # doctest: +SKIP
    """
    from diffusers import DiffusionPipeline, ModelMixin
    from diffusers.utils import logging as diffusers_logging
    from transformers import PreTrainedModel

    from reward_model.backends.checkpoint import load_weights

    kind = DiffusionPipeline if kind is None else kind
    given = dict(parts or {})
    folder = Path(model) if Path(model).is_dir() else Path(kind.download(model, revision=revision, **given))
    precisions = dtype if isinstance(dtype, Mapping) else {"default": dtype}
    said = diffusers_logging.get_verbosity()
    for name, value in kind.load_config(folder).items():
        cls = None if name in given else _class(value)
        if cls is None or not issubclass(cls, ModelMixin | PreTrainedModel):
            continue  # tokenizers and schedulers have no weights
        place = folder / name if (folder / name).is_dir() else folder  # as diffusers looks for it
        precision = precisions.get(name, precisions.get("default"))
        diffusers_logging.set_verbosity_error()  # its list of what is missing becomes one line of ours
        try:
            given[name] = load_weights(cls, str(place), called=f"{model}/{name}", dtype=precision)
        finally:
            diffusers_logging.set_verbosity(said)
        if loaded is not None:
            loaded(name, given[name])
    return kind.from_pretrained(model, revision=revision, dtype=dtype, **given)


def serving_class(index: Mapping[str, Any], images: bool) -> str:
    """Name of the pipeline class that a ``model_index.json`` is opened as. Wan 2.2 TI2V-5B serves two and names the one
    for text.

    Args:
        index: the file's content.
        images: whether videos start from a given frame.
    """
    name = str(index["_class_name"])
    both = name == "WanPipeline" and bool(index.get("expand_timesteps"))
    return "WanImageToVideoPipeline" if images and both else name


def _class(entry: object) -> type | None:
    """The class of a part as ``model_index.json`` names it, ``[library, class]``; None if it is neither diffusers'
    nor transformers': what a checkpoint names is not imported on its word."""
    import diffusers
    import transformers

    if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(isinstance(word, str) for word in entry):
        return None
    library, name = entry
    places = {"diffusers": diffusers, "transformers": transformers}
    place = places.get(library) or getattr(diffusers.pipelines, library, None)
    named = getattr(place, name, None)
    return named if inspect.isclass(named) else None
