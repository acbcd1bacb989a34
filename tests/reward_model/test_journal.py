"""Files of lines: what was acknowledged is there, what was torn is not, and nobody else's file is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from reward_model.journal import Journal, JournalError, append_lines, read_lines, read_object

TAKEN = JournalError("in use; wait for it")


def entries(path) -> list[int]:
    journal = Journal(path, in_use=TAKEN)
    numbers = [read_object(line.data)["k"] for line in journal.lines()]
    journal.close()
    return numbers


def line(k: int) -> str:
    return json.dumps({"k": k})


@pytest.mark.parametrize("torn", [b"{", b'{"k": 1}', b"\0\0", b"\xff", b'{"text": "\xc3', b"{" * 200_000])
def test_a_torn_last_line_goes_with_the_next_append_and_not_before(tmp_path, torn):
    path = tmp_path / "deep" / "j.jsonl"
    append_lines(path, [line(0)])
    path.write_bytes(path.read_bytes() + torn)
    assert entries(path) == [0] and path.read_bytes() == b'{"k": 0}\n' + torn, "looking changes nothing"
    journal = Journal(path, in_use=TAKEN)
    assert journal.append(line(2)) == 9
    assert journal.append(line(3)) == 18 and journal.read(9) == b'{"k": 2}'
    journal.close()
    assert path.read_bytes() == b'{"k": 0}\n{"k": 2}\n{"k": 3}\n'


@pytest.mark.parametrize(("torn", "kept"), [(b'{"k": 1}', [0, 1, 2]), (b'{"k', [0, 2]), (b"\xff", [0, 2])])
def test_in_a_shared_file_a_torn_line_is_ended_and_costs_itself_at_most(tmp_path, torn, kept):
    path = tmp_path / "shared.jsonl"
    append_lines(path, [line(0)])
    path.write_bytes(path.read_bytes() + torn)
    append_lines(path, [line(2)])
    assert path.read_bytes() == b'{"k": 0}\n' + torn + b'\n{"k": 2}\n'
    read = []
    for data in read_lines(path):
        try:
            read.append(read_object(data)["k"])
        except ValueError:
            continue
    assert read == kept


@pytest.mark.parametrize("text", [b"milk", b"# notes\n", b"PK\x03\x04", b"milk\nbread\nwine"])
def test_a_file_of_something_else_is_shown_to_the_caller_who_refuses_it(tmp_path, text):
    """The note without a newline used to be taken for a torn line, and emptied."""
    path = tmp_path / "notes.txt"
    path.write_bytes(text)
    journal = Journal(path, in_use=TAKEN)
    first = next(journal.lines())
    with pytest.raises(ValueError):
        read_object(first.data)
    journal.close()
    assert first.number == 1 and path.read_bytes() == text


def test_only_a_newline_ends_a_line(tmp_path):
    """``str.splitlines`` takes more characters for an end, which JSON may hold as they are."""
    path = tmp_path / "j.jsonl"
    text = "a\u2028b\u2029c\x85d"
    append_lines(path, [json.dumps({"text": text}, ensure_ascii=False), line(1)])
    assert [read_object(data) for data in read_lines(path)] == [{"text": text}, {"k": 1}]
    journal = Journal(path, in_use=TAKEN)
    assert [(one.number, read_object(one.data)) for one in journal.lines()] == [(1, {"text": text}), (2, {"k": 1})]
    journal.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\0"])
def test_what_is_not_an_object_is_an_error(text):
    with pytest.raises(ValueError):
        read_object(text.encode())


def test_two_processes_cannot_write_one_journal(tmp_path):
    path = tmp_path / "j.jsonl"
    code = (
        "import sys; from reward_model.journal import Journal\n"
        "Journal(sys.argv[1], in_use=SystemExit('taken')).append('{\"k\": 1}')"
    )
    command = [sys.executable, "-c", code, str(path)]
    first = Journal(path, in_use=TAKEN)
    with pytest.raises(JournalError, match="in use"):
        Journal(path, in_use=TAKEN)
    other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert other.returncode == 1 and other.stderr.strip() == "taken" and path.read_bytes() == b""
    first.close()
    assert subprocess.run(command, check=False).returncode == 0 and entries(path) == [1]


def test_processes_and_threads_share_a_file_line_by_line(tmp_path):
    path = tmp_path / "shared.jsonl"
    code = (
        "import sys; from reward_model.journal import append_lines\n"
        "for n in range(40): append_lines(sys.argv[1], ['{\"k\": \"' + 'x' * 5000 + '\"}'] * 2, sync=False)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)])
    threads = [threading.Thread(target=lambda: [append_lines(path, [line(3)]) for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait() == 0
    assert len([read_object(data) for data in read_lines(path)]) == 80 + 60


@pytest.mark.parametrize("fault", ["fsync", "write", "half"])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch, fault):
    path, write = tmp_path / "j.jsonl", os.write
    journal = Journal(path, in_use=TAKEN)
    journal.append(line(0))
    done = []

    def full(*args):
        if fault == "half" and not done:
            done.append(write(args[0], bytes(args[1])[:3]))
            return 3
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync" if fault == "fsync" else "write", full)
        for add in (lambda: journal.append(line(1)), lambda: append_lines(tmp_path / "other.jsonl", [line(1)])):
            done.clear()
            with pytest.raises(OSError, match="No space") as caught:
                add()
            assert caught.value.errno == 28 and caught.value.filename.endswith(".jsonl")
    assert path.read_bytes() == b'{"k": 0}\n' and (tmp_path / "other.jsonl").read_bytes() == b""
    journal.append(line(2))
    journal.close()
    assert entries(path) == [0, 2]


def test_a_real_full_disk_is_named():
    with pytest.raises(OSError, match="No space"):
        append_lines("/dev/full", [line(1)])


def test_a_write_that_is_taken_in_parts_arrives_whole(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:3]))
    append_lines(tmp_path / "j.jsonl", [line(1), line(2)])
    assert entries(tmp_path / "j.jsonl") == [1, 2]


def test_what_cannot_be_opened_for_writing_is_named(tmp_path):
    with pytest.raises(OSError, match="Is a directory") as caught:
        Journal(tmp_path, in_use=TAKEN)
    assert str(caught.value.filename) == str(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_named(tmp_path):
    path = tmp_path / "j.jsonl"
    append_lines(path, [line(0)])
    path.chmod(0o444)
    for add in (lambda: Journal(path, in_use=TAKEN), lambda: append_lines(path, [line(1)])):
        with pytest.raises(PermissionError, match=r"j\.jsonl"):
            add()


def test_a_private_journal_is_its_owners_alone(tmp_path):
    Journal(tmp_path / "mine", in_use=TAKEN, private=True).close()
    assert (tmp_path / "mine").stat().st_mode & 0o077 == 0


def test_no_lines_make_no_file(tmp_path):
    append_lines(tmp_path / "j.jsonl", [])
    assert not list(tmp_path.iterdir()) and read_lines(tmp_path / "j.jsonl") == []
