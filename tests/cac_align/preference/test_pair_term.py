"""The loss of preference pairs on a tiny real policy: its start, its gradient written out, what an update sees."""

import math

import pytest
import torch

from cac_align.flow_grpo.learner.data_term import DataTerm, draws_of
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.learner.nft import forward_noise, forward_sigmas
from cac_align.flow_grpo.sampler.clips import CaptionedClip, ClipLatents
from cac_align.preference.learner import pair_numbers
from cac_align.preference.pair_term import PairTerm
from tests.cac_align.preference.pairs import build, write

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pairs"), (0, 1))


@pytest.fixture
def trainer(listed, tmp_path, request):
    return build(tmp_path, listed, **{"beta": 5.0, **getattr(request, "param", {})})


@pytest.fixture(scope="module")
def fresh(listed, tmp_path_factory):
    """One that no test changes."""
    return build(tmp_path_factory.mktemp("fresh"), listed, beta=5.0)


def moved(trainer, seed=0):
    """An adapter that does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainer.learner.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def gradients(trainer, step=0):
    """The gradient of one update; the weights stay."""
    found, learner = {}, trainer.learner

    def note(loss, step):
        learner.loss, learner.grad_norm = loss, 0.0
        found.update({name: p.grad.clone() for name, p in learner.parameters.items()})
        learner.optimizer.zero_grad()

    kept, learner.apply = learner.apply, note
    try:
        numbers = learner.learn(step)
    finally:
        learner.apply = kept
    return torch.cat([g.flatten() for g in found.values()]), numbers


def error(trainer, clip, draw, cells):
    """The weighted flow-matching error on a video, written out."""
    clips = trainer.learner.term.clips
    clean, time = clips[clip][None], forward_sigmas([draw.seed], 0)[0]
    sigma = 7 * time / (1 + 6 * time)  # the tiny model's shift
    noise = forward_noise([draw.seed], 0, clean)
    velocity = trainer.transformers[0](
        hidden_states=(1 - sigma) * clean + sigma * noise,
        timestep=1000 * sigma[None],
        encoder_hidden_states=trainer.texts.batch([clips.clips[clip].prompt]),
        return_dict=False,
    )[0]
    return (cells * (velocity - (noise - clean)).square()).mean()


def test_a_fresh_adapter_is_its_own_reference(fresh):
    found = fresh.learner.term.loss(draws_of(0, 2, 2, seed=0), CPU)
    assert found.loss.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-7)
    assert not found.margin.any() and not found.chosen_gain.any()


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"train_batch_size": 1},
        {"localised": True, "localised_floor": 0.0},
    ],
    ids=["plain", "a pair at a time", "localised"],
    indirect=True,
)
def test_loss_and_gradient_of_an_update_are_those_written_out(trainer):
    """-log sigmoid(-beta/2 (gain of the chosen error over the rejected one)), the mean over the pairs of the update."""
    moved(trainer)
    cells = torch.ones(2, 2, 2)
    if trainer.config.localised:  # the judge's box: the left half of the last latent frame
        cells = torch.tensor([[[0.0, 0], [0, 0]], [[4, 0], [4, 0]]])
    losses, margins = [], []
    for draw in draws_of(0, 2, 2, trainer.config.seed):
        with torch.no_grad(), adapter_off(*trainer.transformers):
            before = error(trainer, draw.clip, draw, cells) - error(trainer, 2 + draw.clip, draw, cells)
        after = error(trainer, draw.clip, draw, cells) - error(trainer, 2 + draw.clip, draw, cells)
        margins.append(-5.0 / 2 * (after - before))
        losses.append(-torch.log(torch.sigmoid(margins[-1])))
    loss = sum(losses) / 2
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trainer.learner.parameters.values()))])
    found, numbers = gradients(trainer)
    assert numbers["policy/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert numbers["pairs/margin"] == pytest.approx(sum(margins).item() / 2, abs=1e-4)
    assert wanted.norm() > 0 and (found - wanted).norm() / wanted.norm() < 1e-3


@pytest.mark.parametrize("trainer", [{"objective": "sft", "beta": 2000.0}], indirect=True)
def test_fine_tuning_is_the_flow_matching_loss_of_the_winners(trainer):
    moved(trainer)
    assert isinstance(trainer.learner.term, DataTerm)
    assert [clip.path.name for clip in trainer.learner.term.clips.clips] == ["chosen-0.mp4", "chosen-1.mp4"]
    draws = draws_of(0, 2, 2, trainer.config.seed)
    loss = sum(error(trainer, draw.clip, draw, torch.ones(2, 2, 2)) for draw in draws) / 2
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trainer.learner.parameters.values()))])
    found, numbers = gradients(trainer)
    assert numbers["policy/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert not any(name.startswith("pairs/") for name in numbers)
    assert wanted.norm() > 0 and (found - wanted).norm() / wanted.norm() < 1e-3


def test_what_is_not_pairs_is_refused(fresh):
    learner, clips = fresh.learner, fresh.learner.term.clips
    given = (fresh.texts, learner.policy, fresh.pipe.scheduler)
    with pytest.raises(ValueError, match="cells are given for 1 of 2 pairs"):
        PairTerm(clips, *given, bare=learner.bare, beta=5.0, cells=[torch.ones(2, 2, 2)])
    for wrong, said in (
        (clips.clips[:3], "3 videos are not pairs"),
        ([*clips.clips[:3], CaptionedClip(clips.clips[3].path, "other")], "pair 1 has the prompts"),
    ):
        with pytest.raises(ValueError, match=said):
            PairTerm(ClipLatents(wrong, fresh.config, clips.vae), *given, bare=learner.bare, beta=5.0)


def test_numbers_of_pairs_are_means_and_a_tie_is_half_right():
    rows = [(0.5, 1.0, 0.2, -0.1), (0.7, 0.0, 0.0, 0.0), (0.9, -0.4, -0.2, 0.4)]
    found = pair_numbers(rows)
    assert found["accuracy"] == 0.5 and found["loss"] == pytest.approx(0.7) and found["margin"] == pytest.approx(0.2)
    assert found["chosen_gain"] == pytest.approx(0) and found["rejected_gain"] == pytest.approx(0.1)
    assert pair_numbers([]) == {}
