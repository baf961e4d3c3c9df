"""CaDiRec: what is masked, what is proposed, what its switches change, and what its negatives may know."""

import pytest
import torch
from recbole.data.interaction import Interaction
from session_files import SPLIT, TRAIN, write_split
from test_cadirec import build
from test_simdiffrec import batch

from recbole_diffusion import processes, run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.later import later_items
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model import transformer_recommender
from recbole_diffusion.testing import cycle_sequences, make_config, small_settings, write_sequences
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.result import format_result


def packed(seed=0, rows=9):
    items, lengths, _ = batch(seed, rows)
    layout = PackedLayout(lengths)
    return layout.pack(items), layout


def parts_of(model, seed=5):
    torch.manual_seed(seed)
    return {name: part.detach() for name, part in model.loss_parts(*batch()).items()}


# Masks and views


def test_masks_have_their_rate_and_every_history_one_if_asked():
    _, layout = packed(rows=4000)
    torch.manual_seed(0)
    for least in (0, 1):
        masked = build(mask_ratio=0.1, min_masked=least)._mask(layout)
        count = torch.zeros(4000).index_add(0, layout.row, masked.float())
        alone = layout.length[layout.last] == 1
        assert masked.float().mean().item() == pytest.approx(0.1, abs=0.01 + 0.1 * least)
        assert count[alone].mean().item() == (pytest.approx(0.1, abs=0.05) if not least else 1)
        assert (count.min() >= 1) == bool(least)


def test_views_hold_two_draws_of_the_best_restored_items_at_masked_positions_only():
    model = build(k_candidates=10)
    items, layout = packed(rows=2000)
    torch.manual_seed(0)
    masked = model._mask(layout)
    _, candidates = model._diffuse(items, layout, masked)
    assert candidates.shape == (masked.sum(), 10) and candidates.min() > 0
    assert all(len(set(row)) == 10 for row in candidates[:50].tolist())
    one, two = model._replace(items, masked, candidates).unbind(1)
    assert torch.equal(one[~masked], items[~masked]) and torch.equal(two[~masked], items[~masked])
    for view in (one, two):
        place = (candidates == view[masked].unsqueeze(1)).float()
        assert (place.sum(1) == 1).all()
        assert place.mean(0).tolist() == pytest.approx([0.1] * 10, abs=0.02)
    assert (one[masked] == two[masked]).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_candidates_are_the_best_by_score_without_the_original_if_asked():
    items, layout = packed(rows=50)
    found = []
    for model in (build(), build(exclude_original=True)):
        torch.manual_seed(4)
        masked = model._mask(layout)
        found.append(model._diffuse(items, layout, masked)[1])
    plain, without = found
    original = items[masked]
    hit = (plain == original.unsqueeze(1)).any(1)
    assert hit.any() and not hit.all() and not (without == original.unsqueeze(1)).any()
    assert torch.equal(plain[~hit], without[~hit])
    state = plain[hit][plain[hit] != original[hit].unsqueeze(1)].view(int(hit.sum()), -1)
    assert torch.equal(state, without[hit][:, :-1])  # the others keep their order and the next best one follows


def test_generation_follows_the_chain_from_pure_noise_with_a_fixed_context():
    model = build(generation_steps=3).double().eval()
    items, layout = packed()
    torch.manual_seed(1)
    masked = model._mask(layout)
    state, _ = model._noised(items, layout, masked)
    torch.manual_seed(2)
    found = model._generate(state, layout, masked)
    torch.manual_seed(2)
    x, alpha_bar = torch.randn_like(state[masked]), model.process.signal**2
    with torch.no_grad():
        for now, then in ((49, 24), (24, 0), (0, None)):
            seen = state.clone()
            seen[masked] = x
            clean = model._denoise(seen, torch.full((layout.n_tokens,), now), layout)[masked]
            noise = (x - alpha_bar[now].sqrt() * clean) / (1 - alpha_bar[now]).sqrt()
            after = 1.0 if then is None else alpha_bar[then]
            x = clean * after**0.5 + (1 - after) ** 0.5 * noise
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-4)
    one, more = parts_of(build()), parts_of(build(generation_steps=3))
    assert torch.equal(one["diffusion"], more["diffusion"]) and not torch.equal(one["contrast"], more["contrast"])


