"""SimDiffRec: fast equals plain, SASRec without diffusion, and the meaning of its switches."""

import plain_simdiffrec as plain
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.sasrec import SASRec

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model.simdiffrec import SimDiffRec
from recbole_diffusion.testing import make_config

N_ITEMS = 60
SMALL = {"hidden_size": 16, "inner_size": 32, "k_noise": 4, "k_sample": 3, "diffusion_steps": 50}
SMALL.update(hidden_dropout_prob=0.0, attn_dropout_prob=0.0, initializer_range=0.5)


class FakeData:
    """As much of a data set as a model asks for."""

    def num(self, field):
        return N_ITEMS + 1


def build(model=SimDiffRec, **settings):
    torch.manual_seed(3)
    config = make_config(model.__name__, "unused", MAX_ITEM_LIST_LENGTH=12, **settings)
    return model(config, FakeData())


def batch(seed=0, rows=9, width=12):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=random)
    items = torch.randint(1, N_ITEMS + 1, (rows, width), generator=random)
    items = items * (torch.arange(width) < lengths[:, None])
    return items, lengths, torch.randint(1, N_ITEMS + 1, (rows,), generator=random)


def drawn_steps(model, lengths, seed):
    """The random steps that the model draws, so that the plain version can use the same."""
    torch.manual_seed(seed)
    steps = torch.randint(model.process.steps, lengths.shape)
    return steps


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pos_align": "start"},
        {"noise_param": "convex", "mse_weight": 0.0},
        {"encoder": "ligr"},
        {"encoder": "hstu"},
        {"encoder": "ligr", "share_denoiser": True},
        {"encoder": "hstu", "share_denoiser": True},
    ],
)
def test_packed_equals_padded_in_values_and_gradients(settings):
    model = build(**SMALL, **settings)
    items, lengths, target = batch()
    steps = drawn_steps(model, lengths, seed=5)

    torch.manual_seed(5)
    fast = model.loss_parts(items, lengths, target)
    sum(fast.values()).backward()
    fast_gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    slow = plain.loss_parts(model, items, lengths, target, steps)
    sum(slow.values()).backward()
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(fast_gradients[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_noise_per_distinct_item_equals_noise_per_token():
    model = build(**SMALL)
    items, lengths, _ = batch(seed=1)
    layout = PackedLayout(lengths)
    fast = model._noise(layout.pack(items))
    slow = layout.pack(plain.similarity_noise(model, items))
    torch.testing.assert_close(fast, slow)


def test_noise_never_holds_the_item_itself_or_padding():
    model = build(**SMALL)
    items = torch.arange(1, N_ITEMS + 1)
    nearest = model._similar_items(items)
    assert nearest.shape == (N_ITEMS, 4) and (nearest > 0).all() and (nearest != items[:, None]).all()


def test_noise_refresh_keeps_neighbours_for_that_many_steps():
    model = build(**SMALL, noise_refresh=2)
    items = torch.arange(1, N_ITEMS + 1)
    first = model._similar_items(items)
    with torch.no_grad():
        model.item_embedding.weight.copy_(torch.randn_like(model.item_embedding.weight))
    assert torch.equal(first, model._similar_items(items))
    assert not torch.equal(first, model._similar_items(items))


def test_without_diffusion_it_is_recboles_sasrec():
    shared = {"hidden_size": 16, "inner_size": 32, "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2}
    ours = build(**shared, alpha=0, beta=0, pos_align="start").eval()
    theirs = build(SASRec, **shared).eval()
    ours.load_state_dict(from_recbole(theirs))
    items, lengths, target = batch(seed=2)
    interaction = Interaction({"item_id_list": items, "item_length": lengths, "item_id": target})
    with torch.no_grad():
        torch.testing.assert_close(
            ours.full_sort_predict(interaction), theirs.full_sort_predict(interaction), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(ours.predict(interaction), theirs.predict(interaction), atol=1e-5, rtol=1e-5)


def from_recbole(sasrec):
    """State of RecBole's SASRec under our names; RecBole has three projections where we have one."""
    state = {
        "item_embedding.weight": sasrec.item_embedding.weight,
        "recommender.position_embedding.weight": sasrec.position_embedding.weight,
        "recommender.LayerNorm.weight": sasrec.LayerNorm.weight,
        "recommender.LayerNorm.bias": sasrec.LayerNorm.bias,
    }
    for i, layer in enumerate(sasrec.trm_encoder.layer):
        theirs, ours = layer.multi_head_attention, f"recommender.transformer.attention.{i}"
        for kind in ("weight", "bias"):
            projections = [getattr(getattr(theirs, name), kind) for name in ("query", "key", "value")]
            state[f"{ours}.qkv.{kind}"] = torch.cat(projections)
            for name in ("dense", "LayerNorm"):
                state[f"{ours}.{name}.{kind}"] = getattr(getattr(theirs, name), kind)
            for name in ("dense_1", "dense_2", "LayerNorm"):
                target = f"recommender.transformer.feed_forward.{i}.{name}.{kind}"
                state[target] = getattr(getattr(layer.feed_forward, name), kind)
    return state


def test_augmentation_replaces_the_most_confident_share():
    model = build(**SMALL, aug_ratio=0.5)
    items, lengths, _ = batch(seed=4)
    layout = PackedLayout(lengths)
    packed = layout.pack(items)
    confidence, restored = torch.rand(layout.n_tokens), torch.randn(layout.n_tokens, 16)
    positive, negative = model._augment(packed, layout, confidence, restored)
    best = (restored @ model.item_embedding.weight[1:].t()).argsort(descending=True) + 1
    for row in range(len(lengths)):
        tokens = (layout.row == row).nonzero().squeeze(1)
        count = max(1, int(lengths[row]) // 2)
        chosen = tokens[confidence[tokens].topk(count).indices]
        kept = tokens[~torch.isin(tokens, chosen)]
        assert torch.equal(positive[chosen], best[chosen, 0]) and torch.equal(negative[chosen], best[chosen, 2])
        assert torch.equal(positive[kept], packed[kept]) and torch.equal(negative[kept], packed[kept])


def test_exclude_original_never_restores_the_same_item():
    model = build(**SMALL, aug_ratio=1.0, exclude_original=True)
    items, lengths, _ = batch(seed=4)
    layout = PackedLayout(lengths)
    packed = layout.pack(items)
    restored = model.item_embedding.weight[packed] * 10  # the original would win everywhere
    positive, _ = model._augment(packed, layout, torch.rand(len(packed)), restored)
    assert (positive != packed).all()


def test_random_positions_ignore_confidence():
    model = build(**SMALL, positions="random")
    layout = PackedLayout(torch.full((50,), 10))
    confidence = torch.linspace(1, 0, 10).repeat(50)
    chosen = model._most_confident(layout, confidence, torch.full_like(layout.length, 2))
    assert len(chosen) == 100 and len(layout.position[chosen].unique()) > 5


def test_contrast_equals_a_loop_over_users():
    model = build(**SMALL)
    ends = torch.randn(5, 3, 16)
    cosine = torch.nn.functional.cosine_similarity
    total = 0.0
    for u in range(5):
        candidates = [*ends[:, 1], *ends[:, 2]]
        scores = torch.stack([cosine(ends[u, 0], c, dim=0) / model.config["tau"] for c in candidates])
        total += -(scores[u].exp() / scores.exp().sum()).log()
    torch.testing.assert_close(model._contrast(ends, torch.arange(5)), total / 5)


def test_mask_same_target_drops_users_with_the_same_next_item():
    model = build(**SMALL, mask_same_target=True)
    ends, target = torch.randn(4, 3, 16), torch.tensor([7, 7, 8, 7])
    cosine = torch.nn.functional.cosine_similarity
    total = 0.0
    for u in range(4):
        users = [v for v in range(4) if v == u or target[v] != target[u]]
        scores = {(v, view): cosine(ends[u, 0], ends[v, view], dim=0) / model.config["tau"] for v in users for view in (1, 2)}
        total += -(scores[u, 1] - torch.stack(list(scores.values())).logsumexp(0))
    torch.testing.assert_close(model._contrast(ends, target), total / 4)


@pytest.mark.parametrize(
    "idle",
    [
        {"noise": "gaussian", "k_noise": 99},
        {"hard_negative": False, "k_sample": 99},
        {"alpha": 0, "k_sample": 99},
        {"official_compat": True, "k_sample": 99},
        {"alpha": 0, "beta": 0, "k_noise": 99, "k_sample": 99},
    ],
)
def test_settings_that_do_nothing_need_not_fit_the_catalogue(idle):
    assert all(loss.isfinite() for loss in build(**{**SMALL, **idle}).loss_parts(*batch()).values())


def test_released_behaviour_fills_short_histories_with_random_items():
    model = build(**SMALL, official_compat=True, aug_ratio=0.5)  # 6 of 12 positions for everybody
    items, lengths, _ = batch(seed=6)
    layout, seen = PackedLayout(lengths), []
    model.item_embedding.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    packed = layout.pack(items)
    confidence = torch.rand(layout.n_tokens)
    model._encode_random_views(packed, layout, confidence)
    views, grown = seen[1], PackedLayout(lengths.clamp(min=6))
    for row, length in enumerate(lengths.tolist()):
        tokens = (grown.row == row).nonzero().squeeze(1)
        assert len(tokens) == max(6, length)
        same = (views[tokens[-length:], 0] == items[row, :length]).sum()
        assert same >= length - 6
        if length <= 6:
            assert same < length or length == 1  # random items, equal by chance only


def test_released_behaviour_counts_padding_in_the_diffusion_loss():
    torch.manual_seed(0)
    model = build(**SMALL, official_compat=True)
    items, lengths, target = batch(seed=7)
    model.loss_parts(items, lengths, target)["diffusion"].backward()
    assert model.item_embedding.weight.grad[0].abs().sum() > 0
    honest = build(**SMALL)
    sum(honest.loss_parts(items, lengths, target).values()).backward()
    assert honest.item_embedding.weight.grad[0].abs().sum() == 0


@pytest.mark.parametrize("settings", [{"k_noise": N_ITEMS}, {"k_sample": N_ITEMS + 1}])
def test_ranks_beyond_the_catalogue_are_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        build(**{**SMALL, **settings})


# What each switch means


def test_a_perfect_denoiser_is_recovered_by_the_reverse_jumps():
    model = build(**SMALL, confidence_t="T", reverse_steps=4)
    items, layout, _ = packed_batch(model)
    clean, noise = model.item_embedding(items).detach(), model._noise(items).detach()
    model._denoise = lambda state, t, layout: clean
    restored, confidence = model._reverse(clean, noise, torch.zeros_like(items), items, layout)
    assert torch.equal(restored, clean) and (confidence > 0).all()


def packed_batch(model, seed=9):
    items, lengths, target = batch(seed=seed)
    layout = PackedLayout(lengths)
    return layout.pack(items), layout, target


def test_cosine_neighbours_equal_a_naive_search():
    model = build(**SMALL, sim_metric="cosine")
    table = model.item_embedding.weight.detach()
    similarity = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
    similarity[:, 0] = similarity.fill_diagonal_(-2)[:, 0] = -2
    items = torch.arange(1, N_ITEMS + 1)
    assert torch.equal(model._similar_items(items).sort().values, similarity[items].topk(4).indices.sort().values)


@pytest.mark.parametrize("detach", [True, False])
def test_detach_noise_decides_whether_neighbours_learn_from_the_noise(detach):
    model = build(**SMALL, detach_noise=detach)
    noise = model._noise(torch.tensor([1, 2]))
    assert noise.requires_grad is not detach


def test_gaussian_noise_is_standard_normal():
    noise = build(**SMALL, noise="gaussian")._noise(torch.ones(5000, dtype=torch.long))
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("alpha, passes", [(0.1, 1), (0, 0)])
def test_what_only_the_contrast_reads_is_restored_only_for_it(alpha, passes):
    model, done = build(**{**SMALL, "alpha": alpha}, confidence_t="T"), []
    reverse = model._reverse
    model._reverse = lambda *given: done.append(1) or reverse(*given)
    model.loss_parts(*batch())
    assert len(done) == passes


def test_shared_denoiser_is_the_recommenders_transformer():
    shared, own = build(**SMALL, share_denoiser=True), build(**SMALL, denoiser_layers=1)
    assert shared.denoiser.transformer is shared.recommender.transformer
    assert len(own.denoiser.transformer.attention) == 1 and len(own.recommender.transformer.attention) == 2


def test_confidence_at_the_last_step_restores_from_pure_noise_in_jumps():
    model = build(**SMALL, confidence_t="T", reverse_steps=2)
    items, layout, _ = packed_batch(model)
    clean, noise = model.item_embedding(items), model._noise(items)
    last = torch.full_like(items, model.process.steps - 1)
    restored, confidence = model._reverse(clean, noise, torch.zeros_like(items), items, layout)
    first = model._denoise(noise, last, layout)  # zero terminal SNR: nothing of the history is left
    second = model._denoise(model.process.add_noise(first, noise, last // 2), last // 2, layout)
    torch.testing.assert_close(restored, second)
    probability = (second @ model.item_embedding.weight[1:].t()).softmax(-1)
    torch.testing.assert_close(confidence, probability.amax(-1))
    assert model._diffuse(items, layout)[2].equal(model._diffuse(items, layout)[2])  # no random step is left in it


def test_without_hard_negative_there_is_one_view():
    model = build(**SMALL, hard_negative=False)
    items, layout, _ = packed_batch(model)
    confidence, restored = torch.rand(len(items)), torch.randn(len(items), 16)
    assert model._encode_views(items, layout, confidence, restored)[1].shape[1] == 2
    assert build(**SMALL)._encode_views(items, layout, confidence, restored)[1].shape[1] == 3


def test_ce_positions_last_is_cross_entropy_at_the_ends():
    model = build(**SMALL, ce_positions="last", train_view="prefix", alpha=0, beta=0)
    items, lengths, target = batch(seed=9)
    loss = model.loss_parts(items, lengths, target)["recommendation"]
    scores = model.encode(items, lengths) @ model.item_embedding.weight[1:].t()
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, target - 1))


@pytest.mark.parametrize("loss_type", ["BCE", "SS"])
def test_sampled_losses_see_the_next_item_of_every_position(loss_type, monkeypatch):
    from recbole_diffusion.model import base, transformer_recommender

    module, name = {"BCE": (transformer_recommender, "binary_cross_entropy"), "SS": (base, "sampled_softmax")}[loss_type]
    seen, loss = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: seen.append(arguments) or loss(*arguments))
    model = build(**SMALL, loss_type=loss_type, alpha=0, beta=0, n_negatives=7)
    items, lengths, target = batch(seed=9)
    model.loss_parts(items, lengths, target)
    layout = PackedLayout(lengths)
    following = torch.cat([items[:, 1:], torch.zeros_like(items[:, :1])], 1)
    following[torch.arange(len(items)), lengths - 1] = target
    assert torch.equal(seen[0][2], layout.pack(following))
    assert len(seen[0][3]) == (7 if loss_type == "SS" else layout.n_tokens)
