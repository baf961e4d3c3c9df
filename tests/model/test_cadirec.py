"""CaDiRec: fast equals plain, SASRec without diffusion, known answers, and the meaning of its switches."""

import math

import plain_cadirec as plain
import pytest
import torch
from test_simdiffrec import FakeData, batch

from recbole_diffusion.diffusion.gaussian import reverse_chain
from recbole_diffusion.diffusion.schedules import alpha_bars, named_betas
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model.cadirec import CaDiRec
from recbole_diffusion.model.simdiffrec import SimDiffRec
from recbole_diffusion.testing import make_config

SMALL = {"hidden_size": 16, "inner_size": 32, "diffusion_steps": 50, "k_candidates": 4, "mask_ratio": 0.3}
SMALL.update(hidden_dropout_prob=0.0, attn_dropout_prob=0.0, denoiser_dropout_prob=0.0, initializer_range=0.5)


class Catalogue(FakeData):
    def __init__(self, n_items):
        self.n_items = n_items

    def num(self, field):
        return self.n_items + 1


def build(model=CaDiRec, seed=3, n_items=60, **settings):
    torch.manual_seed(seed)
    small = SMALL if model is CaDiRec else {key: SMALL[key] for key in SMALL if not key.startswith(("k_", "mask", "den"))}
    config = make_config(model.__name__, "unused", MAX_ITEM_LIST_LENGTH=12, **{**small, **settings})
    return model(config, Catalogue(n_items))


def replayed(model, lengths, width, seed):
    """What the model draws after this seed, in its order, spread over padded rows."""
    torch.manual_seed(seed)
    config, layout, d = model.config, PackedLayout(lengths), model.config["hidden_size"]
    masked = torch.rand(layout.n_tokens) < config["mask_ratio"]
    touched = torch.zeros(len(lengths), dtype=torch.bool).index_fill(0, layout.row[masked], True)
    kept, by_length = touched[layout.row], lengths.argsort(stable=True)
    drawn = {name: torch.zeros(len(lengths), width, d, dtype=torch.float64) for name in ("first", "noise")}
    drawn.update(masked=torch.zeros(len(lengths), width, dtype=torch.bool), t=torch.zeros_like(lengths))
    drawn["choice"] = torch.zeros(len(lengths), width, 2, dtype=torch.long)
    drawn["masked"][layout.row, layout.position] = masked
    at_masked = layout.row[masked], layout.position[masked]
    if not config["twin"]:
        drawn["t"][by_length[touched[by_length]]] = torch.randint(config["diffusion_steps"], (int(touched.sum()),))
        drawn["first"][layout.row[kept], layout.position[kept]] = torch.randn(int(kept.sum()), d, dtype=torch.float64)
        drawn["noise"][at_masked] = torch.randn(int(masked.sum()), d, dtype=torch.float64)
    drawn["choice"][at_masked] = torch.randint(config["k_candidates"], (int(masked.sum()), 2))
    return drawn


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"twin": True},
        {"pos_align": "start", "mse_weight": 0.5, "denoiser": "transformer"},
        {"context_noise": False, "denoiser_layers": 1, "encoder": "hstu"},
        {"mask_ratio": 0.05, "encoder": "ligr", "twin": True, "denoiser": "transformer"},
    ],
)
def test_packed_equals_padded_in_values_and_gradients(settings):
    model = build(loss_type="CE", **settings).double()
    items, lengths, target = batch()
    drawn = replayed(model, lengths, items.shape[1], seed=5)
    assert drawn["masked"].any() and not drawn["masked"].any(1).all()  # some histories have none

    torch.manual_seed(5)
    fast = model.loss_parts(items, lengths, target)
    slow = plain.loss_parts(model, items, lengths, target, drawn)
    assert fast.keys() == slow.keys()
    parameters = dict(model.named_parameters())
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-7, rtol=1e-6)
        pair = [torch.autograd.grad(parts[name], list(parameters.values()), retain_graph=True, allow_unused=True) for parts in (fast, slow)]
        for parameter, one, two in zip(parameters, *pair):
            one, two = (torch.zeros(1) if g is None or not g.any() else g for g in (one, two))
            torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-5, msg=f"{name}: {parameter}")


