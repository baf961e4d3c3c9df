"""Exported models: the padded form equals the packed model, and ONNX equals the padded form."""

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from recbole_diffusion import run
from recbole_diffusion.cli import main
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise
from recbole_diffusion.serving.catalogue import Catalogue
from recbole_diffusion.serving.export import EXPORTABLE, export_onnx, padded_scorer
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, write_sequences

SMALL = {"hidden_size": 16, "inner_size": 24, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 7, "use_gpu": False}
SMALL["allow_unknown_keys"] = True  # GRU4Rec has no heads
N_ITEMS = 13
TOKENS = ["[PAD]", *(f"i{n}" for n in range(1, N_ITEMS))]
SEQUENCES = [[1], [2, 3, 4], [5, 5, 5, 5, 5, 5, 5], [12, 1, 2, 9, 4], [7, 8]]
CASES = {
    "SimDiffRec": ("SimDiffRec", {"k_noise": 3, "k_sample": 2}),
    "SimDiffRec, from the start, relu": ("SimDiffRec", {"alpha": 0, "beta": 0, "pos_align": "start", "hidden_act": "relu"}),
    "SimDiffRec, ligr": ("SimDiffRec", {"k_noise": 3, "k_sample": 2, "encoder": "ligr"}),
    "SimDiffRec, hstu": ("SimDiffRec", {"alpha": 0, "beta": 0, "encoder": "hstu"}),
    "CL4SRec": ("CL4SRec", {}),
    "CL4SRec, damaged": ("CL4SRec", {"official_compat": True, "ce_positions": "last", "train_view": "prefix"}),
    "MCLRec": ("MCLRec", {"mask_as": "token"}),
    "DuoRec": ("DuoRec", {"pos_align": "end"}),
    "CaDiRec": ("CaDiRec", {"k_candidates": 3}),
    "CaDiRec, ligr, from the start": ("CaDiRec", {"twin": True, "k_candidates": 3, "encoder": "ligr", "pos_align": "start"}),
    "DiffuRec": ("DiffuRec", {}),
    "DiffuRec, positions": ("DiffuRec", {"use_position": True}),
    "DiffuRec, released masks": ("DiffuRec", {"attention_mask": "queries", "use_position": True}),
    "DiffuRec, ddim": ("DiffuRec", {"sampler": "ddim", "ddim_eta": 0.5}),
    "DiffuRecSys": ("DiffuRecSys", {}),
    "DiffuRecSys, linear": ("DiffuRecSys", {"cross_attention": "linear"}),
    "DiffuRecSys, heads": ("DiffuRecSys", {"cross_attention": "linear", "key_softmax": "heads", "use_position": True}),
    "DiffuRecSys, last block": ("DiffuRecSys", {"block_stack": "last"}),
    "DiffuRecSys, released": (
        "DiffuRecSys",
        {"attention_mask": "queries", "cross_attention": "linear", "key_softmax": "heads", "block_stack": "last",
         "fill_padding_rows": True, "shared_norm": True, "drop_cross_output": True, "drop_block_output": False},
    ),
    "DiffuRecSys, released masks": ("DiffuRecSys", {"attention_mask": "queries"}),
    "DiQDiff": ("DiQDiff", {"num_codes": 5}),
    "DiQDiff, no codes": ("DiQDiff", {"svq": "none", "use_position": True}),
    "DiQDiff, twin": ("DiQDiff", {"num_codes": 5, "twin": True, "lambda_history": 0.6, "sampling_steps": 9}),
    "DiQDiff, released": ("DiQDiff", {"num_codes": 5, "official_codes": True, "attention_mask": "queries"}),
    "STOSA": ("STOSA", {"n_layers": 2}),
    "STOSA, official": ("STOSA", {"mean_path": "official", "pos_align": "start", "shared_norm": False}),
    "VSAN": ("VSAN", {"next_k": 2}),
    "VSAN, two stacks, shifted, ligr": (
        "VSAN", {"separate_variance_stack": True, "official_eval_shift": True, "encoder": "ligr", "pos_align": "end"},
    ),
    "VSAN, twin": ("VSAN", {"twin": True, "generation_layers": 2}),
    "ACVAE": ("ACVAE", {"kernel_size": 3}),
    "ACVAE, twin": ("ACVAE", {"twin": True}),
    "MFGAN, twin": ("MFGAN", {"twin": True}),
    "MFGAN, ligr, from the start": ("MFGAN", {"n_candidates": 3, "factors": "id,category", "encoder": "ligr", "pos_align": "start"}),
    "AttenMixer": ("AttenMixer", {}),
    "AttenMixer, sum": ("AttenMixer", {"level": "sum", "n_levels": 9, "pool_power": 1.0}),
    "AttenMixer, mean": ("AttenMixer", {"attention": "mean"}),
    "AttenMixer, released": ("AttenMixer", {"attention": "released", "n_levels": 3}),
    "DIMO": ("DIMO", {"feature_init": "random"}),
    "DIMO, IDs": ("DIMO", {"item_features": "none", "n_heads": 1}),
    "MGS": ("MGS", {"mu": 0.7, "n_rounds": 3}),
    "MGS, two attributes": ("MGS", {"attribute": "category,brand"}),
    "MGS, keyed": ("MGS", {"n_mates": 2, "eval_neighbours": "keyed"}),
    "MGS, sessions alone": ("MGS", {"attribute": "none"}),
    "MMSBR": ("MMSBR", {"feature_init": "random", "price_levels": 9}),
    "MMSBR, IDs": ("MMSBR", {"price_column": "none", "category_column": "none", "price_factor": "none"}),
    "MMSBR, plus": ("MMSBR", {"price_factor": "plus", "n_rounds": 2, "item_features": "none", "feature_init": "random"}),
    "ECLSR": ("ECLSR", {"encoder": "ligr"}),
    "DreamRec": ("DreamRec", {"n_heads": 2}),
    "DreamRec, noise, loop, ligr": ("DreamRec", {"sampling_noise": True, "sampler": "loop", "encoder": "ligr"}),
    "DreamRec, twin, from the start": ("DreamRec", {"twin": True, "pos_align": "start"}),
    "PreferDiff": ("PreferDiff", {}),
    "ADRec": ("ADRec", {"noised_weight": 1.0, "sampling_steps": 3}),
    "ADRec, ddim, one block": ("ADRec", {"noised_weight": 0.5, "reverse": "ddim", "sampling_steps": 5, "denoiser_layers": 1}),
    "ADRec, no noise": ("ADRec", {"noised_weight": 1.0, "sampling_noise": False, "sampler": "naive"}),
    "ADRec, twin": ("ADRec", {"twin": True}),
    "SASRec": ("SASRec", {"loss_type": "CE"}),
    "GRU4Rec": ("GRU4Rec", {"loss_type": "CE", "embedding_size": 12, "num_layers": 2}),
    "DiffuRecSys, released masks, linear": ("DiffuRecSys", {"attention_mask": "queries", "cross_attention": "linear"}),
}

