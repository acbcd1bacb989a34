"""The journal: what was acknowledged is there, what was torn is not, and nobody else writes."""

import json

import pytest

from cac_align.rating.journal import JournalError, RatingJournal
from cac_align.rating.study import open_rating


def reopen(path):
    journal = RatingJournal(path)
    journal.close()
    return journal.events


def test_events_come_back_in_order(tmp_path):
    journal = RatingJournal(tmp_path / "deep" / "j.jsonl")
    for k in range(3):
        journal.append({"k": k, "text": 'é\n"'})
    journal.close()
    assert reopen(tmp_path / "deep" / "j.jsonl") == [{"k": k, "text": 'é\n"'} for k in range(3)]


@pytest.mark.parametrize("torn", [b"{", b'{"k": 1}', b"\x00\x00", '{"text": "é'.encode()[:-1]])
def test_a_torn_last_line_is_cut_off_and_the_next_one_is_whole(tmp_path, torn):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"k": 0}\n' + torn)
    journal = RatingJournal(path)
    assert journal.events == [{"k": 0}]
    journal.append({"k": 2})
    journal.close()
    assert reopen(path) == [{"k": 0}, {"k": 2}]


@pytest.mark.parametrize("line", [b"{", b"[]", b"\x00\x00"])
def test_damage_in_the_middle_is_an_error_not_a_loss(tmp_path, line):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"k": 0}\n' + line + b'\n{"k": 2}\n')
    with pytest.raises(JournalError, match="line 2"):
        RatingJournal(path)
    assert path.read_bytes() == b'{"k": 0}\n' + line + b'\n{"k": 2}\n'


def test_two_servers_cannot_write_one_journal(tmp_path):
    first = RatingJournal(tmp_path / "j.jsonl")
    with pytest.raises(JournalError, match="in use"):
        RatingJournal(tmp_path / "j.jsonl")
    first.close()
    assert reopen(tmp_path / "j.jsonl") == []


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    journal = RatingJournal(tmp_path / "j.jsonl")
    journal.append({"k": 0})

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append({"k": 1})
    assert [json.loads(x) for x in journal.path.read_text().splitlines()] == [{"k": 0}]
    journal.append({"k": 2})
    journal.close()
    assert reopen(tmp_path / "j.jsonl") == [{"k": 0}, {"k": 2}]


@pytest.mark.parametrize(
    "line",
    [
        *(
            "{}",
            '{"joined": 3}',
            '{"joined": "../x"}',
            '{"person": "Ann"}',
            '{"video": 3, "mark": "x", "person": "Ann"}',
        ),
        *('{"joined": ["Ann"]}', "[" * 100_000),
    ],
)
def test_lines_of_another_form_are_named(two_clips, line):
    place = two_clips / "ratings/journal.jsonl"
    place.parent.mkdir()
    place.write_text('{"joined": "Ann"}\n' + line + "\n")
    with pytest.raises(JournalError, match=r"journal\.jsonl, line 2 is"):
        open_rating(two_clips)


@pytest.mark.parametrize("change", [{"answer": None}, {"answer": {}}, {"answer": {"done": True}}, {"person": 3}])
def test_answers_of_another_form_are_named(two_clips, opened, tools, change):
    page = tools[0](opened(open_rating(two_clips)))
    page.enter("Ann")
    page.answer("Ann", next(iter(page.study.store.items)), status="normal", done=True)
    page.study.close()
    place = two_clips / "ratings/journal.jsonl"
    first, second = place.read_text().splitlines()
    place.write_text(f"{first}\n{json.dumps({**json.loads(second), **change})}\n")
    with pytest.raises(JournalError, match="line 2 is not a line this page writes"):
        open_rating(two_clips)