# Noise


def test_context_is_noised_a_little_or_not_at_all_and_nothing_but_masks_by_the_twin():
    items, layout = packed()
    for settings, moved in (({}, True), ({"context_noise": False}, False), ({"twin": True}, False)):
        model = build(**settings)
        torch.manual_seed(1)
        masked = model._mask(layout)
        state, t = model._noised(items, layout, masked)
        clean = model.item_embedding(items)
        assert torch.equal(state[~masked], clean[~masked]) != moved
        assert (t is None) == ("twin" in settings)
        if moved:
            spread = (state - clean)[~masked].std().item()
            assert spread == pytest.approx(model.process.noise[0].item(), rel=0.1)
    assert not state[masked].any()


def test_the_twin_has_no_time_and_restores_the_same_from_the_same_mask():
    twins = [build(twin=True, diffusion_steps=steps) for steps in (5, 50)]
    assert not any("time" in name for name, _ in twins[0].named_parameters())
    first, second = (parts_of(twin) for twin in twins)
    assert all(torch.equal(first[name], second[name]) for name in first)
    items, layout = packed()
    masked = twins[0]._mask(layout)
    assert torch.equal(twins[0]._diffuse(items, layout, masked)[0], twins[0]._diffuse(items, layout, masked)[0])
    diffusing = build()
    assert not torch.equal(*(diffusing._diffuse(items, layout, masked)[0] for _ in range(2)))


# Losses


def test_the_contrast_waits_for_its_first_step():
    model, plain = build(warm_up_steps=2), build()
    for step in range(4):
        found, wanted = parts_of(model, step), parts_of(plain, step)
        assert torch.equal(found["diffusion"], wanted["diffusion"])
        assert torch.equal(found["contrast"], wanted["contrast"] * (step >= 2))
    other = build(warm_up_steps=2)
    other.load_training_state(model.training_state())
    assert parts_of(other)["contrast"] > 0


def test_a_batch_that_some_process_has_no_rows_of_is_no_step_of_the_warm_up():
    model = build(warm_up_steps=2)
    with processes.apart():
        model.loss_parts(*batch())
    assert model.training_state() == {"steps_taken": 0}
    model.loss_parts(*batch())
    assert model.training_state() == {"steps_taken": 1}


def test_an_impossible_schedule_is_refused_before_data_are_read_and_by_the_twin_not_at_all():
    with pytest.raises(UsageError, match="schedule linear with 5 steps: betas must lie in"):
        make_config("CaDiRec", "unused", schedule="linear", diffusion_steps=5)
    make_config("CaDiRec", "unused", schedule="linear", diffusion_steps=5, twin=True)


def test_padding_is_a_class_if_asked_and_items_have_a_bias():
    model = build(padding_in_softmax=True, alpha=0)
    sum(model.loss_parts(*batch()).values()).backward()
    assert model.item_embedding.weight.grad[0].abs().sum() > 0
    plain = build(alpha=0)
    sum(plain.loss_parts(*batch()).values()).backward()
    assert not plain.item_embedding.weight.grad[0].any()

    biased = build(item_bias=True)
    assert torch.equal(parts_of(biased)["diffusion"], parts_of(plain)["diffusion"])  # zero at the start
    with torch.no_grad():
        biased.item_bias[7] = 100
    items, layout = packed()
    masked = biased._mask(layout)
    assert (biased._diffuse(items, layout, masked)[1][:, 0] == 7).all()


