"""The second-look bench: mostly pairs of videos that the scan cannot tell apart and turn two can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reward_model.evaluation.benches.bench import SECOND_LOOK_SEED, BenchVideo, check_seed
from reward_model.world import LOOK_ALIKES
from reward_model.world.kinds import SETTINGS_OF, check_kinds
from reward_model.world.scripts import PLAIN, Script, check_stories, tell_story

#: Shares of the suite of docs/second_look.md: four videos of five are fades or winks, which only turn two tells apart,
#: the fifth vanishes for long or not at all.
SUITE_STORIES: Mapping[str, float] = {"zoom/fade": 0.8}
SUITE_KINDS = ("vanish",)
#: Steps of the golden ratio fall evenly into shares, whatever the number of steps.
_EVENLY = 0.618033988749895


@dataclass(frozen=True)
class SecondLookBench:
    """Normal and abnormal videos of the same scene in turn, of stories in given shares, from seeds of no training.

    Groups of its rows: ``zoom/fade`` and so on for look-alikes, ``easy`` for plain videos, else the story.

    Args:
        num_videos: how many; even.
        seed: pair k is drawn from ``seed + k``; at least 400,000, those below are for training.
        stories: shares as :func:`reward_model.world.scripts.check_stories` takes them; the rest is plain.
        kinds: kinds of anomalies of what is not a look-alike, in turn.

    Example:
        >>> bench = SecondLookBench(10)
        >>> sorted({video.group for video in bench})
        ['easy', 'zoom/fade']
    """

    num_videos: int = 240
    seed: int = SECOND_LOOK_SEED
    stories: Mapping[str, float] = field(default_factory=lambda: dict(SUITE_STORIES))
    kinds: Sequence[str] = SUITE_KINDS

    def __post_init__(self) -> None:
        if self.num_videos < 2 or self.num_videos % 2:
            raise ValueError(f"num_videos={self.num_videos} must be even and at least 2: half normal, half abnormal")
        check_seed(self.seed)
        check_kinds(self.kinds)
        check_stories(self.stories)

    def __len__(self) -> int:
        return self.num_videos

    def __getitem__(self, index: int) -> BenchVideo:
        if not 0 <= index < self.num_videos:
            raise IndexError(f"video {index} of a bench of {self.num_videos}")
        script = self._script(index // 2, abnormal=bool(index % 2))
        film = script.film()
        if script.story in LOOK_ALIKES:
            group = f"{script.stratum}/{script.story}"
        else:
            group = "easy" if script.story == PLAIN else script.story
        truth = film.truth
        name = f"world-{script.seed}-{group.replace('/', '-')}-{truth.status}"
        return BenchVideo(film.take(range(truth.num_frames)), replace(truth, video_id=name), script.kind, group)

    def __iter__(self) -> Iterator[BenchVideo]:
        return (self[k] for k in range(len(self)))

    def describe(self) -> dict[str, object]:
        """Description of the bench for the results file."""
        return {
            "bench": "second-look",
            "num_videos": self.num_videos,
            "seed": self.seed,
            "stories": dict(self.stories),
            "kinds": list(self.kinds),
        }

    def _script(self, number: int, *, abnormal: bool) -> Script:
        seed, kind = self.seed + number, self.kinds[number % len(self.kinds)]
        rng = np.random.default_rng([seed, 24])
        names = [PLAIN, *self.stories]
        ends = np.cumsum([1 - sum(self.stories.values()), *self.stories.values()])
        place = (number + 0.5) * _EVENLY % 1
        story = names[min(int(np.searchsorted(ends, place, side="right")), len(names) - 1)]
        told = tell_story(rng, story, kind, abnormal=abnormal)
        setting = str(rng.choice(SETTINGS_OF[kind]))
        return Script(seed, setting=setting, draw=seed, stored=False, **told)
