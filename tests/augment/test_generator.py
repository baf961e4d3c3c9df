"""The generator: its loss, both kinds of guidance, what the released code does instead, and rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.augment.arguments import generator_schema
from recbole_diffusion.augment.choices import CLASSIFIERS
from recbole_diffusion.augment.generator import Generator, RecommenderAsClassifier
from recbole_diffusion.augment.histories import Histories
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.settings.properties import load_yaml, property_file
from recbole_diffusion.testing import cycle_sequences, make_config, small_settings, write_sequences
from recbole_diffusion.testing.settings import documented
from recbole_diffusion.training.networks import build_model

WIDTH, LENGTH, ITEMS = 6, 3, 20


def settings(**more):
    small = {"network": "mlp", "pseudo_length": LENGTH, "dropout": 0.0, "seed": 0, "item_vectors": "random"}
    return {**load_yaml(property_file("augment", "DiffuASR")), **small, **more}


def make(classifier=None, **more):
    torch.manual_seed(0)
    generator = Generator(settings(**more), torch.randn(ITEMS, WIDTH), classifier)
    nn.init.normal_(generator.nobody)
    return generator.eval()


def histories(n_users=5):
    torch.manual_seed(1)
    lengths = torch.randint(1, 6, (n_users,))
    return Histories(torch.randint(1, ITEMS, (int(lengths.sum()),)), lengths, torch.arange(1, n_users + 1))


def batch():
    found = histories()
    return torch.randint(1, ITEMS, (5, LENGTH)), found, found.first(1)[:, 0]


class Recommender(nn.Module):
    """A user is a weighted sum of the items."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.item_embedding = nn.Embedding(ITEMS, WIDTH)
        self.weight = nn.Parameter(torch.randn(LENGTH))

    def forward(self, item_seq, item_seq_len):
        return torch.einsum("l,bld->bd", self.weight, self.item_embedding(item_seq))


def test_every_default_is_documented_and_in_range():
    schema, defaults = generator_schema(), load_yaml(property_file("augment", "DiffuASR"))
    assert set(schema) == set(defaults)
    for key, value in defaults.items():
        if value is not None:
            schema[key].check(value)


def test_histories_are_chosen_and_cut():
    found = Histories(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([1, 3, 2]), torch.tensor([7, 8, 9]))
    assert found.last().tolist() == [1, 4, 6] and found.first(1).tolist() == [[1], [2], [5]]
    some = found.choose(torch.tensor([2, 1]), skip=1)
    assert (some.items.tolist(), some.lengths.tolist(), some.users.tolist()) == ([6, 3, 4], [1, 2], [9, 8])
    table = torch.arange(7.0)[:, None]
    assert found.vectors(table, "mean").tolist() == [[1], [3], [5.5]]
    assert found.vectors(table, "sum").tolist() == [[1], [9], [11]]


@pytest.mark.parametrize("condition, skip", [("mean", True), ("sum", False)])
def test_loss_is_that_of_the_formula(condition, skip):
    generator, (target, rest, label) = make(condition=condition, drop_condition_prob=0.0, noise_skip=skip), batch()
    found = generator.loss(target, rest, label, torch.Generator().manual_seed(3))
    random = torch.Generator().manual_seed(3)
    half = torch.randint(1000, (3,), generator=random).tolist()
    noise = torch.randn(5, LENGTH, WIDTH, generator=random)
    expected = 0
    for user, t in enumerate([*half, 999 - half[0], 999 - half[1]]):  # antithetic
        bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].float()
        x = bar.sqrt() * generator.table[target[user]] + (1 - bar).sqrt() * noise[user]
        own = generator.table[rest.choose(torch.tensor([user])).items]
        vector = own.mean(0) if condition == "mean" else own.sum(0)
        predicted = generator.network(x[None], torch.tensor([t]), vector[None]) + skip * (1 - bar).sqrt() * x
        expected = expected + F.mse_loss(predicted[0], noise[user]) / 5
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_network_that_says_nothing_leaves_the_loss_of_white_vectors():
    generator = make(guidance="none")
    nn.init.zeros_(generator.network.exit.weight), nn.init.zeros_(generator.network.exit.bias)
    found = Histories(torch.randint(1, ITEMS, (4000,)), torch.ones(4000, dtype=torch.long), torch.arange(1, 4001))
    generator.table.data = torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(5))
    scale = generator.table[1:].square().mean()
    target = torch.randint(1, ITEMS, (4000, LENGTH), generator=torch.Generator().manual_seed(6))
    loss = generator.loss(target, found, found.last(), torch.Generator().manual_seed(7))
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert loss.item() == pytest.approx((bar**2 + (1 - bar) * bar * scale).mean().item(), rel=0.03)


