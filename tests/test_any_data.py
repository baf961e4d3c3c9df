"""Every model of the package on random small data with random settings: what must hold whatever they are."""

import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from item_files import write_sides
from models import CONTRACTS
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.settings.abilities import REFUSE_TRIMMING
from recbole_diffusion.testing import make_config, small_settings, write_features, write_sequences
from recbole_diffusion.testing.settings import choices_of, documented
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.tensorboard import no_tensorboard
from recbole_diffusion.training.trainer import trainer_class

SIZES = {  # values of settings that are numbers; other sizes are those of a small network
    "hidden_size": [4, 8], "inner_size": [4, 8], "n_heads": [1, 2], "n_layers": [1, 2], "denoiser_layers": [1, 2],
    "n_blocks": [1, 2], "diffusion_steps": [1, 2, 5], "sampling_steps": [1, 2, 5], "ensemble_seeds": [1, 3],
    "reverse_steps": [1, 3], "k_noise": [1, 2], "k_sample": [2, 3], "n_negatives": [1, 4], "noise_refresh": [1, 3],
    "aug_ratio": [0.1, 0.5, 1.0], "alpha": [0.0, 0.3], "beta": [0.0, 0.3], "mse_weight": [0.0, 1.0], "tau": [0.05, 1.0],
    "hidden_dropout_prob": [0.0, 0.5], "attn_dropout_prob": [0.0, 0.5], "embedding_dropout_prob": [0.0, 0.5],
    "k_neighbors": [1], "corruption_steps": [0, 1, 2], "alignment_items": [0, 2], "graph_dropout": [0.0, 0.3],
    "lambda_std": [0.0, 0.1], "ddim_eta": [0.0, 1.0], "offset_strength": [0.0, 0.1],
    "num_codes": [1, 2], "code_noise": [0.0, 1.0], "code_anneal_steps": [0, 3], "code_restart_steps": [0, 1],
    "graph_folds": [0, 2], "svq_balance": [0.0, 0.01], "lambda_contrast": [0.0, 0.6],
}  # fmt: skip


def sequences():
    """A few users with 4 to 12 interactions each, among at most 9 items, repeats included."""
    items = st.integers(1, 9)
    return st.lists(st.lists(items, min_size=4, max_size=12), min_size=1, max_size=8)


@st.composite
def choices(draw, model):
    """A value for every setting of a model that has words, switches or a list of small sizes."""
    chosen = {"MAX_ITEM_LIST_LENGTH": draw(st.sampled_from([1, 2, 7, 20])), "seed": draw(st.integers(0, 5))}
    least = 2 if model in REFUSE_TRIMMING else 1  # a contrast needs another row
    chosen["train_batch_size"] = draw(st.sampled_from([least, 3, 64]))
    chosen["eval_batch_size"] = draw(st.sampled_from([1, 3, 64]))
    for key, setting in documented(model)[1].items():
        if key in SIZES:
            chosen[key] = draw(st.sampled_from(SIZES[key]))
        elif choices_of(setting):
            chosen[key] = draw(st.sampled_from(choices_of(setting)))
    return fitting({**small_settings(model), **chosen})


def fitting(chosen):
    """The same without combinations that the models refuse, so that few examples are lost."""
    if chosen.get("official_compat"):
        compatible = {"confidence_t": {"confidence_t": "train", "reverse_steps": 1, "rounding_loss": "full", "neighbour_search": "exact"}, "aug_pair": {"ce_positions": "last"}}
        chosen.update({k: v for key, needs in compatible.items() if key in chosen for k, v in needs.items()})
    sessions = {"corruption_steps", "n_companions", "n_levels", "n_mates", "price_factor", "neighbor_pool", "short_sessions"}
    of_sessions = sessions & set(chosen)
    if chosen.get("ce_positions") == "last" or "sampling_steps" in chosen or of_sessions:
        chosen["train_view"] = "prefix"
    for key, independent in {"neighbor_pool": "bank", "relation_residual": "always"}.items():
        if key in chosen:  # with another value scores depend on the batch
            chosen[key] = independent
    if chosen.get("neighbour_search") == "lists":
        chosen["noise_refresh"] = min(chosen["noise_refresh"], 1)
    if chosen.get("loss_type") in ("SS", "SCE") and "padding_in_softmax" in chosen:
        chosen["padding_in_softmax"] = False
    if chosen.get("official_codes"):
        chosen["svq"] = "ema"
    if chosen.get("schedule") == "linear":  # whose variances are large with few steps
        chosen["diffusion_steps"] = 32
    elif chosen.get("schedule") == "trunc_lin":
        chosen["diffusion_steps"] = max(2, chosen["diffusion_steps"])
    if "sampling_steps" in chosen:
        chosen["sampling_steps"] = min(chosen["sampling_steps"], chosen["diffusion_steps"])
    if "corruption_steps" in chosen:
        chosen["corruption_steps"] = min(chosen["corruption_steps"], chosen["diffusion_steps"])
        chosen["retrieval"] = chosen["retrieval"] or chosen["neighbors"] == "observable"
        if chosen.get("fusion") in ("early", "condition", "attention"):
            chosen["neighbors"] = "latent"
    return chosen


