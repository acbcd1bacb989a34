"""Five tiny videos with a manifest; one of the files is broken."""

import json
import shutil

import pytest

from reward_model.video.writing import write_mp4
from reward_model.world import make_video


@pytest.fixture(scope="session")
def encoded_corpus(tmp_path_factory):
    """Four videos of nine frames, and one file that is none."""
    folder = tmp_path_factory.mktemp("encoded-corpus")
    for k, kind in enumerate((None, "squash", None, "squash")):
        write_mp4(folder / f"{k}.mp4", make_video(60 + k, kind, size=32)[0][8:17], 16)
    (folder / "broken.mp4").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="session")
def lay_out(encoded_corpus):
    """Lays the corpus out in a folder: ``manifest.jsonl`` beside the folder ``clips``; the third row names the broken
    file, the last the first again.
    """

    def laid_out(folder):
        shutil.copytree(encoded_corpus, folder / "clips")
        names = ["0", "1", "broken", "2", "3", "0"]
        rows = [
            {"video": f"clips/{n}.mp4", "prompt": "a red ball", "maker": "ab"[k % 2], "seed": k}
            for k, n in enumerate(names)
        ]
        manifest = folder / "manifest.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return manifest

    return laid_out


@pytest.fixture
def corpus(tmp_path, lay_out):
    """The manifest of a corpus of its own."""
    return lay_out(tmp_path)