SESSIONS = torch.randint(1, N_ITEMS, (40,), generator=torch.Generator().manual_seed(2)), torch.full((8,), 5), torch.arange(8)
KEPT = {"training_sessions": SESSIONS, "item_counts": torch.arange(N_ITEMS)}
CATEGORY, BRAND = torch.arange(1, N_ITEMS - 2), torch.arange(1, N_ITEMS, 2)
ATTRIBUTES = {"category": (CATEGORY, CATEGORY % 3), "brand": (BRAND, BRAND % 2)}
PRICES = {"price_level": torch.arange(N_ITEMS) % 7, "category": torch.arange(N_ITEMS) % 3}


def recommender(case):
    model, settings = CASES[case]
    if model.startswith(("DiffuRec", "DiQDiff")):
        # Large, so that a wrong guide would show.
        settings = {"n_blocks": 2, "sampling_steps": 1, "lambda_mean": 0.7, **settings}
    config = DiffusionConfig(model, "synthetic", config_dict={**SMALL, **settings})
    wanted = settings.get("attribute", "category").split(",")
    kept = {**KEPT, "item_attributes": {name: columns for name, columns in ATTRIBUTES.items() if name in wanted}}
    torch.manual_seed(1)
    network = config.model_class(config, Catalogue(config, {"item_tokens": range(N_ITEMS), "state_dict": PRICES, "other_parameter": kept}))
    with torch.no_grad():
        for parameter in network.parameters():  # biases and norms start at values that hide mistakes
            parameter.add_(0.2 * torch.randn_like(parameter))
        if getattr(network, "codebook", None) is not None:
            network.codebook.totals.uniform_(0.5, 2)
            network.codebook.weight.mul_(9)
    return Recommender(config, network, TOKENS)


def inputs(sequences=SEQUENCES):
    rows = torch.zeros(len(sequences), SMALL["MAX_ITEM_LIST_LENGTH"], dtype=torch.long)
    for row, sequence in zip(rows, sequences):
        row[: len(sequence)] = torch.tensor(sequence)
    return rows, torch.tensor([len(sequence) for sequence in sequences])


@torch.no_grad()
def packed_scores(network):
    """Scores [B, V - 1] of the packed model without noise: x = 0 and lambda at its mean."""
    for noise in (module for module in network.modules() if isinstance(module, KeyedNoise)):
        noise.table.zero_()
    item_seq, lengths = inputs()
    return network.full_sort_predict({network.ITEM_SEQ: item_seq, network.ITEM_SEQ_LEN: lengths})[:, 1:]


