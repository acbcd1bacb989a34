"""A judge in this process written to a folder or to the hub, whole: weights, processor, ``judge.json``, model card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward_model.judge import TwoTurnJudge

_KEPT = ("README.md", "LICENSE", "domain.safetensors")


def save_judge(judge: TwoTurnJudge, folder: Path, source: str | None) -> Path:
    """Writes what ``CaCReward(folder)`` loads.

    Args:
        judge: with a local backend.
        folder: made if there is none.
        source: folder the judge came from, whose model card is copied.

    Raises:
        ValueError: if the judge's model is elsewhere.
    """
    from reward_model.config import JUDGE_FILE, judge_json
    from reward_model.files import write_text

    backend = judge.backend
    if backend.name != "local":
        raise ValueError(f"backend={backend.name!r} has no weights here to save; use backend='local'")
    folder.mkdir(parents=True, exist_ok=True)
    backend.model.save_pretrained(folder)  # type: ignore[attr-defined]
    backend.processor.save_pretrained(folder)  # type: ignore[attr-defined]
    write_text(folder / JUDGE_FILE, judge_json(judge.config, same_weights=True))
    origin = Path(source or "")
    for name in _KEPT:
        if source and (origin / name).is_file() and (origin / name).resolve() != (folder / name).resolve():
            shutil.copyfile(origin / name, folder / name)
    return folder


def push_judge(
    judge: TwoTurnJudge, repo_id: str, source: str | None, *, private: bool | None = None, token: str | None = None
) -> str:
    """Uploads what :func:`save_judge` writes; returns the address of the repository."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_judge(judge, Path(temporary), source)
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message="A two-turn judge of videos")
    return str(repository)
