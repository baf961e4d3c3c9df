"""The cosine head: the same logits in the loss and in prediction, kept while weights stand still."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_diffusion.layers.cosine import CosineHead, unit
from recbole_diffusion.layers.repetition import Additions


def inputs(n_items=30, rows=7, d=6):
    random = torch.Generator().manual_seed(0)
    table = torch.randn(n_items + 1, d, generator=random, dtype=torch.float64)
    table[0] = 0
    states = 5 * torch.randn(rows, d, generator=random, dtype=torch.float64)
    return table.requires_grad_(), states.requires_grad_(), torch.randint(1, n_items + 1, (rows,), generator=random)


def test_loss_equals_the_plain_one_in_value_and_gradient():
    table, states, target = inputs()
    head, found = CosineHead(12.0).double(), []
    met = Additions(torch.tensor([0, 2]), torch.tensor([3, 1]), torch.tensor([0.5, -2.0], dtype=torch.float64))
    logits = 12 * F.cosine_similarity(states.unsqueeze(1), table[1:].unsqueeze(0), dim=-1)
    plain = F.cross_entropy(logits.index_put((met.rows, met.columns - 1), met.values, accumulate=True), target - 1)
    for loss in (head.loss(head.users(states), head.items(table), target, met), plain):
        found.append([loss, *torch.autograd.grad(loss, (table, states))])
    for fast, slow in zip(*found):
        torch.testing.assert_close(fast, slow)
    assert found[0][1][0].abs().sum() == 0  # padding


def test_the_loss_is_that_of_what_prediction_ranks():
    table, states, target = inputs()
    head = CosineHead(16.0)
    with torch.no_grad():
        ranked = head.users(states) @ head.items(table).t()
        expected = F.cross_entropy(ranked[:, 1:], target - 1)
    torch.testing.assert_close(head.loss(head.users(states), head.items(table), target), expected)
    assert ranked.abs().max() <= 16 and ranked[:, 0].abs().sum() == 0


def test_lengths_do_not_matter():
    table, states, _ = inputs()
    head, long = CosineHead(16.0), torch.rand(len(table), 1) + 0.1
    torch.testing.assert_close(head.items(table * long), head.items(table))
    torch.testing.assert_close(head.users(states * 3), head.users(states))
    assert head.users(states.bfloat16()).dtype == torch.float32  # half precision would give 1 in 256 of each logit away


def test_items_are_dropped_as_targets_in_training_only():
    table, states, target = inputs()
    head = CosineHead(16.0, table_dropout=0.5).double()
    torch.manual_seed(0)
    losses = {head.loss(head.users(states), head.items(table), target).item() for _ in range(3)}
    assert len(losses) == 3 and not (head.items(table)[1:] == 0).any()
    head.eval()
    losses = {head.loss(head.users(states), head.items(table), target).item() for _ in range(3)}
    assert losses == {CosineHead(16.0).loss(head.users(states), head.items(table), target).item()}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(5, 3), CosineHead(16.0)

    def items(self):
        return self.head.items(self.embedding.weight)


def changed_by_training(model):
    model.train()
    with torch.no_grad():
        model.embedding.weight[1] = torch.tensor([0.0, 0.0, 1.0])
    return model.eval()


def changed_by_loading(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["embedding.weight"][1] = torch.tensor([0.0, 0.0, 1.0])
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("change", [changed_by_training, changed_by_loading, lambda model: model.double()])
def test_items_are_kept_in_evaluation_until_the_weights_change(change):
    model = Model().eval()
    with torch.no_grad():
        first = model.items()
        assert model.items() is first and not first.requires_grad
        changed = change(model).items()
        assert changed is not first
        torch.testing.assert_close(changed, unit(model.embedding.weight))
    assert model.items().requires_grad  # whoever wants a gradient in evaluation gets it


def test_no_tensor_of_rows_times_items():
    class Largest(TorchDispatchMode):
        cells = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for one in result if isinstance(result, (tuple, list)) else [result]:
                self.cells = max(self.cells, one.numel() if torch.is_tensor(one) else 0)
            return result

    table, states = torch.randn(20_001, 64, requires_grad=True), torch.randn(1_000, 64, requires_grad=True)
    head = CosineHead(16.0)
    with Largest() as seen:
        head.loss(head.users(states), head.items(table), torch.randint(1, 20_001, (1_000,))).backward()
    assert seen.cells <= 128 * 20_000  # rows of logits at a time
