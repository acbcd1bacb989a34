"""One dimension of VBench as a reward."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from cac_align.metrics.dimensions import check_dimension
from cac_align.metrics.scoring import score_videos
from cac_align.rewards.base import Evaluation
from cac_align.rewards.model_reward import ModelReward, log_unjudged

if TYPE_CHECKING:
    import torch

    from cac_align.metrics.native import Clip, Measure
    from cac_align.metrics.package import VBenchPackage

logger = logging.getLogger(__name__)


class VBenchMetric(ModelReward["Measure"]):
    """Scores videos by one dimension of VBench, computed exactly as the ``vbench`` package 0.1.5 computes it.

    Networks load when they are first needed; a pickled copy carries none and loads them where it arrives. The score is
    on the scale of the package's total: imaging quality is divided by 100, dynamic degree is 1 or 0. Ratings
    (imaging, aesthetic) are not clipped. VBench scores encoded files; frames that were never encoded score a little
    differently than the file they end up in.

    Args:
        dimension: a name of :data:`cac_align.metrics.DIMENSIONS`.
        backend: ``"native"`` computes here, ``"package"`` asks the real package in its own environment (see
            :class:`~cac_align.metrics.package.VBenchPackage`), which knows four more dimensions.
        cache_dir: the package's weights; None: ``$VBENCH_CACHE_DIR``, else ``~/.cache/vbench``.
        device: None: CUDA if there is any.
        batch_size: frames at once; the results do not depend on it beyond rounding.
        strict: for dynamic degree: repeat the package's answer also where it decides without looking (sides below 121
            pixels, fewer than three sampled frames), in place of None.
        python: interpreter of the package's environment; None: ``$VBENCH_PYTHON``, else the installed one.
        on_error: ``"none"`` scores a video that cannot be scored None, ``"raise"`` raises.

    Raises:
        ValueError: an unknown dimension or option.
        WeightsError: on first use, a weight file is missing or broken; nothing is scored then.
        RewardError: with ``on_error="raise"``, a video that cannot be scored.

    Example:
        >>> metric = VBenchMetric("temporal_flickering")
        >>> metric([np.zeros((5, 8, 8, 3), np.uint8)], fps=8)                                    # doctest: +SKIP
        [1.0]
    """

    def __init__(
        self,
        dimension: str,
        *,
        backend: Literal["native", "package"] = "native",
        cache_dir: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 16,
        strict: bool = False,
        python: str | os.PathLike[str] | None = None,
        on_error: Literal["none", "raise"] = "none",
    ) -> None:
        if not isinstance(dimension, str):
            raise ValueError(
                f"dimension={dimension!r} must be one name; several are one VBenchMetric each, together in a "
                "MetricSuite or a CompositeReward"
            )
        self.dimension = check_dimension(dimension, backend)
        super().__init__(on_error)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.backend, self.cache_dir, self.batch_size, self.strict = backend, cache_dir, batch_size, strict
        self.python, self._device = python, device

    @property
    def name(self) -> str:  # type: ignore[override]
        """The dimension."""
        return self.dimension.name

    @property
    def device(self) -> torch.device | str:
        """Device of the networks."""
        if self._device is None:
            import torch

            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        return self._device

    @property
    def package(self) -> VBenchPackage:
        """The real package, for ``backend="package"``."""
        from cac_align.metrics.package import VBenchPackage

        return VBenchPackage(
            self.python, cache_dir=self.cache_dir, device=None if self._device is None else str(self._device)
        )

    def load(self) -> None:
        """Loads the networks now, or checks that the package's environment is there.

        Raises:
            WeightsError: if a file is missing or broken.
            ImportError, ValueError: a library or the environment is missing.
        """
        if self.backend == "package":
            self.package.check([self.name])
        else:
            _ = self.opened

    def make_ready(self) -> None:
        """The same as :meth:`load`."""
        self.load()

    def check_ready(self) -> None:
        """The same as :meth:`load`, whose networks are small: a missing weight file is found before a video is drawn.

        Raises:
            WeightsError, ImportError, ValueError: as of :meth:`load`.
        """
        self.load()

    def describe(self) -> dict[str, Any]:
        """Everything a score depends on besides the video, for provenance and resuming: dimension, backend, digests of
        the weights.
        """
        from cac_align.metrics.weights import weights_digest

        files = [weights.find(self.cache_dir) for weights in self.dimension.weights]
        strict = {"strict": True} if self.strict else {}
        return {
            "dimension": self.name,
            "backend": self.backend,
            "weights": {f.name: weights_digest(f)[:16] for f in files},
            **strict,
        }

    def measure(self, clip: Clip) -> float:
        """The score of a decoded clip (``backend="native"``).

        Raises:
            ValueError: if this video cannot be scored.
            WeightsError: if a weight file is missing or broken.
        """
        return self.opened(clip)

    def __call__(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        **kwargs: object,
    ) -> list[float | None]:
        """The score of each video; None if it could not be scored. Arguments as in :meth:`evaluate`."""
        result = self.evaluate(videos, prompts, fps=fps)
        log_unjudged(logger, self.name, result.reasons)
        return result.scores

    def evaluate(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: float | None = None
    ) -> Evaluation:
        """The scores and the reason of every None.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads: paths, (T, H, W, 3) arrays, torch (T, C, H,
                W), lists of images; grey and alpha are fine.
            prompts: the texts; only some dimensions of the package read them.
            fps: frames per second. Files bring their own, which decides how dynamic degree samples them; an explicit
                value wins.

        Raises:
            ValueError: if ``videos`` is a single one, or prompts do not match.
        """
        results = score_videos({self.name: self}, videos, prompts, fps=fps)
        scores, reasons = [f.scores[self.name] for f in results], [f.reasons.get(self.name) for f in results]
        self._raise_for(reasons, f"{self.name} could not score")
        return Evaluation(scores, [None] * len(scores), reasons)

    def _open(self) -> Measure:
        from cac_align.metrics.native import open_measure

        return open_measure(
            self.dimension,
            cache_dir=self.cache_dir,
            device=self.device,
            batch_size=self.batch_size,
            strict=self.strict,
        )

    def __repr__(self) -> str:
        return f"VBenchMetric({self.name!r}, backend={self.backend!r})"
