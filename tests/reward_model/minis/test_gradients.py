"""Batches shared and gradients averaged by two real processes."""

from datetime import timedelta

import torch
from torch import distributed, multiprocessing, nn

from reward_model.minis.gradients import average_gradients, share_of


def net():
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(3, 2).double() for name in ("trunk", "left", "right", "idle", "frozen")})


def loss(model, rank):
    """Half of the work: the head ``left`` is asked in process 0 only, ``right`` in process 1 only, ``idle`` never."""
    x = torch.arange(12, dtype=torch.float64).view(4, 3) + rank
    head = model["left" if rank == 0 else "right"]
    return model["trunk"](x).square().mean() + head(x).square().mean() + model["frozen"](x).sum()


def trained(model):
    model["frozen"].requires_grad_(False)


def process(rank, model, folder):
    place, limit = f"file://{folder}/rendezvous", timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2, timeout=limit)
    average_gradients(list(model.parameters()))
    torch.save({name: p.grad for name, p in model.named_parameters()}, folder / f"{rank}.pt")
    assert (share_of(64), share_of(5)) == ((rank, 32), (rank, 3))
    distributed.destroy_process_group()


def test_heads_that_only_one_process_asks_are_averaged_and_untouched_ones_stay_without(tmp_path):
    processes = []
    for rank in (0, 1):
        model = net()
        trained(model)
        loss(model, rank).backward()  # here: autograd may refuse to run in a forked process
        processes.append(multiprocessing.get_context("fork").Process(target=process, args=(rank, model, tmp_path)))
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0, 0]
    model = net()
    trained(model)
    ((loss(model, 0) + loss(model, 1)) / 2).backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, parameter in model.named_parameters():
        for grads in found:
            if parameter.grad is None:
                assert grads[name] is None, name
            else:
                torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-12, atol=1e-12)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is None} == {"idle", "frozen"}
    assert share_of(5) == (0, 5)
