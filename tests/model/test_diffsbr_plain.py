"""DiffSBR equals its plain version in value and gradient, whatever is switched on."""

import numpy as np
import pytest
import torch
from plain_diffsbr import PlainDiffSBR
from session_models import SMALL, build

from recbole_diffusion.diffusion.schedules import named_betas
from recbole_diffusion.testing import write_features, write_sequences

# so odd that a missing factor shows
ODD = {"lambda_1": 3.7, "lambda_2": 0.83, "tau": 0.45, "alignment_weight": 1.9, "alignment_items": 5}
PLAIN = {**ODD, "denoiser_dropout": 0.0, "retriever_dropout": 0.0, "k_neighbors": 4, "n_layers": 2}
ENDS = [3, 0, 11, 7, 2]  # anchors of the alignment, counted from the first real item


class Compared:
    """A model, its plain version on the same sessions, a batch and the random draws of both."""

    def __init__(self, folder, sequences, settings):
        self.model, (self.train_data, *_) = build(folder, name="cycle", **{**PLAIN, **settings})
        self.model.balance.data.fill_(0.7)
        names = self.train_data._dataset.field2id_token
        users, items = list(names["user_id"]), list(names["item_id"])
        self.sessions = {
            users.index(f"u{number}"): [items.index(f"i{item}") for item in sequence[:-2]]
            for number, sequence in enumerate(sequences)
        }
        fields = ("item_id_list", "item_length", "item_id", "user_id")
        self.batch = next(iter(self.train_data))
        self.inputs = [self.batch[field] for field in fields]
        self.fold, folds = self.model.graph_fold(self.batch), self.train_data._dataset.session_folds(torch.arange(len(users)))
        self.own = {user for user in self.sessions if folds is not None and folds[user] == self.fold}
        self.histories = [row[:n] for row, n in zip(self.inputs[0].tolist(), self.inputs[1].tolist())]
        torch.manual_seed(0)
        self.t = torch.randint(SMALL["diffusion_steps"], (len(self.batch),))
        copies = PLAIN["k_neighbors"] if settings.get("noise_per_copy") else 1
        self.noise = torch.randn(len(self.batch), copies, SMALL["hidden_size"])

    def plain(self):
        return PlainDiffSBR(self.model, self.sessions, named_betas("trunc_lin", SMALL["diffusion_steps"]), self.own)

    def plain_parts(self):
        targets, users = (column.tolist() for column in self.inputs[2:])
        n_anchors, n_real = self.model.config["alignment_items"], self.model.n_items - 1
        anchors = [end + 1 for end in ENDS] if n_anchors else range(1, n_real + 1)
        return self.plain().loss_parts(self.histories, targets, users, self.t.tolist(), self.noise, anchors)

    def fast_parts(self, monkeypatch):
        """The parts that the model computes in training, with the draws that the plain one gets."""

        def draw_steps(n_steps, size, device):
            assert (n_steps, size) == (SMALL["diffusion_steps"], self.t.shape)
            return self.t

        def draw_order(n, device):
            return torch.tensor([*ENDS, *(set(range(n)) - set(ENDS))])

        def draw_noise(x):
            assert x.shape == self.noise.shape
            return self.noise

        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", draw_steps)
            patch.setattr(torch, "randn_like", draw_noise)
            patch.setattr(torch, "randperm", draw_order)
            return self.model.train().loss_parts(*self.inputs, self.fold)


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    random = np.random.default_rng(4)
    walk = list(range(1, 13))  # all items occur, whatever the others are
    sequences = [walk[:9], walk[5:], *(random.integers(1, 13, n).tolist() for n in random.integers(4, 11, 14))]
    folder = write_sequences(sequences, tmp_path_factory.mktemp("plain"), "cycle")
    write_features(folder)
    return lambda **settings: Compared(folder, sequences, settings)


def name_of(settings):
    return ",".join(f"{key}={value}" for key, value in settings.items()) or "default"


