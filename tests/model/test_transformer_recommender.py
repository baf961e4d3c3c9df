"""The common base of models with a causal encoder: views in one pass, the mask vector, contrast over processes."""

import multiprocessing
import os

import plain_simdiffrec as plain
import pytest
import torch
import torch.distributed as dist
from test_simdiffrec import SMALL, FakeData, batch

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.contrastive import nt_xent
from recbole_diffusion.model.simdiffrec import SimDiffRec
from recbole_diffusion.model.transformer_recommender import TransformerRecommender, require_company
from recbole_diffusion.testing import make_config
from recbole_diffusion.training.launch import free_port

ROWS = 7


class WithMask(TransformerRecommender):
    """A recommender with nothing of its own."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.initialize(with_mask=True)

    def loss_parts(self, *inputs):
        return {"recommendation": self.recommend_and_encode(*inputs)[0]}


def config(**settings):
    found = make_config("SimDiffRec", "unused", MAX_ITEM_LIST_LENGTH=12, **{**SMALL, "alpha": 0, "beta": 0, **settings})
    found["similarity"] = "dot"
    return found


def build(model=WithMask, seed=3, **settings):
    torch.manual_seed(seed)
    return model(config(**settings), FakeData())


def three_views():
    """Histories and two views of other lengths, rows and widths."""
    items, lengths, _ = batch(seed=1)
    masked = items.clone()
    masked[:, 0] = 61
    return (items, lengths), (items[2:, :5], lengths[2:].clamp(max=5)), (masked, lengths)


@pytest.mark.parametrize("settings", [{}, {"pos_align": "start"}, {"encoder": "ligr"}, {"encoder": "hstu"}])
def test_one_pass_over_all_views_equals_passes_of_their_own_and_the_padded_twin(settings):
    model = build(**settings).double()
    together = model.ends(*three_views())
    alone = [model.ends(view)[0] for view in three_views()]
    table = torch.cat([model.item_embedding.weight, model.mask_vector[None]])
    padded = []
    for items, lengths in three_views():
        items = items * (torch.arange(items.shape[1]) < lengths[:, None])
        states = plain.positioned(model.recommender, table[items], items > 0, causal=True)
        padded.append(states[torch.arange(len(items)), lengths - 1])
    gradients = []
    for states in (together, alone, padded):
        loss = sum((state * state.detach().cos()).sum() for state in states)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, two, three in zip(together, alone, padded):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three)
    for one, two, three in zip(*gradients):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three)
    assert gradients[0][-1].abs().sum() > 0  # the mask vector learns from the view that holds it


def test_copies_of_a_view_differ_by_their_dropout():
    model = build(hidden_dropout_prob=0.5)
    view = three_views()[0]
    one, other = model.ends(view, view)
    assert not torch.equal(one, other)
    model.eval()
    one, other = model.ends(view, view)
    torch.testing.assert_close(one, other)


def test_a_mask_vector_changes_no_other_random_number():
    one = build()
    drawn = torch.rand(1)
    other = build(SimDiffRec)
    assert torch.equal(drawn, torch.rand(1))
    state = one.state_dict()
    assert list(state)[0] == "mask_vector"
    vector = state.pop("mask_vector")
    assert state.keys() == other.state_dict().keys() and vector.shape == (16,) and vector.std() > 0.1
    assert all(torch.equal(state[name], tensor) for name, tensor in other.state_dict().items())
    assert not any(torch.equal(vector, row) for row in state["item_embedding.weight"])
    assert not torch.equal(build(seed=4).mask_vector, vector) and torch.equal(build().mask_vector, vector)


def test_the_recommendation_loss_is_sasrecs_with_the_same_random_numbers():
    with_dropout = {"hidden_dropout_prob": 0.3, "attn_dropout_prob": 0.2}
    losses = []
    for model in (build(**with_dropout), build(SimDiffRec, **with_dropout)):
        torch.manual_seed(1)
        losses.append(model.loss_parts(*batch())["recommendation"])
    assert torch.equal(*losses)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("loss_type", ["CE", "BCE", "SS"])
def test_views_come_with_the_same_loss_and_the_states_of_encode(last, loss_type):
    where = {"ce_positions": "last", "train_view": "prefix"} if last else {}
    model = build(**where, loss_type=loss_type)
    losses = []
    for views in ((), three_views()):
        torch.manual_seed(1)
        loss, states = model.recommend_and_encode(*batch(seed=1), *views)
        losses.append(loss)
        assert len(states) == 1 + len(views)
        torch.testing.assert_close(states[0], model.encode(*batch(seed=1)[:2]))
    torch.testing.assert_close(*losses)
    if last and loss_type == "CE":
        scores = model.encode(*batch(seed=1)[:2]) @ model.item_embedding.weight[1:].t()
        torch.testing.assert_close(losses[0], torch.nn.functional.cross_entropy(scores, batch(seed=1)[2] - 1))


def test_the_mask_token_is_never_scored():
    model = build()
    assert model.mask_token == model.n_items and len(model.item_vectors()) == model.n_items


@pytest.mark.parametrize(
    "wrong, word", [({"trim_padding": True}, "trim_padding"), ({"train_batch_size": 1}, "train_batch_size")]
)
def test_batches_without_fair_negatives_are_refused(wrong, word):
    require_company(config())
    with pytest.raises(UsageError, match=word):
        require_company(config(**wrong))


# Several processes


def whole_batch():
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, ROWS, 16, generator=generator, dtype=torch.float64)
    return a, b, torch.tensor([1, 2, 1, 3, 1, 2, 4])


def share_of_the_contrast(rank, size, port, folder):
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=size)
    model = build(mask_same_target=True, tau=0.7)
    own = torch.arange(ROWS)[rank::size]
    a, b, target = (tensor[own].requires_grad_(tensor.is_floating_point()) for tensor in whole_batch())
    loss = len(own) / ROWS * model.contrast(a, b, target)
    loss.backward()
    torch.save((own, loss.detach(), a.grad, b.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_contrast_in_several_processes_is_that_of_one(tmp_path, size):
    fork, port = multiprocessing.get_context("fork"), free_port()
    group = [fork.Process(target=share_of_the_contrast, args=(rank, size, port, tmp_path)) for rank in range(size)]
    for process in group:
        process.start()
    for process in group:
        process.join(120)
    assert [process.exitcode for process in group] == [0] * size
    a, b, target = whole_batch()
    a.requires_grad_(), b.requires_grad_()
    loss = nt_xent(a, b, 0.7, hidden=target[:, None] == target)
    loss.backward()
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    torch.testing.assert_close(sum(share[1] for share in shares), loss.detach())
    for own, _, gradient_a, gradient_b in shares:
        torch.testing.assert_close(gradient_a, a.grad[own])
        torch.testing.assert_close(gradient_b, b.grad[own])