def test_the_contrast_does_not_move_the_items_and_the_diffusion_does_not_move_the_encoder():
    model = build()
    parts = model.loss_parts(*batch())
    gradient = torch.autograd.grad(parts["contrast"], model.item_embedding.weight, retain_graph=True, allow_unused=True)[0]
    assert gradient is None or not gradient.any()
    encoder = list(model.recommender.parameters())
    assert all(g is None for g in torch.autograd.grad(parts["diffusion"], encoder, retain_graph=True, allow_unused=True))
    assert torch.autograd.grad(parts["diffusion"], model.item_embedding.weight)[0].abs().sum() > 0


@pytest.mark.parametrize("loss_type", ["BCE", "CE"])
def test_without_diffusion_it_is_sasrec_with_sasrecs_random_numbers(loss_type):
    losses = []
    for model in (CaDiRec, SimDiffRec):
        network = build(model, alpha=0, beta=0, loss_type=loss_type, hidden_dropout_prob=0.3, attn_dropout_prob=0.2)
        torch.manual_seed(1)
        losses.append(network.loss_parts(*batch()))
    assert list(losses[0]) == list(losses[1]) == ["recommendation"]
    assert torch.equal(losses[0]["recommendation"], losses[1]["recommendation"])


def test_histories_without_a_masked_position_count_as_zero_in_the_mean():
    model = build(alpha=0, beta=1).double()
    items, lengths, target = batch()
    torch.manual_seed(5)
    model.loss_parts(items, lengths, target)
    layout = PackedLayout(lengths)
    packed, masked = layout.pack(items), torch.zeros(layout.n_tokens, dtype=torch.bool)
    masked[layout.last[[2, 4]]] = True

    def loss(rows):
        torch.manual_seed(1)
        kept = torch.isin(layout.row, torch.tensor(rows))
        return model._diffuse(packed[kept], PackedLayout(lengths[rows]), masked[kept])[0]

    torch.testing.assert_close(9 * loss(list(range(9))), 2 * loss([2, 4]))
    nothing, candidates = model._diffuse(packed, layout, torch.zeros_like(masked))
    assert nothing == 0 and len(candidates) == 0
    nothing.backward()  # no masked position at all: zero, with a gradient of zero
    assert all(p.grad is not None and not p.grad.any() for p in model.denoiser.parameters())


# Known answers


def on_beauty(**settings):
    torch.manual_seed(0)
    return CaDiRec(make_config("CaDiRec", "unused", MAX_ITEM_LIST_LENGTH=50, **settings), Catalogue(12101))


def test_schedule_of_the_released_code():
    betas = named_betas("sqrt", 1000)
    assert betas[[0, 1, 500, 999]].tolist() == pytest.approx([0.023400, 0.013094, 0.002413, 0.999], abs=1e-6)
    assert int((betas == 0.999).sum()) == 1
    bars = alpha_bars(betas)
    assert bars[[0, 500, 999]].tolist() == pytest.approx([0.976600, 0.295066, 4.5465e-7], rel=2e-5)
    assert float(bars.sqrt().mean()) == pytest.approx(0.535419, abs=1e-6)
    chain = reverse_chain(betas, 1000, variance="posterior")  # from t = 999 down to 0
    assert (chain.clean[-2], chain.state[-2]) == pytest.approx((0.357572, 0.642389), abs=1e-6)
    assert chain.noise[-2] ** 2 == pytest.approx(0.008467, abs=1e-6)
    assert (chain.clean[-1], chain.state[-1]) == (1, 0)
    process = on_beauty(hidden_size=2, inner_size=2).process
    assert process.steps == 1000 and float(process.noise[0]) == pytest.approx(0.152971, abs=1e-6)


def test_size_of_the_released_network():
    sizes = [sum(p.numel() for p in on_beauty(item_bias=bias).parameters()) for bias in (True, False)]
    mask_row = 64 + 1  # of an item that the released code makes and never uses
    assert sizes[0] == 979_911 - mask_row and sizes[0] - sizes[1] == 12102


def test_losses_at_the_start():
    model = on_beauty(alpha=1, beta=1)
    torch.manual_seed(0)
    items, lengths = torch.randint(1, 12102, (256, 50)), torch.randint(3, 10, (256,))
    items = items * (torch.arange(50) < lengths[:, None])
    parts = model.loss_parts(items, lengths, items[:, 0])
    touched = float((1 - 0.8 ** lengths.double()).mean())
    assert parts["diffusion"].item() == pytest.approx(touched * math.log(12101), rel=0.1)
    assert parts["recommendation"].item() == pytest.approx(2 * math.log(2), rel=0.05)
    assert parts["contrast"].item() > math.log(511)  # an inner product of wide states is worse than a guess