def test_scores_do_not_know_the_vector_of_padding():
    model = build().eval()
    items, lengths, target = batch()
    rows = Interaction({"item_id_list": items, "item_length": lengths, "item_id": target})
    with torch.no_grad():
        before = model.full_sort_predict(rows)[:, 1:]
        model.item_embedding.weight[0] = 3
        assert torch.equal(model.full_sort_predict(rows)[:, 1:], before)


# What the negatives may know


def write(folder, place=-1, users=()):
    """A cycle in which some users have another item at a place."""
    sequences = cycle_sequences()
    for user in users:
        sequences[user][place] = sequences[user][place] % 12 + 1
    return write_sequences(sequences, folder, "cycle")


def prepared(folder, **settings):
    config = make_config("CaDiRec", folder, **{**small_settings("CaDiRec"), "mask_ratio": 0.3, **settings})
    loaders = build_loaders(config, create_dataset(config))
    return build_model(config, loaders[0]), loaders


def weights_after_an_epoch(folder, **settings):
    model, loaders = prepared(folder, **settings)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.01)
    for interaction in loaders[0]:
        optimizer.zero_grad()
        sum(model.calculate_loss(interaction)).backward()
        optimizer.step()
    return model.item_embedding.weight.detach()


@pytest.mark.parametrize("place", [-1, -2])
def test_training_knows_no_target_unless_the_negatives_leak(tmp_path, place):
    base, changed = write(tmp_path / "base"), write(tmp_path / "changed", place, [20, 31, 39])
    assert torch.equal(weights_after_an_epoch(base), weights_after_an_epoch(changed))
    leaking = [weights_after_an_epoch(folder, official_negatives=True) for folder in (base, changed)]
    assert not torch.equal(*leaking)


def test_official_negatives_are_nothing_that_the_user_ever_meets(tmp_path, monkeypatch):
    model, loaders = prepared(write(tmp_path), official_negatives=True)
    data = loaders[0]._dataset
    sequences = cycle_sequences()
    later, tokens = later_items(data), data.field2id_token["item_id"]
    for user, sequence in enumerate(sequences):
        number = data.token2id("user_id", str(data.field2id_token["user_id"][user + 1]))
        assert sorted(str(tokens[item]) for item in later[number]) == sorted(f"i{item}" for item in sequence[-2:])
    drawn = []
    monkeypatch.setattr(
        transformer_recommender, "unseen_items", lambda *given: drawn.append(given) or torch.ones_like(given[0])
    )
    interaction = next(iter(loaders[0]))
    model.calculate_loss(interaction)
    (rows, users, seen, _), = drawn
    for row, user in enumerate(interaction["user_id"].tolist()):
        assert set(later[user].tolist()) <= set(seen[users == row].tolist())


def test_sessions_of_ready_made_splits_end_with_the_training_part(tmp_path):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1], [3, 1]])
    settings = {**SPLIT, **small_settings("CaDiRec"), "official_negatives": True, "train_batch_size": 4}
    config = make_config("CaDiRec", folder, "shop", **settings)
    loaders = build_loaders(config, create_dataset(config))
    assert sum((later_items(loaders[0]._dataset) > 0).sum(1).tolist()) == 3
    model, interaction = build_model(config, loaders[0]), next(iter(loaders[0]))
    assert not model.later[interaction["session_id"]].any()
    assert all(part.isfinite() for part in model.calculate_loss(interaction))


def test_leaking_results_are_marked(tmp_path, caplog):
    folder = write(tmp_path)
    config = make_config("CaDiRec", folder, **{**small_settings("CaDiRec"), "epochs": 1}).external_config_dict
    assert run("CaDiRec", "cycle", config_dict=config)["leaks_test_labels"] is False
    assert "LEAK" not in caplog.text
    result = run("CaDiRec", "cycle", config_dict={**config, "official_negatives": True})
    assert result["leaks_test_labels"] is True and "official_negatives LEAK" in caplog.text
    assert "the model saw the test targets (official_negatives: True)" in format_result(result)
