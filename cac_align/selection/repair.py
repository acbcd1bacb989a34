"""Repair of a video that is nearly right: only what the judge objects to is drawn again.

The judge's window and boxes become a mask of latent cells (:mod:`cac_align.latent_cells`). The video is encoded, noised
and denoised again by diffusers' video-to-video pipeline, made from the same components (SDEdit, arXiv 2108.01073);
after each step the cells outside the mask are put back to the known video at that step's noise, and at the end to the
known video itself, so that the new part grows into the old.

A repair is accepted if the reward rises and the kept part is what it was: the round trip through the VAE moves every
pixel a little, and the repair must not move the kept pixels further from that round trip than it moved them itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.latent_cells import LatentGrid, cell_cover, findings
from cac_align.pipelines import Pipeline
from cac_align.rewards.base import Reward, check_reward, evaluate
from cac_align.rewards.composite import CompositeReward
from cac_align.selection.costs import Cost, metered
from reward_model.video.clip import check_fps
from reward_model.video.layouts import split_frames

if TYPE_CHECKING:
    import torch

    from reward_model.schema import Verdict

#: Share of a cell that an anomaly covers at least, for the cell to be drawn again.
COVERED = 0.25
#: Seconds that are drawn again before and after what the judge names, and how far around its boxes, as a share of the
#: picture's sides. A fault has its cause in cells that the judge has no reason to name: those of the object where it
#: came from and where it goes. Chosen on the minis (docs/log.md, 2026-11-29).
MARGIN_S, MARGIN = 1.0, 0.5


@dataclass(frozen=True, repr=False)
class Repair:
    """The outcome of a repair.

    Attributes:
        accepted: whether it counts; ``reason`` says why not.
        before, after: (T, H, W, 3) uint8, the video and what became of it.
        cells: (T', H', W') bool, latent cells that were drawn again.
        score_before, score_after: rewards; None: it could not be judged.
        verdict: the judge's verdict on the video after it; None where the reward gives none.
        kept_change: mean change of the kept pixels against the VAE's round trip, in levels of 255; 0 if none is kept.
        vae_error: mean change of the same pixels by that round trip.
        cost: forward passes and seconds.
        seed: seed of the noise.
    """

    accepted: bool
    reason: str
    before: np.ndarray
    after: np.ndarray
    cells: np.ndarray
    score_before: float | None
    score_after: float | None
    verdict: Verdict | None
    kept_change: float
    vae_error: float
    cost: Cost
    seed: int

    @property
    def frames(self) -> np.ndarray:
        """The video that counts: the repaired one if it was accepted."""
        return self.after if self.accepted else self.before

    def __repr__(self) -> str:
        said = "accepted" if self.accepted else f"not accepted: {self.reason}"
        return f"Repair({said}, score {self.score_before} -> {self.score_after}, {int(self.cells.sum())} cells)"


def repair(
    pipe: Pipeline,
    video: np.ndarray,
    verdict: Verdict,
    *,
    prompt: str,
    reward: Reward | Sequence[Reward],
    fps: float = 16,
    seed: int = 0,
    strength: float = 0.8,
    margin_s: float = MARGIN_S,
    margin: float = MARGIN,
    score: float | None = None,
    **pipe_kwargs: Any,
) -> Repair:
    """Draws again what a judge objects to, and keeps the rest.

    Args:
        pipe: the Wan text-to-video pipeline that drew the video, or another of the same size; it is not modified.
        video: (T, H, W, 3) uint8, of a length and size the pipeline can draw.
        verdict: abnormal, about this very video, with anomalies or a window.
        prompt: its text.
        reward: judges the repaired video.
        fps: frames per second.
        seed: integer >= 0; seed of the noise.
        strength: share of the denoising steps that are done again, in (0, 1]; 1 draws the cells from pure noise.
        margin_s: seconds that are drawn again as well, before and after what the verdict names.
        margin: how far around its boxes cells are drawn again as well, as a share of height and width; 1: everywhere.
        score: the video's reward, where it is known; otherwise the reward is asked.
        **pipe_kwargs: as the video was drawn: ``num_inference_steps``, ``guidance_scale``, ``negative_prompt``.

    Raises:
        ValueError: if the pipeline cannot, the verdict names nothing, or an argument is out of range.

    Example:
        >>> video, verdict = out.candidates[out.best], out.verdicts[out.best]                   # doctest: +SKIP
        >>> repaired = repair(pipe, video, verdict, prompt=out.prompt, reward=reward)           # doctest: +SKIP
        >>> repaired.accepted, repaired.score_before, repaired.score_after                      # doctest: +SKIP
        (True, 0.21, 0.93)
    """
    check_repairable(pipe)
    rate = check_fps(fps)
    judge: Any = CompositeReward(reward) if isinstance(reward, list | tuple) else reward
    check_reward(judge)
    cells = repair_cells(pipe, verdict, video.shape, fps=rate, margin_s=margin_s, margin=margin)
    if score is None:
        score = evaluate(judge, [video], [prompt], fps=rate).scores[0]
    with metered(pipe) as meter:
        after, round_trip = redraw_cells(pipe, video, cells, prompt=prompt, seed=seed, strength=strength, **pipe_kwargs)
        cost = meter.cost(1)
    return accept(judge, prompt, video, after, round_trip, cells, score=score, fps=rate, cost=cost, seed=seed)


def check_repairable(pipe: Pipeline) -> None:
    """Raises ValueError for a pipeline whose videos cannot be repaired: it takes a Wan text-to-video model with one
    transformer.
    """
    parts = getattr(pipe, "components", None) or {}
    channels = getattr(getattr(parts.get("transformer"), "config", None), "in_channels", None)
    latents = getattr(getattr(parts.get("vae"), "config", None), "z_dim", None)
    wan = (
        type(parts.get("transformer")).__name__ == "WanTransformer3DModel" and "Wan" in type(parts.get("vae")).__name__
    )
    if not wan or channels != latents or parts.get("transformer_2") is not None:
        raise ValueError(
            f"repair needs a Wan text-to-video pipeline with one transformer, got {type(pipe).__name__}; choose with "
            "best_of_n alone"
        )


def repair_cells(
    pipe: Pipeline,
    verdict: Verdict,
    shape: Sequence[int],
    *,
    fps: float = 16,
    margin_s: float = MARGIN_S,
    margin: float = MARGIN,
) -> np.ndarray:
    """The latent cells that are drawn again, (T', H', W') bool: those that a verdict objects to, which are those that
    an anomaly covers by :data:`COVERED` (where it covers none so far, those it covers most), and a margin around them.

    Args:
        shape: that of the video, (T, H, W, 3).
        fps: its frames per second.
        margin_s, margin: as of :func:`repair`.

    Raises:
        ValueError: if the verdict names nothing, or is about a video of another length, or a margin is out of range.
    """
    if not 0 <= margin_s < math.inf:
        raise ValueError(f"margin_s={margin_s} must be at least 0 seconds")
    if not 0 <= margin <= 1:
        raise ValueError(f"margin={margin} must lie in [0, 1], a share of the picture's sides")
    if verdict.num_frames not in (0, shape[0]):
        raise ValueError(
            f"the verdict is about {verdict.num_frames} frames, the video has {shape[0]}; judge this video"
        )
    factors = {n: int(getattr(pipe, f"vae_scale_factor_{n}")) for n in ("temporal", "spatial")}
    grid = LatentGrid(shape[0], shape[1], shape[2], factors["temporal"], factors["spatial"])
    cells = np.zeros(grid.shape, bool)
    for anomaly in findings(verdict):
        cover = cell_cover([anomaly], grid)
        cells |= cover >= min(COVERED, cover.max()) if cover.max() > 0 else False
    if not cells.any():
        raise ValueError(
            f"a {verdict.status} verdict without anomalies or window names nothing to repair; judge with reasoning"
        )
    _, rows, columns = cells.shape
    far = round(margin_s * fps / grid.temporal_factor)
    return grown(cells, (far, math.ceil(margin * rows), math.ceil(margin * columns)))


def grown(cells: np.ndarray, reach: tuple[int, int, int]) -> np.ndarray:
    """Cells and those within so many cells of one in time, height and width, (T', H', W') bool.

    >>> grown(np.array([[[True, False, False]]]), (0, 0, 1)).astype(int).tolist()
    [[[1, 1, 0]]]
    """
    wide = cells.copy()
    for axis, far in enumerate(reach):
        near = wide.copy()
        for k in range(1, min(far, cells.shape[axis] - 1) + 1):
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(k, None), slice(None, -k)
            wide[tuple(ahead)] |= near[tuple(behind)]
            wide[tuple(behind)] |= near[tuple(ahead)]
    return wide


def redraw_cells(
    pipe: Pipeline,
    video: np.ndarray,
    cells: np.ndarray,
    *,
    prompt: str,
    seed: int = 0,
    strength: float = 0.8,
    **pipe_kwargs: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """The video with some latent cells drawn again, and its round trip through the VAE, both (T, H, W, 3) uint8.

    Args:
        cells: (T', H', W') bool.

    Raises:
        ValueError: if ``strength`` leaves no step.
    """
    import torch

    editor = _editor(pipe)
    device = editor._execution_device
    steps = int(pipe_kwargs.get("num_inference_steps") or _default(editor, "num_inference_steps"))
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise ValueError(f"strength={strength} must lie in (0, 1] and leave one of the {steps} steps at least")
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        known = _encode(editor, video, device)
        noise = torch.randn(known.shape, generator=generator).to(device)
        editor.scheduler.set_timesteps(steps, device=device)
        times, _ = editor.get_timesteps(steps, editor.scheduler.timesteps, strength, device)
        redrawn = torch.from_numpy(cells).to(device)[None, None]

        def keep(step: Any, index: int, _time: object, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            ends = index + 1 == len(times)
            there = known if ends else _noised(step.scheduler, known, noise, times[index + 1 : index + 2])
            return {"latents": torch.where(redrawn, tensors["latents"], there.to(tensors["latents"].dtype))}

        output = editor(
            prompt=prompt,
            latents=_noised(editor.scheduler, known, noise, times[:1]),
            strength=strength,
            height=video.shape[1],
            width=video.shape[2],
            callback_on_step_end=keep,
            output_type="np",
            **{name: value for name, value in pipe_kwargs.items() if name in _taken(editor)},
        )
        return split_frames(output, 1)[0], _decode(editor, known)


def accept(
    reward: Reward,
    prompt: str,
    before: np.ndarray,
    after: np.ndarray,
    round_trip: np.ndarray,
    cells: np.ndarray,
    *,
    score: float | None,
    fps: float,
    cost: Cost,
    seed: int,
) -> Repair:
    """Judges a repaired video and says whether the repair counts.

    Args:
        before, after, round_trip: (T, H, W, 3) uint8: the video, the repaired one, and ``decode(encode(before))``.
        cells: (T', H', W') bool.
        score: reward of the video before.
    """
    answer = evaluate(reward, [after], [prompt], fps=fps)
    change, error = kept_errors(before, after, round_trip, cells)
    new = answer.scores[0]
    reason = ""
    if new is None:
        reason = f"the repaired video could not be judged ({answer.reasons[0]})"
    elif score is not None and new <= score:
        reason = f"the reward does not rise ({score:.3f} to {new:.3f})"
    elif change > error:
        reason = f"the kept part changed by {change:.2f} levels, more than the VAE's {error:.2f}"
    return Repair(
        accepted=not reason,
        reason=reason,
        before=before,
        after=after,
        cells=cells,
        score_before=score,
        score_after=new,
        verdict=answer.verdicts[0],
        kept_change=change,
        vae_error=error,
        cost=cost,
        seed=seed,
    )


def kept_errors(
    before: np.ndarray, after: np.ndarray, round_trip: np.ndarray, cells: np.ndarray
) -> tuple[float, float]:
    """Mean change of the kept pixels by the repair and by the VAE's round trip, in levels of 255; 0 if none is kept.

    Args:
        before, after, round_trip: (T, H, W, 3) uint8.
        cells: (T', H', W') bool, true where a cell was drawn again.
    """
    kept = ~pixels_of(cells, before.shape)
    if not kept.any():
        return 0.0, 0.0
    middle = round_trip[kept].astype(np.int16)
    change, error = (float(np.abs(video[kept].astype(np.int16) - middle).mean()) for video in (after, before))
    return change, error


def pixels_of(cells: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The pixels of some latent cells, (T, H, W) bool.

    Args:
        cells: (T', H', W') bool.
        shape: that of the video, (T, H, W, 3); its first frame has a latent frame of its own.

    Example:
        >>> pixels_of(np.array([[[False]], [[True]]]), (5, 8, 8, 3))[:, 0, 0].tolist()
        [False, True, True, True, True]
    """
    frames = [0, *(1 + k * (len(cells) - 1) // (shape[0] - 1) for k in range(shape[0] - 1))] if shape[0] > 1 else [0]
    rows, columns = (np.arange(shape[1 + k]) * cells.shape[1 + k] // shape[1 + k] for k in (0, 1))
    return cells[np.ix_(frames, rows, columns)]


# --- the video-to-video pipeline --------------------------------------------------------------------------------------


def _editor(pipe: Pipeline) -> Any:
    """Diffusers' video-to-video pipeline of the same components, with a scheduler of its own."""
    from diffusers import WanVideoToVideoPipeline

    names = ("tokenizer", "text_encoder", "transformer", "vae")
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    editor = WanVideoToVideoPipeline(**{name: getattr(pipe, name) for name in names}, scheduler=scheduler)
    editor.set_progress_bar_config(disable=True)
    return editor


def _default(editor: Any, name: str) -> Any:
    return inspect.signature(editor.__call__).parameters[name].default


def _taken(editor: Any) -> set[str]:
    """Arguments of a text-to-video call that an edit takes as well."""
    own = {
        "video",
        "prompt",
        "latents",
        "strength",
        "height",
        "width",
        "callback_on_step_end",
        "output_type",
        "generator",
    }
    return set(inspect.signature(editor.__call__).parameters) - own


def _scale(editor: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    config = editor.vae.config
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(like) for v in (config.latents_mean, config.latents_std))
    return mean, std


def _encode(editor: Any, video: np.ndarray, device: torch.device) -> torch.Tensor:
    """(1, C, T', H', W') float32, normalised as the transformer sees them."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(video)).permute(3, 0, 1, 2)[None].to(device).float() / 127.5 - 1
    latents = editor.vae.encode(pixels.to(editor.vae.dtype)).latent_dist.mode().float()
    mean, std = _scale(editor, latents)
    return (latents - mean) / std


def _decode(editor: Any, latents: torch.Tensor) -> np.ndarray:
    mean, std = _scale(editor, latents)
    video = editor.vae.decode((latents * std + mean).to(editor.vae.dtype), return_dict=False)[0]
    frames = editor.video_processor.postprocess_video(video, output_type="np")
    return split_frames(SimpleNamespace(frames=frames), 1)[0]


def _noised(scheduler: Any, known: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """The known latents at the noise of a step."""
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(known, noise, time)
    return scheduler.scale_noise(known, time, noise)
