"""One rating session: a folder, what is asked about it, who answered, and what is written down in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.rating.answers import is_done
from cac_align.rating.folder import RATINGS, find_ratable_videos, inside
from cac_align.rating.frames import FramePacks
from cac_align.rating.items import Item, page_item, rating_items, review_items, spot_check_items
from cac_align.rating.journal import RatingJournal
from cac_align.rating.store import Mode, Store
from cac_align.rating.suggestions import Suggestion, read_suggestions

if TYPE_CHECKING:
    from reward_model.data.records import Record


@dataclass
class Study:
    """Everything the server serves.

    Attributes:
        root: the folder; nothing outside is read or written.
        store: the answers given on this page.
        frames: the pictures.
        suggestions: the judge's verdicts by item key.
        reviewed: round one's decisions, if this is a spot check.
        checks: a spot check's answers, if this is round one and one has been made.
        notes: what the person at the terminal should know: videos left out and the like.
    """

    root: Path
    store: Store
    frames: FramePacks
    suggestions: Mapping[str, Suggestion] = field(default_factory=dict)
    reviewed: Store | None = None
    checks: Store | None = None
    threshold: float = 0.95
    notes: list[str] = field(default_factory=list)

    @property
    def mode(self) -> Mode:
        return self.store.mode

    def enter(self, name: object) -> dict[str, Any]:
        """Everything the page needs for one person: their videos in their order with their answers so far."""
        person = self.store.join(name)
        items = [
            {
                **page_item(item, review=self.mode == "review"),
                "answer": self.store.answer(person, item),
                "suggestion": self._reveal(person, item),
            }
            for item in self.store.order(person)
        ]
        return {
            "person": person,
            "mode": self.mode,
            "judged": bool(self.suggestions),
            "last": self.store.last(person),
            "items": items,
        }

    def save(self, person: Any, key: Any, answer: object) -> dict[str, Any]:
        """Stores an answer and returns what the page may show now."""
        stored = self.store.save(person, key, answer)
        return {"answer": stored, "suggestion": self._reveal(person, self.store.items[key])}

    def _reveal(self, person: str, item: Item) -> dict[str, Any] | None:
        suggestion = self.suggestions.get(item.key)
        return suggestion.to_dict() if suggestion and is_done(self.store.answer(person, item)) else None

    def results(self, person: object) -> dict[str, Any]:
        """The results page: counts of everyone; differences to the judge on videos this person has finished."""
        name = self.store.join(person)
        if self.mode == "review":
            from cac_align.rating.review import spot_check_result, summarise_review

            checked = spot_check_result(self.store, self.checks, self.threshold)
            return {"mode": self.mode, "summary": summarise_review(self.store, checked)}
        from cac_align.rating.tally import judge_disagreements, summarise_ratings

        own = {k: s for k, s in self.suggestions.items() if k in self.store.finished(name)}
        # Counting verdicts on videos that are still to be judged would give them away.
        keys = {item.video: key for key, item in self.store.items.items()}
        rows = [{**row, "key": keys[row["video"]]} for row in judge_disagreements(self.store, own)]
        return {"mode": self.mode, "summary": summarise_ratings(self.store, own), "differences": rows}

    def export(self) -> list[Path]:
        """Writes the results to ``ratings/`` and returns the files.

        Raises:
            ValueError: if there is nothing to write yet.
        """
        from cac_align.rating.review import export_review, spot_check_result

        if self.mode == "review":
            return export_review(self.root, self.store, spot_check_result(self.store, self.checks, self.threshold))
        if self.reviewed is not None:
            checked = spot_check_result(self.reviewed, self.store, self.threshold)
            return export_review(self.root, self.reviewed, checked)
        from cac_align.rating.export import export_ratings

        return export_ratings(self.root, self.store, self.suggestions)

    def close(self) -> None:
        """Lets another server have the journals."""
        for store in (self.store, self.reviewed, self.checks):
            if store is not None:
                store.close()


def open_rating(root: Path, *, seed: int = 0, verdicts: Sequence[Path] = ()) -> Study:
    """A study of all videos in a folder.

    Raises:
        ValueError: if there is no video, or a file of verdicts does not fit.
    """
    _check_folder(root)
    videos, left_out = find_ratable_videos(root)
    if not videos:
        raise ValueError("\n".join([f"no video to rate in {str(root)!r}; expected MP4 files below it", *left_out]))
    items = rating_items(videos)
    notes = [f"left out: {line}" for line in left_out]
    suggestions = read_suggestions(root, verdicts, items, notes) if verdicts else {}
    store = Store(_journal(root, "journal.jsonl"), items, seed=seed, final=suggestions)
    if store.ignored:
        notes.append(
            f"{store.ignored} earlier change(s) concern videos that were removed or changed; they do not count"
        )
    return Study(root, store, FramePacks(root), suggestions, notes=notes)


def open_review(root: Path, annotations: Path, *, seed: int = 0, threshold: float = 0.95) -> Study:
    """Round one of review: every annotation is shown to reviewers, never to its annotator."""
    from cac_align.rating.review import SPOT_CHECK_FILE

    store = _review_store(root, annotations, seed)
    checks = None
    if inside(root, f"{RATINGS}/{SPOT_CHECK_FILE}").is_file():
        checks = _check_store(root, store, _drawn(root), seed)
    return Study(root, store, FramePacks(root), checks=checks, threshold=threshold)


def open_spot_check(
    root: Path,
    annotations: Path,
    checkers: Sequence[str],
    *,
    fraction: float = 0.1,
    seed: int = 0,
    threshold: float = 0.95,
) -> Study:
    """Round two: a random share of each batch's accepted annotations is annotated again, blindly, by the checkers."""
    from cac_align.rating.export import write_records
    from cac_align.rating.review import SPOT_CHECK_FILE, draw_once, reviewed_records

    reviewed = _review_store(root, annotations, seed)
    try:
        accepted = reviewed_records(reviewed, "accepted")
        drawn = draw_once(accepted, _drawn(root), checkers, fraction=fraction, seed=seed)
        if not drawn:
            raise ValueError("no annotation has been accepted yet; review first, without --spot-check")
        write_records(root, SPOT_CHECK_FILE, drawn)
        store = _check_store(root, reviewed, drawn, seed)
    except BaseException:
        reviewed.close()
        raise
    return Study(root, store, FramePacks(root), reviewed=reviewed, threshold=threshold)


def _review_store(root: Path, annotations: Path, seed: int) -> Store:
    from reward_model.data.annotations import read_annotations

    _check_folder(root)
    items = review_items(root, annotations, read_annotations(annotations))
    return Store(_journal(root, "review-journal.jsonl"), items, "review", seed=seed)


def _check_store(root: Path, reviewed: Store, drawn: Sequence[Record], seed: int) -> Store:
    items = spot_check_items(list(reviewed.items.values()), drawn)
    return Store(_journal(root, "spot-check-journal.jsonl"), items, seed=seed)


def _drawn(root: Path) -> list[Record]:
    """The draw of an earlier run, with videos relative to ``root``."""
    from cac_align.rating.review import SPOT_CHECK_FILE
    from reward_model.data.annotations import read_annotations, rebase

    path = inside(root, f"{RATINGS}/{SPOT_CHECK_FILE}")
    return rebase(read_annotations(path), path, root.resolve() / "-") if path.is_file() else []


def _journal(root: Path, name: str) -> RatingJournal:
    return RatingJournal(inside(root, f"{RATINGS}/{name}"))


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is not a folder; give the folder that holds the videos")
