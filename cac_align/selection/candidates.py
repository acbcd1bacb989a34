"""Draws candidates from a diffusers video pipeline, each a function of its seed alone.

The pipeline is used as it is. Two things make candidates cheap and independent of one another: every candidate has its
own CPU generator, and the prompt is encoded once, as a batch of one, whatever the batch size (:func:`encode_once`).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.pipelines import Pipeline
from cac_align.selection.costs import Cost, metered
from reward_model.video.layouts import split_frames

if TYPE_CHECKING:
    from PIL.Image import Image

#: Arguments of a pipeline call that belong to best-of-n, and what to do instead.
RESERVED = {
    "prompt": "pass it as the second argument",
    "prompt_embeds": "pass the text; it is encoded once",
    "negative_prompt_embeds": "pass negative_prompt=...; it is encoded once",
    "generator": "pass seed=...; every candidate gets its own generator",
    "latents": "pass seed=...; equal latents would make equal candidates",
    "num_videos_per_prompt": "pass n=... and batch_size=...",
    "output_type": "frames are always taken as arrays",
    "return_dict": "the output is read for you",
}


def open_first_frame(path: str | Path, setting: str) -> Image:
    """A photo as it is meant to be seen, RGB: turned as its EXIF orientation says.

    Args:
        path: path of a picture.
        setting: who names it, for the message.

    Raises:
        ValueError: if it cannot be read as a picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"{setting} {str(path)!r} cannot be read as a picture: {error}; save it as PNG or JPEG"
        ) from error


