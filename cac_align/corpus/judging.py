"""Videos judged while the next are decoded, and a served judge asked about several at a time.

A row depends on its video, its prompt and the judge alone, not on what is judged beside it, how many threads decode or
in which order they end: on a CPU and behind a server each video is asked about by itself, as the last digits of a
batch's arithmetic depend on the whole batch there. On a GPU, where batches are many times as fast, neighbours of the
manifest are judged together, always the same ones.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cac_align.corpus.parts import Entry, Mark, mark_of
from cac_align.corpus.sources import CorpusVideo
from cac_align.corpus.verdict_rows import verdict_row
from cac_align.rewards.base import RewardError
from cac_align.rewards.remote import TooLargeError
from reward_model.chunks import scan_grids
from reward_model.schema import Verdict
from reward_model.video.clip import FileFrames, LazyFrames, Video, VideoError, load_video
from reward_model.video.framing import Framing

if TYPE_CHECKING:
    import numpy as np

    from cac_align.rewards.cac import CaCReward
    from cac_align.rewards.remote import RemoteReward
    from reward_model.config import JudgeConfig
    from reward_model.judge import TwoTurnJudge

logger = logging.getLogger(__name__)
In = TypeVar("In")
Out = TypeVar("Out")


class Asked(NamedTuple):
    """A video to judge, by its key."""

    key: str
    clip: CorpusVideo


class _Opened(NamedTuple):
    asked: Asked
    mark: Mark | None
    video: Video | str  # a text: why it cannot be read


def judge_clips(
    reward: CaCReward,
    blocks: Sequence[Sequence[Asked]],
    model: str,
    *,
    answers: bool = False,
    workers: int = 2,
) -> Iterator[list[Entry]]:
    """The rows of all videos as they are judged: in order where a model of this process judges, as they come from a
    server.

    Args:
        reward: the judge; it is loaded before the first video is opened.
        blocks: neighbours of the manifest, which a GPU judges together.
        model: name of the judge in the rows.
        answers: rows hold what the judge wrote.
        workers: threads that decode beside a judge of this process; a server is asked by as many threads as its
            backend allows at a time (``concurrency``), which decode as well.
    """
    judge = _single(reward.judge_model)
    each = [asked for block in blocks for asked in block]

    def opened(asked: Asked) -> _Opened:
        return _open(asked, judge.config)

    def rows(videos: Sequence[_Opened]) -> list[Entry]:
        verdicts = zip(videos, _verdicts(judge, videos), strict=True)
        return [Entry(o.asked.key, o.mark, verdict_row(verdict, model, answers)) for o, verdict in verdicts]

    concurrency = getattr(judge.backend, "concurrency", None)
    if concurrency is not None:
        yield from as_finished(lambda asked: rows([opened(asked)]), each, concurrency)
        return
    sizes = [1] * len(each) if _is_single(judge) else [len(block) for block in blocks]
    ready = ahead_of(opened, each, workers, max(workers, *sizes, 1))
    for size in sizes:
        yield rows(list(islice(ready, size)))


def judge_clips_elsewhere(
    reward: RemoteReward, blocks: Sequence[Sequence[Asked]], *, answers: bool = False, workers: int = 4
) -> Iterator[list[Entry]]:
    """The rows of all videos as they come from a judge that ``cac-align serve`` runs: those of :func:`judge_clips` with
    that judge, to the last digit where both judge video by video.

    Args:
        reward: the server.
        blocks: as of :func:`judge_clips`; each video is a request of its own.
        answers: rows hold what the judge wrote.
        workers: requests at a time.

    Raises:
        RewardError: if the server does not serve a judge, refuses the requests, or is away for longer than ``reward``
            is patient.
    """
    model = reward.opened["name"]

    def rows(asked: Asked) -> list[Entry]:
        mark = mark_of(asked.clip.video)
        return [Entry(asked.key, mark, verdict_row(_served(reward, asked.clip), model, answers))]

    return as_finished(rows, (asked for block in blocks for asked in block), workers)


def _served(reward: RemoteReward, clip: CorpusVideo) -> Verdict:
    if not Path(clip.video).is_file():
        return Verdict(status=None, score=None, error=f"no video file at {clip.video!r}")
    try:
        found = reward.evaluate([clip.video], clip.prompt, fps=clip.fps)
    except TooLargeError as error:
        return Verdict(status=None, score=None, error=str(error))
    [score], [verdict], [reason] = found.scores, found.verdicts, found.reasons
    if verdict is None and score is None:
        reward.ping()  # one that is away has no say about the videos that are left
        return Verdict(status=None, score=None, error=reason)
    if verdict is None or verdict.score != score:
        raise RewardError(
            f"{reward.url} serves {reward.opened['name']!r}, whose score is not that of one judge; start cac-align "
            "serve with a judge alone, without --rewards"
        )
    return verdict


def _is_single(judge: TwoTurnJudge) -> bool:
    """True if each video is asked about by itself: everywhere but on a GPU of this process."""
    device = getattr(judge.backend, "device", None)
    return device is None or device.type == "cpu"


def _single(judge: TwoTurnJudge) -> TwoTurnJudge:
    """The judge; where videos are asked about one by one, the parts of a long one are as well."""
    if not _is_single(judge) or getattr(judge.backend, "concurrency", None) is not None:
        return judge
    alone = copy.copy(judge)
    alone.config = judge.config.override(batch_size=1)
    return alone


# --- threads ----------------------------------------------------------------------------------------------------------


def ahead_of(work: Callable[[In], Out], items: Iterable[In], workers: int, ahead: int) -> Iterator[Out]:
    """Results in the order of the items, made by threads while the caller is busy with those before.

    Args:
        work: called in a thread.
        items: taken one by one.
        workers: threads.
        ahead: most results that are being made or wait for the caller.
    """
    with _pool(workers) as pool:
        waiting: deque[Future[Out]] = deque()
        source = iter(items)
        waiting.extend(pool.submit(work, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(source, 1))
            yield result
            del result  # held here, it would be one more than said


def as_finished(work: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """Results as threads finish them, with at most twice as many under way as there are threads."""
    with _pool(workers) as pool:
        source = iter(items)
        running = {pool.submit(work, item) for item in islice(source, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(work, item) for item in islice(source, len(done))}
            for future in done:
                yield future.result()


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more when the block is left."""
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="corpus")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# --- one video --------------------------------------------------------------------------------------------------------


