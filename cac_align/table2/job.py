"""A table's work from settings to scores: which units there are, and what a process needs open to do them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.flow_grpo.needs import check_calibration, check_model, model_of
from cac_align.table2.adapters import check_adapters
from cac_align.table2.draws import Draws, SeededPrompt, Source, source_pipeline, sources, sources_of
from cac_align.table2.rows import TableRow
from cac_align.table2.scores import Scorer, Scores, check_long_enough, make_scorers
from cac_align.table2.settings import TableSettings
from cac_align.table2.training import Training, trainings
from cac_align.table2.work import Unit, claim, work_through

if TYPE_CHECKING:
    from cac_align.pipelines import Pipeline

PARTS = ("train", "draw", "score", "tables")
LOCKS = ".locks"


class TableJob:
    """Everything a table needs to be made, in this process or in several that share its folder.

    Args:
        settings: settings of the table.
        script: the training recipe.
        say: told of progress.

    Raises:
        ValueError: settings, prompts or models do not fit; before anything is done.

    Example:
        >>> job = TableJob(read_settings("recipes/configs/table2/mini.yaml"), script)            # doctest: +SKIP
        >>> job.work(["train", "draw", "score"])                                                 # doctest: +SKIP
    """

    def __init__(self, settings: TableSettings, script: Path, say: Callable[[str], Any] = print) -> None:
        self.settings, self.script, self.say = settings, script, say
        self.folder = Path(settings.output_dir)
        self.draws = Draws(settings)
        self.trainings = {(t.row.slug, t.seed): t for t in trainings(settings)}
        self.sources = {s.name: s for s in sources(settings, self.trainings)}
        for spec in [*settings.reward_specs.values(), *settings.watched]:
            model = model_of(spec)
            if model is not None and spec.options.get("backend", "local") == "local":
                check_model(model, f"reward {spec.name!r}")
        check_model(self.draws.config.model, "model")
        _ = self.draws.frozen  # refused here if it is not there
        check_adapters(settings)
        check_long_enough(settings, self.draws.config.num_frames)
        #: The scale on which scores are averaged, in training and in choosing; None: the scores as they are.
        self.calibration = check_calibration(*settings.calibrated)
        self._ready: set[str] = set()
        self._open: tuple[str, Any] | None = None
        self._stack = ExitStack()

    @cached_property
    def scorers(self) -> list[Scorer]:
        """Scorers of the videos; models load when they are first asked."""
        return make_scorers(self.settings)

    @cached_property
    def scores(self) -> Scores:
        return Scores(self.draws, self.scorers)

    def work(self, parts: Sequence[str], *, row: str | None = None, seed: int | None = None) -> None:
        """Does what is not done of some parts (all but ``tables``), waiting for other processes where they are at it.

        Args:
            parts: some of :data:`PARTS`.
            row: only what this row needs.
            seed: only trainings of this seed, and their videos.

        Raises:
            NothingToWaitFor: if a part needs results that nobody is making.
        """
        units = self.units(parts, row=row, seed=seed)
        try:
            work_through(units, self.folder / LOCKS, say=self.say)
        finally:
            self.close()

    def units(self, parts: Sequence[str], *, row: str | None = None, seed: int | None = None) -> list[Unit]:
        """The units of some parts: trainings, then videos, then scores."""
        unknown = [p for p in parts if p not in PARTS]
        if unknown:
            raise ValueError(f"part {unknown[0]!r} is unknown; there are {', '.join(PARTS)}")
        chosen = self._chosen(row, seed)
        todo: list[Unit] = []
        if "train" in parts:
            trained = {s.training.folder: s.training for s in chosen if s.training is not None}
            todo += [self._training(training) for training in trained.values()]
        if "draw" in parts:
            todo += [self._drawing(s, i) for s in chosen for i in self.draws.groups(s)]
        if "score" in parts:
            todo += [self._scoring(s, i) for s in chosen for i in self.draws.groups(s)]
        return todo

    def close(self) -> None:
        """Lets the open pipeline go."""
        self._open = None
        self._stack.close()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """A block that one process at a time is in."""
        with claim(self.folder / LOCKS, name, wait=True):
            yield

    def ready(self, source: Source) -> bool:
        """True if a source can be drawn from; looked up until it can."""
        if source.name not in self._ready and source.ready():
            self._ready.add(source.name)
        return source.name in self._ready

    def _chosen(self, row: str | None, seed: int | None) -> list[Source]:
        if seed is not None and seed not in self.settings.train_seeds:
            raise ValueError(f"seed={seed} is not one of train_seeds={list(self.settings.train_seeds)}")
        found = list(self.sources.values()) if row is None else self.sources_of(self.settings.row(row))
        return [s for s in found if seed is None or s.seed in (None, seed)]

    def sources_of(self, row: TableRow) -> list[Source]:
        """The sources of a row's videos, with all candidates that any row chooses from."""
        return [self.sources[s.name] for s in sources_of(self.settings, row, self.trainings)]

    def _training(self, training: Training) -> Unit:
        def run() -> None:
            self.close()
            self.say(f"{training.name}: {training.config.max_steps} steps, log in {training.folder / 'train.log'}")
            training.run(self.script, self.settings.launcher)
            self.say(f"{training.name}: done")

        return Unit(f"train {training.folder.name} {training.row.slug}", training.done, run)

    def _drawing(self, source: Source, items: Sequence[SeededPrompt]) -> Unit:
        def run() -> None:
            self.draws.draw(source, items, self._pipeline(source))

        return Unit(
            f"draw {source.name} {_named(items)}",
            lambda: all(self.draws.done(source, item) for item in items),
            run,
            lambda: self.ready(source),
        )

    def _scoring(self, source: Source, items: Sequence[SeededPrompt]) -> Unit:
        def run() -> None:
            if self._open is not None:
                self.close()
            if self._announce(f"score {source.name}"):
                self.say(f"scoring videos of {source.name}")
            self.scores.score(source, items)

        def drawn() -> bool:
            return all(self.draws.done(source, item) for item in items)

        def done() -> bool:
            return self.ready(source) and drawn() and all(self.scores.done(source, item) for item in items)

        return Unit(f"score {source.name} {_named(items)}", done, run, drawn)

    def _pipeline(self, source: Source) -> Pipeline:
        """The pipeline of a source; it stays open until another one is wanted."""
        if self._open is None or self._open[0] != source.name:
            self.close()
            if self._announce(f"draw {source.name}"):
                self.say(f"drawing videos of {source.name}")
            pipe = self._stack.enter_context(source_pipeline(self.draws.config, source, self.settings.device))
            self._open = (source.name, pipe)
        return self._open[1]

    def _announce(self, what: str) -> bool:
        if what in self._said:
            return False
        self._said.add(what)
        return True

    @cached_property
    def _said(self) -> set[str]:
        return set()


def _named(items: Sequence[SeededPrompt]) -> str:
    """The same for the same group, whichever process it is."""
    return "+".join(item.name for item in items)