def upright(pipe_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with every photo turned as its EXIF orientation says, which viewers and
    ``diffusers.utils.load_image`` do."""
    from PIL import Image, ImageOps

    def turned(value: object) -> object:
        if isinstance(value, Image.Image):
            return ImageOps.exif_transpose(value)
        return [turned(v) for v in value] if isinstance(value, list) else value

    return {name: turned(value) for name, value in pipe_kwargs.items()}


def fitting_size(pipe: Pipeline, image: Image) -> tuple[int, int] | None:
    """Height and width of a video in the shape of its first frame, with as many pixels as the pipeline's default; None
    where the pipeline has none.

    Args:
        pipe: a diffusers pipeline.
        image: a PIL image.
    """
    parameters = inspect.signature(pipe.__call__).parameters
    default = [getattr(parameters.get(name), "default", None) for name in ("height", "width")]
    if not all(isinstance(v, int) for v in default):
        return None
    patch = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "patch_size", (1, 2, 2))
    step = getattr(pipe, "vae_scale_factor_spatial", 8) * (patch[-1] if isinstance(patch, tuple | list) else patch)
    area, shape = default[0] * default[1], image.height / image.width  # type: ignore[operator]
    height, width = (max(round((area * s) ** 0.5 / step), 1) * step for s in (shape, 1 / shape))
    return height, width


def stretched(pipe: Pipeline, pipe_kwargs: Mapping[str, Any]) -> tuple[float, int, int] | None:
    """Factor by which a first frame would be stretched by a video of another shape, and that video's height and width;
    None if their aspect ratios differ by a twentieth at most, or are not known.
    """
    image: Any = pipe_kwargs.get("image")
    if not hasattr(image, "height") or not hasattr(image, "width"):
        return None
    parameters = inspect.signature(pipe.__call__).parameters
    height, width = (
        pipe_kwargs.get(name) or getattr(parameters.get(name), "default", None) for name in ("height", "width")
    )
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    ratio = (image.width / image.height) / (width / height)
    return None if abs(ratio - 1) <= 0.05 else (max(ratio, 1 / ratio), height, width)


def warn_of_stretching(pipe: Pipeline, pipe_kwargs: Mapping[str, Any]) -> None:
    """Warns where a first frame would be squeezed into a video of another shape."""
    misfit = stretched(pipe, pipe_kwargs)
    if misfit is None:
        return
    image, (times, height, width), fits = pipe_kwargs["image"], misfit, fitting_size(pipe, pipe_kwargs["image"])
    remedy = f"Pass height={fits[0]}, width={fits[1]}, or crop the picture" if fits else "Crop the picture"
    warnings.warn(
        f"the first frame is {image.width}x{image.height}, the video {width}x{height}: another aspect ratio, so the "
        f"picture is stretched {times:.1f} times. {remedy}",
        stacklevel=3,
    )


def check_whole(pipe: Pipeline) -> None:
    """Raises ValueError where weights of a part of the pipeline were not in its files: diffusers leaves them without
    values, which shows in the middle of a run.
    """
    for name, part in (getattr(pipe, "components", None) or {}).items():
        weights = part.named_parameters() if hasattr(part, "named_parameters") else ()
        hollow = [k for k, p in weights if p.device.type == "meta"]
        if hollow and not offloads(pipe):
            raise ValueError(
                f"{len(hollow)} weights of the pipeline's {name} ({hollow[0]}, ...) were not in its files: the "
                "download is incomplete, or the files belong to another model; fetch them again"
            )


def offloads(pipe: Pipeline) -> bool:
    """True for a pipeline that moves its parts to the CPU while they rest, because memory is short."""
    return bool(getattr(pipe, "_all_hooks", None)) or any(
        hasattr(part, "_hf_hook") for part in (getattr(pipe, "components", None) or {}).values()
    )


class VideoFrames(np.ndarray):
    """(T, H, W, 3) uint8, of which a single frame is a PIL image; slices and everything else are as of any array."""

    def __getitem__(self, key: Any) -> Any:
        picked = super().__getitem__(key)
        if isinstance(key, int | np.integer) and self.ndim == 4 and self.dtype == np.uint8:
            from PIL import Image

            return Image.fromarray(np.asarray(picked))
        return picked if isinstance(picked, np.generic) else np.asarray(picked)

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __array_wrap__(self, array: np.ndarray, context: object = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain


def candidate_seed(seed: int, index: int) -> int:
    """The 32-bit seed of candidate ``index``: well mixed, so that neighbouring seeds share no candidate.

    ``torch.Generator().manual_seed(candidate_seed(seed, k))`` alone reproduces candidate k.
    """
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def generate(pipe: Pipeline, prompt: str, seeds: Sequence[int], pipe_kwargs: dict[str, Any]) -> list[np.ndarray]:
    """One video per seed, in one call of the pipeline.

    Args:
        pipe: a diffusers pipeline whose output has ``frames``.
        prompt: one text; dropped for a pipeline that takes none (Stable Video Diffusion).
        seeds: 32-bit seeds, see :func:`candidate_seed`.
        pipe_kwargs: everything else of the call.

    Returns:
        (T, H, W, 3) uint8 per seed.

    Raises:
        ValueError: if the output has no frames, or another number of videos than asked for.
    """
    import torch

    parameters = inspect.signature(pipe.__call__).parameters
    takes_prompt = "prompt" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_prompt and len(seeds) > 1:
        return [video for seed in seeds for video in generate(pipe, prompt, [seed], pipe_kwargs)]
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    single = len(seeds) == 1
    text = {"prompt": prompt if single else [prompt] * len(seeds)} if takes_prompt else {}
    output = pipe(**text, **pipe_kwargs, generator=generators[0] if single else generators, output_type="np")
    return split_frames(output, len(seeds))


def generate_costed(
    pipe: Pipeline, prompt: str, seeds: Sequence[int], pipe_kwargs: dict[str, Any], batch_size: int
) -> Iterator[tuple[np.ndarray, Cost]]:
    """The videos of :func:`generate` one after the other, drawn ``batch_size`` in a call, each with what it cost."""
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        with metered(pipe) as meter:
            videos = generate(pipe, prompt, batch, pipe_kwargs)
        cost = meter.cost(len(batch))
        yield from ((video, cost) for video in videos)


@contextmanager
def encode_once(pipe: Pipeline) -> Iterator[None]:
    """While active, the pipeline encodes each distinct prompt once, as a batch of one, and repeats the result over the
    batch.

    The pipeline keeps calling its own ``encode_prompt`` with its own arguments (sequence length, device, masks, pooled
    vectors: they differ between families), so nothing about it has to be known here. Encoding one row also makes the
    embeddings of a candidate independent of the batch it is drawn in. A pipeline without ``encode_prompt`` is left
    alone.
    """
    original = getattr(pipe, "encode_prompt", None)
    if original is None:
        yield
        return
    signature = inspect.signature(original)
    memory: dict[str, Any] = {}

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        rows, reduced = _one_row(bound)
        if rows is None:
            return original(*args, **kwargs)
        # A text and a list of one text encode alike; pipelines differ in which of them they pass on.
        key = repr(sorted((k, v[0] if isinstance(v, list) else v) for k, v in reduced.items()))
        if key not in memory:
            memory[key] = original(**reduced)
        return _repeat(memory[key], rows)

    own = vars(pipe).get("encode_prompt")
    pipe.encode_prompt = encode_prompt
    try:
        yield
    finally:
        if own is None:
            del pipe.encode_prompt
        else:
            pipe.encode_prompt = own


def _one_row(arguments: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """The number of rows asked for, and the arguments for one of them; no number where the rows differ or hold
    tensors."""
    prompts = arguments.get("prompt")
    rows = len(prompts) if isinstance(prompts, list) else 1
    reduced = {}
    for name, value in arguments.items():
        alike = isinstance(value, list) and len(value) == rows and len(set(map(repr, value))) == 1
        if hasattr(value, "detach") or (isinstance(value, list) and not alike):
            return None, arguments
        reduced[name] = value[:1] if alike else value
    return (rows, reduced) if prompts and arguments.get("num_videos_per_prompt", 1) == 1 else (None, arguments)


def _repeat(encoded: Any, rows: int) -> Any:
    """Every tensor of an encoder's answer with its single row repeated."""
    if isinstance(encoded, tuple | list):
        return type(encoded)(_repeat(item, rows) for item in encoded)
    if hasattr(encoded, "detach") and encoded.ndim and encoded.shape[0] == 1 and rows > 1:
        return encoded.repeat(rows, *[1] * (encoded.ndim - 1))
    return encoded
