"""Short anomalies: two to six native frames that the grid of turn one meets once, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from reward_model.schema import FrameRange, VideoAnnotation
from reward_model.video.clip import SCAN_FPS, sample_indices
from reward_model.world.kinds import KINDS, SETTINGS_OF
from reward_model.world.scene import Scene, make_scene
from reward_model.world.video import SIZE, make_annotation, render

#: Native frames of a short anomaly, the fewest and the most.
SHORTEST, LONGEST = 2, 6
#: Kinds that can be short. What hangs in the air, or bounces too high, for a third of a second cannot be seen to.
SHORT_KINDS = tuple(kind for kind in KINDS if kind not in ("float", "rebound"))


def make_short_scene(
    seed: int,
    kind: str,
    *,
    meets: int = 1,
    scan_fps: float = SCAN_FPS,
    num_frames: int = 81,
    fps: float = 16,
    setting: str | None = None,
    **options: Any,
) -> Scene:
    """A scene whose anomaly lasts :data:`SHORTEST` to :data:`LONGEST` native frames.

    Args:
        seed: any integer >= 0.
        kind: one of :data:`SHORT_KINDS`.
        meets: frames of the grid of ``scan_fps`` that show the anomaly: 1, or 0.
        scan_fps: grid of turn one.
        num_frames, fps, setting, options: as in :func:`reward_model.world.make_scene`.

    Raises:
        ValueError: if the kind cannot be short, or no such window is met so often.
    """
    if kind not in SHORT_KINDS:
        raise ValueError(f"{kind!r} cannot be short; kinds that can: {', '.join(SHORT_KINDS)}")
    if meets not in (0, 1):
        raise ValueError(f"meets={meets} must be 1, or 0 for an anomaly that no frame of the scan shows")
    grid = np.zeros(num_frames, int)
    grid[sample_indices(num_frames, fps, scan_fps)] = 1
    seen = np.concatenate([[0], np.cumsum(grid)])
    windows = {
        length: [s for s in range(2, num_frames - 2 - length) if seen[s + length] - seen[s] == meets]
        for length in range(SHORTEST, LONGEST + 1)
    }
    lengths = [length for length, starts in windows.items() if starts]
    if not lengths:
        raise ValueError(
            f"no window of {SHORTEST} to {LONGEST} of {num_frames} frames at {fps:g} fps holds {meets} frame(s) of the "
            f"{scan_fps:g}-fps grid; use a longer video or more native frames a second"
        )
    rng = np.random.default_rng([seed, 22])
    length = lengths[rng.integers(len(lengths))]
    start = windows[length][rng.integers(len(windows[length]))]
    window = FrameRange(start, start + length - 1)
    place = setting or str(rng.choice(SETTINGS_OF[kind]))
    # A long enough video for any drawn anomaly is not needed: the window replaces it.
    brief = (SHORTEST / fps, LONGEST / fps)
    return make_scene(
        seed, kind, setting=place, num_frames=num_frames, fps=fps, window=window, duration_s=brief, **options
    )


def make_short(
    seed: int, kind: str, *, size: int | tuple[int, int] = SIZE, **options: Any
) -> tuple[np.ndarray, VideoAnnotation]:
    """Frames (T, H, W, 3) uint8 of :func:`make_short_scene` and the truth.

    Example:
        >>> frames, truth = make_short(5, "vanish", meets=0)
        >>> any(n in truth.anomalies[0].frames for n in range(0, 81, 4))
        False
    """
    scene = make_short_scene(seed, kind, **options)
    return render(scene, range(scene.num_frames), size), make_annotation(scene, size)
