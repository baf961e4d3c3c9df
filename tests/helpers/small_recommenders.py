"""Settings of small models that recommend."""

SMALL = {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "epochs": 2, "MAX_ITEM_LIST_LENGTH": 6}
SMALL.update(train_batch_size=32, topk=[1, 5], valid_metric="MRR@5", show_progress=False, allow_unknown_keys=True)
MODELS = {
    "SimDiffRec": {"k_noise": 3, "k_sample": 2, "epochs": 25, "learning_rate": 0.01},
    "DiffuRec": {"n_blocks": 1, "diffusion_steps": 4, "sampling_steps": 4, "eval_step": 1},
    "DiffuRecSys": {"n_blocks": 1, "diffusion_steps": 4, "sampling_steps": 4, "eval_step": 1},
    "SASRec": {"loss_type": "CE"},
    "GRU4Rec": {"loss_type": "CE", "embedding_size": 8},
    "CORE": {"embedding_size": 8, "inner_size": 16},
    "SINE": {"embedding_size": 8, "prototype_size": 5, "interest_size": 2},
    "DiffSBR": {"diffusion_steps": 4, "corruption_steps": 4, "graph_dropout": 0.0},
    "SKNN": {"epochs": 1},
}