class ScanAhead(LazyFrames):
    """Frames of a large file with those of turn one decoded; the others are decoded when they are asked for."""

    def __init__(self, frames: FileFrames, scan: Sequence[int], size: tuple[int, int] | None) -> None:
        self.shape = frames.shape
        self._frames = frames
        self._scan: tuple[Any, np.ndarray] | None = ((tuple(scan), size), frames.take(scan, size))

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """As :meth:`reward_model.video.clip.LazyFrames.take`; the frames of turn one are handed out once."""
        ready = self._scan
        if ready is not None and ready[0] == (tuple(indices), size):
            self._scan = None
            return ready[1]
        return self._frames.take(indices, size)


def _open(asked: Asked, config: JudgeConfig) -> _Opened:
    """A video with the frames that turn one will show, or the reason why it cannot be read."""
    clip, mark = asked.clip, mark_of(asked.clip.video)
    try:
        return _Opened(asked, mark, _with_scan(load_video(clip.video, clip.fps), config))
    except VideoError as error:
        return _Opened(asked, mark, str(error))
    except MemoryError:
        return _Opened(asked, mark, "not enough memory to read this video; cut it, or scale it down")
    except Exception as error:  # whatever a damaged file does to a decoder, the others are judged
        logger.debug("%s cannot be read", clip.video, exc_info=True)
        return _Opened(asked, mark, f"this video cannot be read: {type(error).__name__}: {error}")


def _with_scan(video: Video, config: JudgeConfig) -> Video:
    if not isinstance(video.frames, FileFrames) or config.policy == "active":
        return video
    scan = scan_grids(video.num_frames, video.fps, config)[0]
    size = Framing(video.size, config.frame_size, config.frame_fit).inner
    return Video(ScanAhead(video.frames, scan, size), video.fps, video.drawn_size)


def _verdicts(judge: TwoTurnJudge, opened: Sequence[_Opened]) -> list[Verdict]:
    read = [(o.video, o.asked.clip.prompt) for o in opened if isinstance(o.video, Video)]
    found = iter(_judged(judge, read))
    return [
        next(found) if isinstance(o.video, Video) else Verdict(status=None, score=None, error=o.video) for o in opened
    ]


def _judged(judge: TwoTurnJudge, videos: Sequence[tuple[Video, str | None]]) -> list[Verdict]:
    if not videos:
        return []
    try:
        return judge.judge([video for video, _ in videos], [prompt for _, prompt in videos])
    except Exception as error:  # one of them is at fault, or all are, each by itself
        logger.debug("a video cannot be judged", exc_info=True)
        if len(videos) == 1:
            return [Verdict(status=None, score=None, error=f"the judge failed: {type(error).__name__}: {error}")]
    return [verdict for video in videos for verdict in _judged(judge, [video])]
