"""The codebook of histories: choice, means by place, moving averages, the gradient of a choice."""

import math

import pytest
import torch
from torch import nn

from recbole_diffusion.layers.codebook import (
    SequenceCodebook,
    entropy,
    gumbel_like,
    gumbel_of_normal,
    straight_through,
)
from recbole_diffusion.layers.packed import PackedLayout

LENGTHS = torch.tensor([2, 4, 1, 4])
K, L, D = 3, 5, 2


def vectors(layout, start=0):
    return torch.arange(float(layout.n_tokens * D)).view(-1, D) + start


def codebook(**more):
    return SequenceCodebook(**{"n_codes": K, "length": L, "width": D, "decay": 0.9, **more})


def place(layout):
    return layout.length - 1 - layout.position


def test_the_choice_is_a_linear_layer_over_the_row_with_zeros_before_the_items():
    book, layout = codebook(), PackedLayout(LENGTHS)
    embedded = torch.randn(layout.n_tokens, D)
    rows = torch.zeros(4, L, D)
    for token in range(layout.n_tokens):
        rows[layout.row[token], L - 1 - place(layout)[token]] = embedded[token]
    weight = book.weight.flip(0).reshape(L * D, K).t()
    torch.testing.assert_close(book.logits(embedded, layout), nn.functional.linear(rows.flatten(1), weight, book.bias))


def test_the_choice_starts_as_a_linear_layer_of_pytorch_and_disturbs_no_random_number():
    torch.manual_seed(4)
    book = codebook(n_codes=50, length=20, width=20)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(4)))
    bound = 1 / math.sqrt(400)
    assert 0.99 * bound < book.weight.abs().max() <= bound and book.bias.abs().max() <= bound
    assert book.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not torch.equal(book.weight, codebook(n_codes=50, length=20, width=20, seed=1).weight)
    assert list(codebook(learned=False).parameters()) == []


def test_codes_are_means_by_place_from_the_end_and_elsewhere_the_mean_of_the_code():
    book, layout = codebook(), PackedLayout(LENGTHS)
    embedded, label = torch.randn(layout.n_tokens, D), torch.tensor([1, 1, 0, 1])
    codes = book.codes(book.totals_of(embedded, label, layout))
    for code in range(K):
        mine = [t for t in range(layout.n_tokens) if label[layout.row[t]] == code]
        for spot in range(L):
            here = [t for t in mine if place(layout)[t] == spot] or mine
            expected = embedded[here].mean(0) if here else torch.zeros(D)
            torch.testing.assert_close(codes[code, spot], expected)


def test_a_chosen_code_is_looked_up_and_a_choice_of_one_mixes_to_the_same():
    layout, codes = PackedLayout(LENGTHS), torch.randn(K, L, D)
    label = torch.tensor([2, 0, 1, 2])
    found = SequenceCodebook.look_up(codes, label, layout)
    for token in range(layout.n_tokens):
        assert torch.equal(found[token], codes[label[layout.row[token]], place(layout)[token]])
    one = torch.nn.functional.one_hot(label, K).float()
    torch.testing.assert_close(SequenceCodebook.mix(codes, one, layout), found)
    shares = torch.rand(4, K)
    expected = torch.einsum("bk,kld->bld", shares, codes)[layout.row, place(layout)]
    torch.testing.assert_close(SequenceCodebook.mix(codes, shares, layout), expected)


def test_the_gradient_of_a_choice_is_that_of_the_softmax():
    logits = torch.randn(4, K, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(4, K, dtype=torch.float64)
    choice = straight_through(logits, 0.3)
    assert torch.equal(choice.argmax(1), logits.argmax(1))
    torch.testing.assert_close(choice.detach().sort(1)[0], torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(4, 3))
    (found,) = torch.autograd.grad((choice * wanted).sum(), logits)
    (expected,) = torch.autograd.grad(((logits / 0.3).softmax(1) * wanted).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_the_first_batch_fills_the_codebook_and_later_ones_move_it():
    book, layout = codebook(), PackedLayout(torch.tensor([1, 1]))
    one, other = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[5.0, 5.0], [9.0, 9.0]])
    same, apart = torch.tensor([0, 0]), torch.tensor([0, 1])
    book.learn(book.totals_of(one, same, layout))
    assert book.codes()[0, 0].tolist() == [2.0, 4.0] and book.codes()[1].abs().sum() == 0
    book.learn(book.totals_of(other, apart, layout))
    # sums 0.9 * (4, 8) + 0.1 * (5, 5), number 0.9 * 2 + 0.1; the second code has one tenth of a row, whose mean is it
    torch.testing.assert_close(book.codes()[0, 0], torch.tensor([4.1, 7.7]) / 1.9)
    torch.testing.assert_close(book.codes()[1, 0], torch.tensor([9.0, 9.0]))
    torch.testing.assert_close(book.shares(), torch.tensor([1.9, 0.1, 0.0]) / 2)


@pytest.mark.parametrize("steps", [3, 0])
def test_a_code_that_nobody_chooses_starts_anew_as_the_mean_of_the_batch(steps):
    book, layout = codebook(restart_steps=steps), PackedLayout(LENGTHS)
    label = torch.tensor([0, 1, 0, 1])
    for batch in range(3):
        assert book.shares()[2] == 0
        totals = book.totals_of(vectors(layout, batch), label, layout)
        book.learn(totals)
    if not steps:
        assert book.shares()[2] == 0
        return
    everybody = totals.sum(0, keepdim=True)
    torch.testing.assert_close(book.codes()[2], book.codes(everybody)[0])
    assert book.shares()[2].item() == pytest.approx(1 / 4)  # a third of what the others have
    assert book.unused.tolist() == [0, 0, 0]


def test_codes_of_a_batch_replace_those_that_occur_in_it():
    book, layout = codebook(), PackedLayout(LENGTHS)
    first = book.totals_of(vectors(layout), torch.tensor([0, 1, 0, 1]), layout)
    second = book.totals_of(vectors(layout, 7), torch.tensor([1, 2, 2, 1]), layout)
    book.replace(first)
    book.replace(second)
    assert torch.equal(book.totals[0], first[0]) and torch.equal(book.totals[1:], second[1:])


def test_gumbel_noise_has_its_mean_and_variance():
    torch.manual_seed(0)
    for noise in (gumbel_like(torch.empty(200_000)), gumbel_of_normal(torch.randn(200_000))):
        assert noise.isfinite().all()
        assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
        assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert gumbel_of_normal(torch.tensor([-5.0, 5.0])).isfinite().all()


@pytest.mark.parametrize(
    "shares, expected", [([0.25] * 4, math.log(4)), ([1.0, 0.0, 0.0], 0.0), ([0.5, 0.25, 0.25], 1.0397208)]
)
def test_entropy_and_its_gradient(shares, expected):
    shares = torch.tensor(shares, requires_grad=True)
    found = entropy(shares)
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert torch.autograd.grad(found, shares)[0].isfinite().all()