def write_modality(folder, chosen):
    """Vectors of all items that may occur, or of all but the last where the model can do without; their prices."""
    n_items, width = 9 if chosen["missing_features"] == "error" else 8, chosen["hidden_size"]
    write_features(folder, n_items=n_items, width=width)
    if "price_factor" in chosen:
        write_sides(folder, n_items=n_items, width=width)


def examine(model, data, chosen):
    """Train one epoch, evaluate, score: raises AssertionError, or UsageError when the settings do not go together."""
    contract = CONTRACTS[model]
    with tempfile.TemporaryDirectory() as folder:
        write_sequences(data, folder, "cycle")
        if contract.item_features:
            write_modality(folder, chosen)
        config = make_config(model, folder, **{"topk": [1], "valid_metric": "MRR@1", **chosen})
        init_seed(config["seed"], True)
        dataset = create_dataset(config)
        loaders = build_loaders(config, dataset)
        network = build_model(config, loaders[0])
        assert model != "DiffSBR" or network.fusion == chosen["fusion"]  # no modality is left out for want of features
        Path(config["checkpoint_dir"]).mkdir(exist_ok=True)
        trainer = trainer_class(config)(config, network)
        loss = trainer._train_epoch(loaders[0], 0)
        assert all(math.isfinite(part) for part in (loss if isinstance(loss, tuple) else (loss,)))
        assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
        for loader in loaders[1:]:
            metrics = trainer.evaluate(loader, load_best_model=False)
            assert metrics and all(0 <= value <= 1 for value in metrics.values())
        check_scores(network.eval(), dataset, config)


@torch.no_grad()
def check_scores(network, dataset, config):
    """Finite, repeatable, free of padding, and the same whatever the order of the batch."""
    tokens = [str(token) for token in dataset.field2id_token["item_id"]]
    longest = config["MAX_ITEM_LIST_LENGTH"]
    histories = [[1 + (start + step) % (len(tokens) - 1) for step in range(1 + start % longest)] for start in range(5)]
    rows = torch.zeros(5, longest, dtype=torch.long)
    for row, history in zip(rows, histories):
        row[: len(history)] = torch.tensor(history)
    lengths = torch.tensor([len(history) for history in histories])

    def score(order):
        columns = {network.ITEM_SEQ: rows[order], network.ITEM_SEQ_LEN: lengths[order]}
        return network.full_sort_predict(Interaction(columns))[:, 1:]

    straight, order = score(torch.arange(5)), torch.tensor([3, 0, 4, 2, 1])
    assert torch.isfinite(straight).all() and torch.equal(straight, score(torch.arange(5)))
    torch.testing.assert_close(score(order), straight[order], atol=1e-4, rtol=1e-4)
    named = [[tokens[number] for number in history] for history in histories]
    ranked = Recommender(config, network, tokens).recommend(named, k=len(tokens) - 1)
    assert all({token for token, _ in row} == set(tokens[1:]) for row in ranked)


def run_examples(model, number):
    """Hypothesis' search over data and settings, the same every time."""

    @settings(
        max_examples=number, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(data=sequences(), chosen=choices(model))
    def search(data, chosen):
        used.append(1)
        try:
            examine(model, data, chosen)
        except UsageError as refusal:
            assert "\n" not in str(refusal)
            refused.append(str(refusal))
            assume(False)

    used, refused = [], []
    search()
    assert len(refused) < len(used) / 2, refused[-5:]  # most of the combinations run


@pytest.mark.parametrize("number", [8, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", CONTRACTS)
def test_any_data_and_settings(model, number, monkeypatch):
    monkeypatch.setattr("recbole.trainer.trainer.get_tensorboard", no_tensorboard)
    run_examples(model, number)