def test_conditions_are_dropped_for_guidance_without_a_classifier_only():
    def moved(**more):
        generator, (target, rest, label) = make(drop_condition_prob=0.5, **more), batch()
        generator.loss(target, rest, label, torch.Generator().manual_seed(3)).backward()
        return generator.nobody.grad is not None and bool(generator.nobody.grad.any())

    assert moved()
    assert not moved(guidance="none") and not moved(guidance_strength=0)
    official = {"guidance": "classifier", "official_guidance": True}
    assert not moved(classifier=lambda vectors, items: torch.zeros_like(vectors), **official)


def test_vectors_learn_only_when_they_are_told_to():
    for kind, learns in (("random", False), ("trainable", True)):
        generator = make(item_vectors=kind)
        generator.loss(*batch(), torch.Generator().manual_seed(0)).backward()
        assert (generator.table.grad is not None) == learns


def test_guidance_away_from_no_condition():
    x, t, vector, label = torch.randn(2, LENGTH, WIDTH), torch.tensor([5, 900]), torch.randn(2, WIDTH), torch.tensor([1, 2])
    generator = make(guidance_strength=2.0)
    skipped = generator.process.noise[t][:, None, None] * x
    with_condition = generator.network(x, t, vector) + skipped
    without = generator.network(x, t, generator.nobody.expand(2, -1)) + skipped
    assert torch.allclose(generator.predict(x, t, vector, label), 3 * with_condition - 2 * without, atol=1e-6)
    assert torch.equal(generator.predict(x, t, vector, label, guided=False), with_condition)
    assert torch.equal(make(guidance="none").predict(x, t, vector, label), with_condition)


def test_gradient_of_the_classifier():
    model, scale = Recommender(), torch.linspace(0.5, 2, WIDTH)
    classify, items = RecommenderAsClassifier(model, scale), torch.tensor([4, 9])
    vectors = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    users = torch.einsum("l,bld->bd", model.weight, vectors * scale)
    scores = (users @ model.item_embedding.weight[1:].t()).log_softmax(1)
    expected = torch.autograd.grad(scores[0, 3] + scores[1, 8], vectors)[0]
    assert torch.allclose(classify(vectors, items), expected, atol=1e-6)
    ids = torch.ones(2, LENGTH, dtype=torch.long)  # the model itself is as before
    assert torch.allclose(model(ids, None)[0], model.weight.sum() * model.item_embedding.weight[1])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_reads_vectors_as_it_reads_their_items(name, tmp_path, monkeypatch):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    wanted = {"noised_weight": 1.0, "sampling_noise": False, "lambda_mean": 0.0, "lambda_std": 0.0, **small_settings(name)}
    config = make_config(name, folder, **{key: value for key, value in wanted.items() if key in documented(name)[0]})
    model = build_model(config, build_loaders(config, create_dataset(config))[0])
    classify, read = RecommenderAsClassifier(model, torch.ones(model.item_embedding.embedding_dim)), []
    ids, lengths = torch.tensor([[3, 5, 2, 7], [1, 4, 9, 8]]), torch.tensor([4, 4])
    users = classify._users
    monkeypatch.setattr(classify, "_users", lambda *histories: read.append(users(*histories)) or read[-1])
    gradient = classify(model.item_embedding.weight[ids], torch.tensor([1, 2]))
    torch.testing.assert_close(read[0], users(ids, lengths))
    assert gradient.isfinite().all() and gradient.abs().sum((0, 2)).all()