@pytest.mark.parametrize("case", CASES)
def test_the_padded_form_equals_the_packed_model(case):
    model = recommender(case)
    with torch.no_grad():
        scores = padded_scorer(model.network)(*inputs())
    assert (scores[:, 0] == -torch.inf).all()
    torch.testing.assert_close(scores[:, 1:], packed_scores(model.network), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        "SimDiffRec",
        "SimDiffRec, ligr",
        "SimDiffRec, hstu",
        "DiffuRec",
        "STOSA",
        "AttenMixer",
        "AttenMixer, released",
        "DIMO",
        "MGS",
        "MMSBR",
        "MMSBR, plus",
        "DreamRec",
        "ADRec",
        "DiQDiff",
        "SASRec",
        "GRU4Rec",
        pytest.param("DiffuRecSys", marks=pytest.mark.slow),
        pytest.param("DiffuRecSys, released masks, linear", marks=pytest.mark.slow),
    ],
)
def test_onnx_equals_pytorch(case, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = recommender(case)
    export_onnx(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # weights included
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["item_tokens"]) == TOKENS and facts["model"] == CASES[case][0]
    for sequences in (SEQUENCES, SEQUENCES[:1], SEQUENCES * 30):
        item_seq, lengths = inputs(sequences)
        scores = session.run(["scores"], {"item_seq": item_seq.numpy(), "item_seq_len": lengths.numpy()})[0]
        with torch.no_grad():
            expected = padded_scorer(model.network)(item_seq, lengths)
        torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-4, rtol=1e-4)
    batch = inputs()
    scores = session.run(None, {"item_seq": batch[0].numpy(), "item_seq_len": batch[1].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(scores)[:, 1:], packed_scores(model.network), atol=1e-4, rtol=1e-4)


def test_the_command(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    settings = {**SMALL, "k_noise": 3, "k_sample": 2, "epochs": 1, "topk": [5], "valid_metric": "MRR@5"}
    settings["data_path"] = write_sequences(cycle_sequences(), tmp_path, "cycle")
    checkpoint = run("SimDiffRec", "cycle", config_dict={**settings, "show_progress": False})["checkpoint"]
    capsys.readouterr()
    assert main(["export", checkpoint, "--format=onnx", f"--output={tmp_path}/new/model.onnx"]) == 0
    assert "item_seq [batch, 7], item_seq_len [batch] -> scores [batch, 13]" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "new" / "model.onnx")
    tokens = json.loads(session.get_modelmeta().custom_metadata_map["item_tokens"])
    history = ["i3", "i4", "i5"]
    item_seq, lengths = inputs([[tokens.index(token) for token in history]])
    scores = session.run(None, {"item_seq": item_seq.numpy(), "item_seq_len": lengths.numpy()})[0][0]
    ranking = Recommender.load(checkpoint).recommend([history], k=3)[0]
    best = sorted(range(13), key=lambda number: -scores[number])[:3]
    assert [tokens[number] for number in best] == [token for token, _ in ranking]


@pytest.mark.parametrize("history", [["i3", "i4", "i5"], [f"i{n % 12 + 1}" for n in range(11)]])
def test_the_example_of_the_guide_gives_what_the_model_recommends(history, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in block)
    shown = '["i3", "i4", "i5"]'
    assert example.count(shown) == 1
    model = recommender("SimDiffRec")
    export_onnx(model, tmp_path / "model.onnx")  # where the example looks for it
    capsys.readouterr()
    exec(example.replace(shown, repr(history)), {})
    expected = [token for token, _ in model.recommend([history], k=10)[0]]
    assert ast.literal_eval(capsys.readouterr().out) == expected


def refused(capsys, *words):
    assert main(["export", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_wrong_words_are_refused_in_one_line(tmp_path, capsys, monkeypatch):
    settings = {"epochs": 1, "topk": [5], "valid_metric": "MRR@5", "show_progress": False}
    settings["data_path"] = write_sequences(cycle_sequences(), tmp_path, "cycle")
    paths = {}
    for model, own in {"NARM": {}, "SimDiffRec": {"alpha": 0, "beta": 0}}.items():
        paths[model] = run(model, "cycle", config_dict={**settings, **own})["checkpoint"]
    capsys.readouterr()
    output = f"--output={tmp_path}/model.onnx"
    assert f"NARM cannot be exported, {', '.join(EXPORTABLE)} can" in refused(capsys, paths["NARM"], output)
    assert "absent.pth' does not exist" in refused(capsys, "absent.pth", output)
    assert "format must be onnx, got 'pmml'" in refused(capsys, paths["SimDiffRec"], output, "--format=pmml")
    assert "required: --output" in refused(capsys, paths["SimDiffRec"])
    checkpoint, before = paths["SimDiffRec"], Path(paths["SimDiffRec"]).read_bytes()
    (tmp_path / "soft.onnx").symlink_to(Path(checkpoint).resolve())
    os.link(checkpoint, tmp_path / "hard.onnx")
    for name in (checkpoint, tmp_path / "soft.onnx", tmp_path / "hard.onnx"):
        assert "checkpoint and output are the same file" in refused(capsys, checkpoint, f"--output={name}")
    assert Path(checkpoint).read_bytes() == before
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error = refused(capsys, paths["SimDiffRec"], output)
    assert "export needs the package onnxscript: pip install onnx onnxruntime onnxscript" in error
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert "export needs PyTorch 2.6 or later" in refused(capsys, paths["SimDiffRec"], output)
    assert not (tmp_path / "model.onnx").exists()
