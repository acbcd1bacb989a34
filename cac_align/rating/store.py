"""Answers of people: in memory for the page, in the journal for good."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from cac_align.rating.answers import AnswerError, check_decision, check_name, check_rating, is_done
from cac_align.rating.items import Item, shuffled
from cac_align.rating.journal import JournalError, RatingJournal

Mode = Literal["rate", "review"]


class Store:
    """People and their answers; every change is on the disk before it is acknowledged.

    Args:
        journal: where changes go; what it holds is read back first.
        items: what is asked. Answers to anything else, or to a file that has changed since, stay in the journal and
            do not count.
        mode: "rate", or "review" for decisions about annotations.
        seed: seed of the orders.
        final: keys of items whose finished answer cannot be changed, because finishing shows the judge's verdict.
    """

    def __init__(
        self,
        journal: RatingJournal,
        items: Iterable[Item],
        mode: Mode = "rate",
        *,
        seed: int = 0,
        final: Iterable[str] = (),
    ) -> None:
        self.items = {i.key: i for i in items}
        self.mode, self.seed, self.final = mode, seed, frozenset(final)
        self._journal = journal
        self._lock = threading.RLock()
        self._people: dict[str, str] = {}
        self._answers: dict[tuple[str, str], dict[str, Any]] = {}
        self._last: dict[str, str] = {}
        self._by_video = {(i.video, i.mark): i for i in self.items.values()}
        self.ignored = 0
        for number, event in enumerate(journal.events, 1):
            try:
                self._replay(event)
            except AnswerError as error:
                journal.close()
                place = f"{journal.path}, line {number}"
                raise JournalError(
                    f"{place} is not a line this page writes ({error}); restore the file, or remove this line"
                ) from error

    @property
    def people(self) -> list[str]:
        """Everyone who has joined, in that order, as they first spelled their name."""
        with self._lock:
            return list(self._people.values())

    def join(self, name: object) -> str:
        """Lets a person in, or back in; returns the name as it is known.

        Raises:
            AnswerError: if the name breaks a rule.
        """
        known = check_name(name)
        with self._lock:
            if known.casefold() not in self._people:
                self._journal.append({"time": _now(), "joined": known})
                self._people[known.casefold()] = known
            return self._people[known.casefold()]

    def save(self, person: object, key: object, data: object) -> dict[str, Any]:
        """Checks an answer, writes it down, and returns it as stored.

        Raises:
            AnswerError: if the person has not joined, is not asked this, or the answer breaks a rule.
            OSError: if the disk did not take it; nothing has changed.
        """
        name = check_name(person)
        with self._lock:
            item = self.items.get(key) if isinstance(key, str) else None
            if name.casefold() not in self._people:
                raise AnswerError(f"{name} has not joined; reload the page")
            if item is None or not item.asks(name):
                raise AnswerError("this video is not among those you are asked about; reload the page")
            before = self._answers.get((name.casefold(), item.key))
            answer = self._check(item, data)
            if is_done(before) and item.key in self.final and answer != before:
                raise AnswerError("the judge's verdict has been shown, so this answer stays as it is")
            if answer != before:
                about = {"video": item.video, "mark": item.mark, "file": item.digest}
                event = {"time": _now(), "person": name, **about, "answer": answer}
                self._journal.append(event)
            self._keep(name, item, answer)
            return answer

    def answer(self, person: str, item: Item) -> dict[str, Any] | None:
        """This person's latest answer to an item."""
        with self._lock:
            return self._answers.get((person.casefold(), item.key))

    def finished(self, person: str) -> dict[str, dict[str, Any]]:
        """Item key to answer, for all this person has finished, in the order of the items."""
        with self._lock:
            answers = {k: self._answers.get((person.casefold(), k)) for k in self.items}
            return {k: a for k, a in answers.items() if a is not None and is_done(a)}

    def order(self, person: str) -> list[Item]:
        """The items of this person in their own order."""
        return shuffled(self.items.values(), person, self.seed)

    def last(self, person: str) -> str | None:
        """The key this person answered last, finished or not."""
        with self._lock:
            return self._last.get(person.casefold())

    def close(self) -> None:
        self._journal.close()

    def _keep(self, person: str, item: Item, answer: dict[str, Any]) -> None:
        self._answers[person.casefold(), item.key] = answer
        self._last[person.casefold()] = item.key

    def _replay(self, event: Mapping[str, Any]) -> None:
        if "joined" in event:
            name = check_name(event["joined"])
            self._people.setdefault(name.casefold(), name)
            return
        video, mark, person = (event.get(key) for key in ("video", "mark", "person"))
        if not all(isinstance(word, str) for word in (video, mark, person)):
            raise AnswerError("an answer names its video, the video's mark and a person")
        item = self._by_video.get((str(video), str(mark)))
        # Journals of earlier versions do not say which bytes were judged.
        if item is None or event.get("file", item.digest) != item.digest:
            self.ignored += 1
        else:
            self._keep(check_name(person), item, self._check(item, event.get("answer")))

    def _check(self, item: Item, data: object) -> dict[str, Any]:
        return check_decision(data) if self.mode == "review" else check_rating(data, item.num_frames)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
