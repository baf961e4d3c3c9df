"""What models do for large catalogues: gradients of a few rows, approximate search and rounding, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from models import CONTRACTS

from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.settings import registry
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import make_config
from recbole_diffusion.training.networks import build_model

SAMPLED = {"rounding_loss": "sampled"}
SPARSE = {model: {} for model in CONTRACTS if getattr(registry.get_model(model), "learns_rows", False)}
SPARSE["SimDiffRec"] = {**SAMPLED, "neighbour_search": "lists", "search_lists": 3, "search_probes": 2}


def loss_and_gradient(model, folder, **settings):
    config = make_config(model, folder, **{**CONTRACTS[model].small(), **settings})
    torch.manual_seed(0)
    batches = build_loaders(config, create_dataset(config))[0]
    network = build_model(config, batches)
    getattr(network, "begin_epoch", lambda _: None)(0)
    batch = next(iter(batches))
    torch.manual_seed(1)
    losses = network.calculate_loss(batch)
    sum(losses).backward()
    return torch.stack([loss.detach() for loss in losses]), network.item_embedding.weight.grad


@pytest.mark.parametrize("loss_type", ["SS", "SCE"])
@pytest.mark.parametrize("model", SPARSE)
def test_sparse_gradients_are_the_dense_ones(model, loss_type, trained_data):
    settings = {"loss_type": loss_type, "n_negatives": 5, "sce_items": 4, "weight_decay": 0.0, **SPARSE[model]}
    losses, dense = loss_and_gradient(model, trained_data(model), **settings)
    same, sparse = loss_and_gradient(model, trained_data(model), **settings, sparse_table=True)
    assert sparse.is_sparse and not dense.is_sparse
    torch.testing.assert_close(same, losses)
    torch.testing.assert_close(sparse.to_dense(), dense, atol=1e-6, rtol=1e-4)


def test_models_that_learn_rows_are_known():
    assert {"SimDiffRec", "CL4SRec", "DuoRec", "MCLRec", "DiffuRec", "DiffuRecSys"} == set(SPARSE)


class Items:
    """As much of a data set as a model asks for."""

    def num(self, _):
        return 61


def simdiffrec(**settings):
    torch.manual_seed(3)
    small = {"hidden_size": 16, "inner_size": 32, "k_noise": 4, "k_sample": 3, "initializer_range": 0.5}
    config = make_config("SimDiffRec", "unused", **small, **settings)
    return registry.get_model("SimDiffRec")(config, Items())


@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_lists_that_are_all_looked_at_find_the_exact_neighbours(metric):
    exact = simdiffrec(sim_metric=metric)
    lists = simdiffrec(sim_metric=metric, neighbour_search="lists", search_lists=5, search_probes=5)
    items = torch.tensor([3, 9, 60, 1])
    assert torch.equal(lists._similar_items(items), exact._similar_items(items))
    query = torch.randn(7, 16)
    assert torch.equal(lists._search(query, 3), exact._search(query, 3))


def test_lists_are_made_anew_when_they_are_old():
    model = simdiffrec(neighbour_search="lists", search_refresh=2)
    made = []
    for _ in range(5):
        model._similar_items(torch.tensor([1, 2]))
        made.append(model.lists)
    assert made[0] is made[1] and made[1] is not made[2] and made[2] is made[3] and made[3] is not made[4]
    other = simdiffrec(neighbour_search="lists", search_refresh=2)
    other.load_training_state(model.training_state())
    assert other.lists_age == 1 and torch.equal(other.lists.members, model.lists.members)


def test_rounding_with_many_drawn_items_is_the_full_one():
    full, sampled = simdiffrec(), simdiffrec(**SAMPLED, n_negatives=200_000)
    restored, items = torch.randn(6, 16), torch.tensor([1, 5, 9, 9, 60, 33])
    loss, confidence = full._round(restored, items)
    estimated, confidence_too = sampled._round(restored, items)
    assert estimated.item() == pytest.approx(loss.item(), rel=0.02)
    torch.testing.assert_close(confidence_too, confidence, rtol=0.05, atol=0.01)
    assert estimated.requires_grad and not confidence_too.requires_grad


def test_sampled_rounding_weighs_its_items_for_all_that_were_not_drawn(monkeypatch):
    import recbole_diffusion.model.simdiffrec as module

    drawn = torch.tensor([2, 9, 44])
    monkeypatch.setattr(module, "draw_negatives", lambda *_: drawn)
    model = simdiffrec(**SAMPLED, n_negatives=3)
    restored, items = torch.randn(2, 16), torch.tensor([9, 5])
    logits = restored @ model.item_embedding.weight.t()
    for row, others in enumerate(([2, 44], [2, 9, 44])):
        total = logits[row, items[row]].exp() + 20 * logits[row, others].exp().sum()  # 60 items, of which 3 are drawn
        loss, confidence = model._round(restored[row : row + 1], items[row : row + 1])
        torch.testing.assert_close(loss, total.log() - logits[row, items[row]])
        torch.testing.assert_close(confidence[0], logits[row, [*others, int(items[row])]].exp().max() / total)


def test_diffurec_learns_by_the_loss_that_is_named():
    config = make_config("DiffuRec", "unused", hidden_size=8, inner_size=8, loss_type="SCE", sce_buckets=1, sce_states=99,
                         sce_items=60)  # fmt: skip
    model = registry.get_model("DiffuRec")(config, Items())
    restored, target, lengths = torch.randn(4, 8), torch.tensor([4, 9, 60, 1]), torch.ones(4, dtype=torch.long)
    found = model._recommendation_loss(restored, torch.ones(4, 3, dtype=torch.long), lengths, target)
    torch.testing.assert_close(found, F.cross_entropy(restored @ model.item_embedding.weight[1:].t(), target - 1))


def test_next_items_of_all_positions_are_in_the_buckets():
    model = simdiffrec(alpha=0, beta=0, loss_type="SCE", sce_buckets=1, sce_states=99, sce_items=60)
    lengths, target = torch.tensor([3, 1]), torch.tensor([7, 8])
    layout = PackedLayout(lengths)
    items = layout.pack(torch.tensor([[1, 2, 3], [4, 0, 0]]))
    hidden = torch.randn(4, 16)
    following = layout.pack(torch.tensor([[2, 3, 7], [8, 0, 0]]))
    found = model.recommendation_loss(hidden, items, layout, target)
    torch.testing.assert_close(found, F.cross_entropy(hidden @ model.item_embedding.weight[1:].t(), following - 1))


@pytest.mark.parametrize(
    "words, expected",
    [
        (["SimDiffRec", "--sparse_table"], "sparse_table moves the rows that a step meets only, loss_type: CE moves the whole"),
        (["CaDiRec", "--sparse_table", "--loss_type=SS"], "CaDiRec has losses that move the whole table"),
        (["SASRec", "--sparse_table", "--loss_type=CE"], "SASRec has losses that move the whole table"),
        (["DiffuRec", "--sparse_table", "--loss_type=SS", "--learner=sgd"], "learner: sgd has no lazy form"),
        (["DiffuRec", "--sparse_table", "--loss_type=SS", "--weight_decay=0.1"], "weight_decay would have to shrink the whole"),
        (["DiffuRec", "--loss_type=SS", "--padding_in_softmax"], "loss_type: SS never draws padding"),
        (["SimDiffRec", "--sparse_table", "--loss_type=SS"], "set rounding_loss: sampled"),
        (["SimDiffRec", "--neighbour_search=lists", "--noise_refresh=5"], "noise_refresh above 1 searches for all items at once"),
        (["SimDiffRec", "--neighbour_search=lists", "--official_compat"], "official_compat is exact as the released code"),
        (["SimDiffRec", "--neighbour_search=trees"], "neighbour_search must be one of exact, lists, got 'trees'"),
        (["SimDiffRec", "--in_batch_share=1.5"], "in_batch_share must lie in [0, 1]"),
        (["SimDiffRec", "--negative_weights=logq"], "negative_weights must be one of none, importance, log_q"),
        (["SimDiffRec", "--sce_items=0"], "sce_items must lie in [1, inf)"),
        (["SimDiffRec", "--sce_buckets=-1"], "sce_buckets must lie in [0, inf)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, expected, trained_data, capsys):
    given = [f"--model={words[0]}", "--dataset=cycle", f"--data_path={trained_data('SimDiffRec')}", *words[1:]]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_plain_settings_are_as_before():
    config = DiffusionConfig("SimDiffRec", "toy")
    assert not config["sparse_table"] and config["neighbour_search"] == "exact" and config["rounding_loss"] == "full"