DIFFUSION = {"recommendation", "generation"}
PLAIN_CASES = [
    ({}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"alignment_items": 0}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"detach_target": False}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"graph_folds": 3}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    *(
        (settings, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"})
        for settings in (
            {"session_gate_bias": True},
            {"noise_per_copy": True},
            {"self_input": "restored"},
            {"self_input": "restored", "noise_per_copy": True, "session_gate_bias": True, "session_gate": "vector"},
        )
    ),
    ({"noise_per_copy": True, "fusion": "attention"}, DIFFUSION | {"feedback", "self_generation", "alignment"}),
    ({"item_features": "none"}, DIFFUSION | {"feedback"}),
    ({"item_features": "none", "retrieval": False}, DIFFUSION),
    ({"retrieval": False}, DIFFUSION | {"self_generation", "contrast", "alignment"}),
    ({"feedback": "none"}, DIFFUSION | {"self_generation", "contrast", "alignment"}),
    ({"feedback": "ranking"}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"scorer": "cosine"}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"neighbors": "observable"}, {"recommendation", "alignment"}),
    ({"neighbors": "observable", "fusion": "late", "bank_sessions": "input"}, {"recommendation", "alignment"}),
    ({"fusion": "attention"}, DIFFUSION | {"feedback", "self_generation", "alignment"}),
    ({"fusion": "early"}, DIFFUSION | {"feedback", "alignment"}),
    ({"fusion": "late"}, DIFFUSION | {"feedback", "alignment"}),
    ({"fusion": "condition"}, DIFFUSION | {"feedback", "alignment"}),
    (
        {"scorer": "mlp", "propagation": "mean", "session_gate": "vector", "graph_edges": "transitions"},
        DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"},
    ),
]


@pytest.mark.parametrize("settings, names", PLAIN_CASES, ids=[name_of(settings) for settings, _ in PLAIN_CASES])
def test_the_objective_equals_the_plain_one_in_value_and_gradient(compare, settings, names, monkeypatch):
    case = compare(**settings)
    fast, slow = case.fast_parts(monkeypatch), case.plain_parts()
    assert set(fast) == set(slow) == names
    for name in names:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}: {text}")
    trained = dict(case.model.named_parameters())
    found = torch.autograd.grad(sum(fast.values()), list(trained.values()))
    wanted = torch.autograd.grad(sum(slow.values()), list(trained.values()))
    for name, a, b in zip(trained, found, wanted):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}: {text}")


def test_generation_and_feedback_together_have_the_gradient_of_the_weighted_loss(compare, monkeypatch):
    """Eq. 14 in one term, through which both the weights and the errors learn."""
    case = compare()
    fast, plain = case.fast_parts(monkeypatch), case.plain()
    users, lambda_1 = case.inputs[3].tolist(), case.model.config["lambda_1"]
    rows = [plain.train_row(*row) for row in zip(case.histories, users, case.t.tolist(), case.noise)]
    whole = lambda_1 * sum(row.weight @ row.errors for row in rows) / len(rows)
    trained = list(case.model.parameters())
    options = {"allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(fast["generation"] + fast["feedback"], trained, **options)
    for a, b in zip(found, torch.autograd.grad(whole, trained, **options)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


PLAIN_INFERENCE = [
    {"corruption_steps": 8},
    {"corruption_steps": 0},
    {"corruption_steps": 5},
    {"corruption_steps": 5, "inference_times": "raw"},
    {"corruption_steps": 0, "inference_times": "raw", "fusion": "attention"},
    *(settings for settings, _ in PLAIN_CASES[4:] if "feedback" not in settings),
]


@pytest.mark.parametrize("settings", PLAIN_INFERENCE, ids=name_of)
def test_inference_equals_the_plain_chain_with_the_same_noise(compare, settings, monkeypatch):
    case = compare(**settings)
    if case.model.generates:
        monkeypatch.setattr(case.model.restoration.noise, "forward", lambda keys: case.noise[:, 0])
    case.model.eval()
    with torch.no_grad():
        plain = case.plain()
        users = torch.stack([plain.encode(*row) for row in zip(case.histories, case.noise[:, 0])])
        torch.testing.assert_close(case.model.encode(*case.inputs[:2]), users, atol=1e-5, rtol=1e-5)
        scores = torch.stack([plain.scores(*row) for row in zip(case.histories, case.noise[:, 0])])
        torch.testing.assert_close(case.model.full_sort_predict(case.batch), scores, atol=1e-5, rtol=1e-5)