def test_right_guidance_leads_to_the_label_and_the_released_one_away_from_it():
    classify, label = RecommenderAsClassifier(Recommender(), torch.ones(WIDTH)), torch.tensor([4, 9])
    x, t = torch.randn(2, LENGTH, WIDTH), torch.tensor([400, 400])

    def log_probability(**more):
        generator = make(classify, guidance="classifier", **more)
        noise = generator.predict(x, t, torch.zeros(2, WIDTH), label)
        bar = generator.process.signal[400] ** 2
        clean = (x - (1 - bar).sqrt() * noise) / bar.sqrt()
        users = torch.einsum("l,bld->bd", classify.model.weight, clean)
        return (users @ classify.model.item_embedding.weight[1:].t()).log_softmax(1).gather(1, label[:, None] - 1).sum().item()

    plain = log_probability(guidance_strength=0)
    assert log_probability(guidance_strength=0.1) > plain
    assert log_probability(guidance_strength=0.1, official_guidance=True) < plain


def test_released_factor_is_that_of_the_first_step():
    x, t, label = torch.randn(2, LENGTH, WIDTH), torch.tensor([800, 200]), torch.tensor([4, 9])
    ones = lambda vectors, items: torch.ones_like(vectors)  # noqa: E731
    plain = make().predict(x, t, torch.zeros(2, WIDTH), label, guided=False)
    right = make(ones, guidance="classifier").predict(x, t, torch.zeros(2, WIDTH), label) - plain
    wrong = make(ones, guidance="classifier", official_guidance=True).predict(x, t, torch.zeros(2, WIDTH), label) - plain
    assert right[:, 0, 0].tolist() == pytest.approx([-(0.998492**0.5), -(0.343653**0.5)], abs=1e-4)
    assert wrong[:, 0, 0].tolist() == pytest.approx([0.01, 0.01], abs=1e-5)


def test_labels_at_generation():
    asked = []

    def classify(vectors, items):
        asked.append(items.tolist())
        return torch.zeros_like(vectors)

    found = histories()
    make(classify, guidance="classifier").generate(found)
    make(classify, guidance="classifier", official_guidance=True).generate(found)
    assert asked == [found.first(1)[:, 0].tolist()] * 5 + [found.last().tolist()] * 5


def test_what_is_generated_does_not_depend_on_the_batch_and_does_on_user_and_seed():
    generator, found = make(), histories(8)
    together = generator.generate(found)
    order = torch.tensor([5, 0, 7])
    assert torch.allclose(generator.generate(found.choose(order)), together[order], atol=1e-5)
    assert torch.equal(generator.generate(found), together)
    twin = Histories(found.items, found.lengths, found.users + 100)
    assert not torch.allclose(generator.generate(twin), together, atol=0.1)
    assert not torch.allclose(make(seed=1).generate(found), together, atol=0.1)


def test_rounding_is_by_angle_and_never_to_padding():
    generator = make()
    with torch.no_grad():
        generator.table[0] = 100.0
    items, cosines = generator.round(torch.stack([5 * generator.table[7], generator.table[0], -generator.table[3]])[None])
    assert items.shape == cosines.shape == (1, 3) and items[0, 0] == 7 and (items > 0).all()
    assert cosines[0, 0].item() == pytest.approx(1, abs=1e-6)
    every = F.cosine_similarity(-generator.table[3], generator.table[1:])
    assert items[0, 2] == every.argmax() + 1 and cosines[0, 2].item() == pytest.approx(every.max().item(), abs=1e-6)
