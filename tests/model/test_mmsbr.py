"""MMSBR: fast equals plain in value and gradient, known values, and what may and may not move its scores."""

import plain_mmsbr as plain
import pytest
import torch
from item_files import write_item_file, write_sides, write_vectors
from recbole.data.interaction import Interaction
from session_models import build

from recbole_diffusion import Recommender, run
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers import modal_items
from recbole_diffusion.layers.contrastive import hardest_contrast
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.wasserstein import as_column, as_key, as_query, as_row
from recbole_diffusion.testing import cycle_sequences, make_config, write_features, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint

# so odd that a missing factor shows
SMALL = {"hidden_size": 8, "n_heads": 2, "n_tokens": 3, "modality_dropout": 0.0, "hidden_dropout_prob": 0.0,
         "con_weight": 0.83, "con_anchors": 0, "price_levels": 7, "train_batch_size": 16}  # fmt: skip
SWITCHES = [
    {},
    {"price_factor": "plus", "con_reduction": "sum", "n_rounds": 2},
    {"price_factor": "none", "n_heads": 4, "n_tokens": 1, "n_rounds": 3, "image_features": "none"},
    {"category_column": "none", "item_features": "none", "con_temperature": 0.7},
    {"item_features": "none", "image_features": "none"},
    {"feature_init": "random", "price_column": "none"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve items in a cycle with text (of another width), images, prices and categories."""
    return write_all(tmp_path_factory.mktemp("mmsbr"))


def write_all(folder):
    write_sequences(cycle_sequences(), folder, "cycle")
    write_features(folder, width=5)
    write_sides(folder, width=6)
    return folder


def mmsbr(folder, **settings):
    return build(folder, "MMSBR", "cycle", **{**SMALL, **settings})


def inputs(model, batch):
    return batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], batch[model.ITEM_ID]


def scores(model, items, lengths):
    with torch.no_grad():
        return model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))[:, 1:]


def some_sessions():
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 10, (30,), generator=random)
    return torch.randint(1, 13, (30, 9), generator=random) * (torch.arange(9) < lengths[:, None]), lengths


def assert_equals_plain(model, batch, **given):
    found = []
    for parts in (model.loss_parts(*inputs(model, batch)), plain.loss_parts(model, *inputs(model, batch), **given)):
        model.zero_grad()
        sum(parts.values()).backward()
        found.append((parts, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (fast, fast_gradients), (slow, slow_gradients) = found
    assert fast.keys() == slow.keys()
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-9, rtol=1e-7, msg=name)
    for name, gradient in slow_gradients.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-9, rtol=1e-6, msg=name)


@pytest.mark.parametrize("settings", SWITCHES)
def test_fast_equals_plain_in_values_and_gradients(settings, folder):
    model, (train, *_) = mmsbr(folder, **settings)
    assert_equals_plain(model.double(), next(iter(train)))


def test_so_it_does_with_vectors_of_what_the_other_modality_says(folder, tmp_path):
    write_all(tmp_path)
    write_vectors(tmp_path, "pseudo_text", width=5, seed=5)
    write_vectors(tmp_path, "pseudo_images", width=6, seed=6)
    model, (train, *_) = mmsbr(tmp_path)
    assert not model.pseudo_maps and set(model.features) == {"text", "images", "pseudo_text", "pseudo_images"}
    assert_equals_plain(model.double(), next(iter(train)))
    half, _ = mmsbr(tmp_path, pseudo_image_features="none")
    assert list(half.pseudo_maps) == ["images"] and "pseudo_images" not in half.features
    assert "pseudo_text" not in mmsbr(tmp_path, item_features="none")[0].features  # nothing to compare it with
    assert list(mmsbr(tmp_path, con_weight=0)[0].features) == ["text", "images"]


def test_anchors_are_drawn_and_each_is_compared_with_all(folder, monkeypatch):
    model, (train, *_) = mmsbr(folder, con_anchors=4)
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n).flip(0))
    assert_equals_plain(model.double(), next(iter(train)), anchors=[12, 11, 10, 9])


def test_chunks_of_items_that_are_computed_again_give_the_same_numbers(folder, monkeypatch):
    """With dropout: a piece that is computed again must draw as it did before."""
    model, (train, *_) = mmsbr(folder, modality_dropout=0.5, hidden_dropout_prob=0.5, n_rounds=2)
    batch, found = next(iter(train)), []
    monkeypatch.setattr(modal_items, "numbers_at_a_time", lambda _: 1)  # an item at a time
    for most in (modal_items.MOST_KEPT, 0):
        monkeypatch.setattr(modal_items, "MOST_KEPT", most)
        torch.manual_seed(1)
        model.train().zero_grad()
        loss = sum(model.calculate_loss(batch))
        loss.backward()
        found.append((loss, [p.grad.clone() for p in model.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(*pair) for pair in zip(found[0][1], found[1][1]))


# Known values


def test_the_distance_of_two_gaussians():
    """Means (0, 1) and (3, 1), variances (1, 4) and (4, 1): 9 + 2."""
    session, item = torch.tensor([[0.0, 1.0, 1.0, 2.0]]), torch.tensor([[3.0, 1.0, 2.0, 1.0]])
    assert (as_row(session) @ as_column(item).t()).item() == 11
    assert (session.square().sum() - as_query(session) @ as_key(item).t()).item() == 11


def test_the_released_contrast_of_known_vectors():
    """Three orthonormal items: log10 of 1 + e + 1 less log10 of e, three times; the two nearest alone without a 1."""
    eye = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    e = torch.e
    assert hardest_contrast(eye, eye, 100).item() == pytest.approx(3 * torch.tensor((2 + e) / e).log10().item())
    assert hardest_contrast(eye, eye, 2).item() == pytest.approx(3 * torch.tensor((1 + e) / e).log10().item())


def test_a_far_price_counts_against_an_item_and_for_it_in_the_released_form(folder):
    items, lengths = some_sessions()
    model, _ = mmsbr(folder)
    base = mmsbr(folder, price_factor="none")[0]
    released = mmsbr(folder, price_factor="plus")[0]
    for other in (base, released):
        other.load_state_dict(model.state_dict(), strict=False)
        other.double().eval()
    with torch.no_grad():
        model.double().eval().price_weight.fill_(1.3)
        layout = PackedLayout(lengths)
        packed = layout.pack(items)
        paid = model.prices.sessions(model.price_level[packed], model.category[packed], layout)
        far = torch.cdist(paid, model.prices.items(model.price_level, model.category))[:, 1:].square()
    interest, weight = scores(base, items, lengths), torch.tensor(1.3).exp().log1p()
    torch.testing.assert_close(scores(released, items, lengths), interest * (1 + far))
    found, wanted = scores(model, items, lengths), interest - weight * far
    torch.testing.assert_close(found - found[:, :1], wanted - wanted[:, :1])  # but for a number of each session


# What may and may not move scores


@pytest.mark.parametrize("settings", SWITCHES)
def test_scores_depend_on_nothing_but_the_session(settings, folder):
    model = mmsbr(folder, **settings)[0].eval()
    items, lengths = some_sessions()
    together = scores(model, items, lengths)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scores(model, items[order], lengths[order]), together[order], atol=1e-5, rtol=1e-5)
    alone = torch.cat([scores(model, items[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for layer in (model.train().item_embedding, *model.features.values()):
            layer.weight[0] = 7.0  # what stands in the row of padding
    torch.testing.assert_close(scores(model.eval(), items, lengths), together, atol=1e-5, rtol=1e-5)
    assert torch.equal(scores(model, items, lengths), scores(model, items, lengths))


@pytest.mark.parametrize("factor", ["none", "minus", "plus"])
def test_prices_move_scores_unless_they_count_nothing(factor, tmp_path):
    items, lengths = some_sessions()
    write_all(tmp_path)
    found = []
    for seed in (1, 2):
        write_sides(tmp_path, width=6, seed=seed)
        write_vectors(tmp_path, "images", width=6)
        found.append(scores(mmsbr(tmp_path, price_factor=factor)[0].eval(), items, lengths))
    assert torch.equal(*found) == (factor == "none")


@pytest.mark.parametrize("kind", ["text", "images"])
def test_each_modality_moves_scores_unless_it_is_drawn_at_random(kind, tmp_path):
    items, lengths = some_sessions()
    write_all(tmp_path)
    found = {}
    for seed in (3, 4):
        write_vectors(tmp_path, kind, width=6, seed=seed)
        for init in ("file", "random"):
            found.setdefault(init, []).append(scores(mmsbr(tmp_path, feature_init=init)[0].eval(), items, lengths))
    assert not torch.equal(*found["file"]) and torch.equal(*found["random"])


def test_items_are_made_once_an_evaluation(folder, monkeypatch):
    model, (train, *_) = mmsbr(folder)
    calls, original = [], type(model.items).of_some
    monkeypatch.setattr(type(model.items), "of_some", lambda *x: calls.append(1) or original(*x))
    items, lengths = some_sessions()
    model.eval()
    before = [scores(model, items, lengths) for _ in range(3)][0]
    assert len(calls) == 1
    sum(model.train().calculate_loss(next(iter(train)))).backward()
    assert len(calls) == 2
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.allclose(scores(model.eval(), items, lengths), before)


# Training, and what is kept of it


@pytest.mark.parametrize("seed", range(4))
def test_sessions_start_on_the_side_of_their_items(seed, folder):
    sums = {}
    for start in ("sum", "any"):
        torch.manual_seed(seed)
        sums[start] = mmsbr(folder, interest_start=start)[0].interest.weight.weight.detach()
    assert sums["sum"].sum() == pytest.approx(2) and (sums["any"] < 0).any()
    torch.testing.assert_close(sums["sum"] / sums["sum"].max(), sums["any"].abs() / sums["any"].abs().max())


def test_dropout_of_the_first_epoch_only(folder):
    model, (train, *_) = mmsbr(folder, modality_dropout=0.5, dropout_epochs="first")
    batch = next(iter(train))

    def n_losses(epoch):
        model.begin_epoch(epoch)
        return len({sum(model.train().calculate_loss(batch)).item() for _ in range(2)})

    assert [n_losses(epoch) for epoch in (0, 1, 2, 0)] == [2, 1, 1, 2]
    model.config["dropout_epochs"] = "all"
    assert [n_losses(epoch) for epoch in (0, 1)] == [2, 2]


@pytest.mark.parametrize("name", ["modality_dropout", "hidden_dropout_prob"])
def test_each_dropout_moves_the_loss(name, folder):
    model, (train, *_) = mmsbr(folder, **{name: 0.5})
    batch = next(iter(train))
    assert len({sum(model.train().calculate_loss(batch)).item() for _ in range(2)}) == 2


def test_features_keep_the_values_of_their_file(folder):
    model, (train, *_) = mmsbr(folder)
    for kind in ("text", "images"):
        assert torch.equal(model.features[kind].weight, train._dataset.item_features("auto", "error", None, kind))
    drawn = mmsbr(folder, feature_init="random")[0]
    assert set(drawn.features) == {"text", "images", "pseudo_text", "pseudo_images"}
    for layer in drawn.features.values():
        assert layer.weight.shape == (13, 8) and layer.weight.abs().max() <= 8**-0.5 and not layer.weight[0].any()


@pytest.mark.parametrize("more", [{}, {"price_factor": "plus", "category_column": "none", "feature_init": "random"}])
def test_a_run_is_resumed_bit_by_bit_and_recommends_from_its_checkpoint(more, folder):
    given = make_config("MMSBR", folder, **{**SMALL, "modality_dropout": 0.2, **more}, epochs=3).external_config_dict
    undisturbed = run("MMSBR", "cycle", config_dict={**given, "checkpoint_dir": "undisturbed"})
    run("MMSBR", "cycle", config_dict={**given, "epochs": 1, "checkpoint_dir": "stopped"})
    resumed = run("MMSBR", "cycle", config_dict={**given, "resume": True, "checkpoint_dir": "stopped"})
    assert resumed["epochs"] == 3 and resumed["test_result"] == undisturbed["test_result"]
    states = [load_checkpoint(result["checkpoint"])["state_dict"] for result in (resumed, undisturbed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    recommender = Recommender.load(resumed["checkpoint"])
    model = mmsbr(folder, **more)[0]
    model.load_state_dict(states[0])
    items, lengths = some_sessions()
    assert torch.equal(scores(recommender.network, items, lengths), scores(model.eval(), items, lengths))


# What is used, what is lacking, and what is refused


def test_it_says_what_it_uses_and_what_makes_the_rest(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    mmsbr(folder)
    assert "MMSBR uses text, images, prices within categories\n" in caplog.text
    caplog.clear()
    mmsbr(folder, feature_init="random", image_features="none", category_column="none", price_factor="plus")
    assert "MMSBR uses text (drawn at random, no file is read), prices\n" in caplog.text
    caplog.clear()
    bare = write_sequences(cycle_sequences(), tmp_path, "cycle")
    model, (train, *_) = mmsbr(bare)
    for said in ("uses IDs alone; it lacks text (make them with 'recbole-diffusion features --dataset=cycle')", "--of=images",
                 "prices (write a column price:float into cycle.item"):  # fmt: skip
        assert said in caplog.text
    model.calculate_loss(next(iter(train)))
    assert model.loss_names == ("recommendation",) and model.item_vectors().shape == (13, 8)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"image_features": "x.images.features.npz"}, "build it with 'recbole-diffusion features --dataset=x --of=images'"),
        ({"pseudo_text_features": "x.pseudo_text.features.npz"}, "--dataset=x --of=labels"),
        ({"pseudo_image_features": "x.pseudo_images.features.npz"}, "build it with save_item_features"),
        ({"item_features": "x.features.npz"}, "build it with 'recbole-diffusion features --dataset=x'"),
        ({"price_column": "prise"}, r"cycle.item' has no column 'prise:float': write it there, or make the file with "
         "'recbole-diffusion prepare cycle --source=RAW_FILE --meta=METADATA'"),
        ({"price_column": "prise"}, "did you mean 'price'"),
        ({"category_column": "brand"}, "cycle.item' has no column 'brand:token_seq'"),
        ({"price_column": "categories"}, "'kind.' is no price"),
    ],
)  # fmt: skip
def test_what_is_named_and_missing_is_refused_in_one_line(settings, message, folder):
    with pytest.raises(UsageError, match=message) as refused:
        mmsbr(folder, **settings)
    assert "\n" not in str(refused.value)


def test_what_a_setting_needs_is_refused_in_one_line(tmp_path):
    bare = write_sequences(cycle_sequences(), tmp_path, "cycle")
    for settings, message in [
        ({"price_factor": "plus"}, "price_factor: plus needs prices, which dataset 'cycle' lacks: write a column price:float"),
        ({"price_factor": "plus", "price_column": "none"}, "leave price_column at auto"),
        ({"price_column": "cost"}, "cycle.item' has no column 'cost:float'"),
        ({"feature_init": "random", "item_features": "none", "image_features": "none"}, "has nothing to draw"),
        ({"train_view": "sequence"}, "leave train_view at prefix"),
        ({"n_heads": 3}, "hidden_size 8 is not a multiple of n_heads 3"),
        ({"con_weight": -1}, "con_weight must lie in"),
        ({"price_factor": "times"}, "price_factor must be one of minus, none, plus, got 'times'"),
    ]:
        with pytest.raises(UsageError, match=message) as refused:
            mmsbr(bare, **settings)
        assert "\n" not in str(refused.value)


def test_an_item_without_a_picture_follows_missing_features(tmp_path):
    write_all(tmp_path)
    write_vectors(tmp_path, "images", n_items=11, width=6)
    with pytest.raises(UsageError, match="images.features.npz' lacks 1 of 12 items"):
        mmsbr(tmp_path)
    assert not mmsbr(tmp_path, missing_features="zero")[0].features["images"].weight.any(1).all()


def test_pseudo_vectors_of_another_width_are_refused(tmp_path):
    write_all(tmp_path)
    write_vectors(tmp_path, "pseudo_images", width=5)
    with pytest.raises(UsageError, match="pseudo_images.features.npz' has 5 values per item, 6 are expected"):
        mmsbr(tmp_path)


def test_prices_that_cannot_be_read(tmp_path):
    write_all(tmp_path)
    for price, message in (("cheap", "'cheap' is no price"), ("", "has no price of any item of the data")):
        write_item_file(tmp_path, ["item_id:token\tprice:float", *(f"i{n}\t{price}" for n in range(1, 13))])
        with pytest.raises(UsageError, match=message):
            mmsbr(tmp_path)
