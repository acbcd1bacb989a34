"""A corpus judged by a real Ray cluster of two machines on this one, of which one is killed."""

import json
import threading
import time

import numpy as np
import pytest

from cac_align.cli import main
from cac_align.corpus.judging import Asked, judge_clips
from cac_align.corpus.ray_pool import JudgeActor, _actors, _sent
from cac_align.corpus.sources import CorpusVideo
from cac_align.corpus.table_files import read_table_rows


def without_seconds(table):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_table_rows(table)]


def test_without_ray_the_line_that_installs_it_is_named(capsys, corpus, judge_folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    argv = ["score", corpus, "--model", judge_folder, "--table", corpus.with_name("t.csv"), "--engine", "ray"]
    assert main(list(map(str, argv))) == 2
    assert "pip install 'cac-align[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("resources", "wanted", "local", "found"),
    [
        ({"CPU": 6}, None, True, (3, 0)),
        ({"CPU": 6}, 5, True, (5, 0)),
        ({"CPU": 2}, None, True, (1, 0)),
        ({"CPU": 32, "GPU": 8}, None, True, (8, 1)),
        ({"CPU": 32, "GPU": 8}, 20, False, (20, 0)),
        ({"CPU": 6}, 6, True, None),
        ({"CPU": 32, "GPU": 8}, 9, True, None),
        ({"CPU": 1}, None, True, None),
    ],
)
def test_as_many_actors_as_the_cluster_has_room_for(resources, wanted, local, found):
    if found is not None:
        assert _actors(resources, wanted, local) == found
        return
    with pytest.raises(ValueError, match="and one more to read, and the cluster has"):
        _actors(resources, wanted, local)


def test_an_actor_judges_its_blocks_as_this_process_does(corpus, judge_folder):
    from cac_align.rewards.cac import CaCReward

    reward = CaCReward(judge_folder, device="cpu", reasoning=False)
    clips = [CorpusVideo(str(p), "a red ball", 8.0, {"own": object()}) for p in (corpus.parent / "clips").glob("*.mp4")]
    blocks = [[Asked(str(k), clip) for k, clip in enumerate(clips)][part] for part in (slice(0, 2), slice(2, None))]
    texts = np.array([json.dumps([(a.key, _sent(a.clip)) for a in block]) for block in blocks])
    (text,) = JudgeActor(reward, "j", False, 2)({"block": texts})["entries"]

    def plain(row):
        return {k: v for k, v in row.items() if k != "seconds"}

    here = {e.key: (list(e.mark), plain(e.row)) for part in judge_clips(reward, blocks, "j") for e in part}
    assert {key: (mark, plain(row)) for key, mark, row in json.loads(text)} == here and len(here) == len(clips) == 5


@pytest.mark.slow
def test_two_machines_of_which_one_is_killed_write_the_table_of_one_process(corpus, judge_folder, capsys):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    whole, table = corpus.with_name("whole.jsonl"), corpus.with_name("ray.jsonl")
    argv = ["score", str(corpus), "--model", str(judge_folder), "--no-reasoning"]
    main([*argv, "--table", str(whole)])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    other = cluster.add_node(num_cpus=3)
    parts = table.with_name("ray.jsonl.parts") / "part-00001-of-00001.jsonl"
    killed = []

    def kill_one():
        while not (parts.is_file() and parts.read_bytes().count(b"\n")):
            time.sleep(0.05)
        cluster.remove_node(other, allow_graceful=False)
        killed.append(other)

    watcher = threading.Thread(target=kill_one, daemon=True)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        watcher.start()
        more = ["--engine", "ray", "--actors", "2", "--judge-batch-size", "1", "--table", str(table)]
        assert main([*argv, *more]) == 1, "the broken video"
        watcher.join(60)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and without_seconds(table) == without_seconds(whole)
    assert "1 not judged" in capsys.readouterr().out
