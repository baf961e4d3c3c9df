"""Everything on a device that is not the CPU: no tensor is left behind on either, and the numbers are the CPU's.

A device must be registered before the first backward pass of a process, so each test has a process of its own.
"""

import emulated_device
import pytest
import test_processes
import torch
from feature_inputs import draw, image_weights, needs_images, shop, text_model, vectors_of  # noqa: F401
from models import ALL, CONTRACTS, training_settings, without_dropout
from recbole.utils.case_study import full_sort_topk

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.prepare.extract import build_features
from recbole_diffusion.reports.probe import item_cloud, neighbor_cloud, sequence_cloud
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import make_config, switch_values
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.networks import build_model

pytestmark = [
    pytest.mark.fresh_process,
    pytest.mark.skipif(not emulated_device.available(), reason="this PyTorch registers devices from C++ only"),
]
SHORT = {"epochs": 2}
SMALL_AT_FIRST = {"MMSBR": {"interest_start": "any"}}  # sums of the files' vectors are so large that fp16 skips all steps of two epochs
TRAINED = [model for model, contract in CONTRACTS.items() if contract.trains]
MOVABLE = sorted([*CONTRACTS, "SASRec", "FPMC"])  # NARM's recurrent layer asks for kernels that only real GPUs have
STEPS = [
    pytest.param(model, {**contract.switch_needs.get(next(iter(switches), None), {}), **switches}, id=f"{model} {switches}")
    for model, contract in CONTRACTS.items()
    for switches in [{}, *switch_values(model), *contract.switches_together]
]


@pytest.fixture
def elsewhere(monkeypatch):
    """A second device, which ``use_gpu`` chooses."""
    choose = DiffusionConfig._init_device

    def choose_elsewhere(self):
        choose(self)
        if self["use_gpu"]:
            self.final_config_dict["device"] = device

    monkeypatch.setattr(DiffusionConfig, "_init_device", choose_elsewhere)
    with emulated_device.second_device() as device:
        yield device


@pytest.fixture
def undropped(trained):
    """Two epochs without dropout, whose masks differ: the CPU's are drawn in a faster way."""
    return lambda model, **more: trained(model, **{**SHORT, **without_dropout(model), **more})


def copy_for(use_gpu, checkpoint):
    """The same checkpoint with another choice of device."""
    state = load_checkpoint(checkpoint)
    state["config"]["use_gpu"] = use_gpu
    torch.save(state, "copy.pth")
    return "copy.pth"


def test_the_emulation_refuses_what_a_gpu_refuses(elsewhere):
    there, here = torch.ones(3, device=elsewhere), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError):
        here[torch.tensor([0, 1], device=elsewhere)]
    with pytest.raises(TypeError):
        there.numpy()
    assert (there + here.sum()).device == (there * 2).device == elsewhere
    assert there[torch.tensor([0, 1])].cpu().tolist() == [1, 1]


def test_the_emulation_casts_as_a_gpu_casts(elsewhere):
    x, linear = torch.ones(2, 3, device=elsewhere), torch.nn.Linear(3, 3).to(elsewhere)
    with torch.autocast(elsewhere.type, dtype=torch.bfloat16):
        half = linear(x)
        full = [half.softmax(-1), half.sum(), torch.nn.functional.layer_norm(half, (3,)), half.exp(), half + x]
        assert (half.dtype, (half * 2).dtype) == (torch.bfloat16, torch.bfloat16)
        assert {tensor.dtype for tensor in full} == {torch.float32}
        with torch.autocast(elsewhere.type, enabled=False):
            assert linear(x).dtype == torch.float32


def test_masks_of_dropout_are_drawn_where_they_are_needed(elsewhere):
    dropped = Dropout(0.5)(torch.ones(1000, device=elsewhere))
    assert dropped.device == elsewhere and set(dropped.tolist()) == {0.0, 2.0}


def prepared(model, folder, **more):
    """Configuration and loaders."""
    config = make_config(model, folder, seed=1, **ALL[model].small(**{**without_dropout(model), **more}))
    return config, build_loaders(config, create_dataset(config))


def one_step(config, train_data, batch, amp_type=None):
    """Losses and gradients of a batch, two lists on the CPU, and a network that had the same weights in every call."""
    network = build_model(config, train_data)
    with torch.autocast(config["device"].type, dtype=amp_type, enabled=amp_type is not None):
        losses = network.calculate_loss(batch)
    losses = losses if isinstance(losses, tuple) else (losses,)
    sum(losses).backward()
    gradients = [p.grad.cpu() for p in network.parameters() if p.grad is not None]
    return [loss.detach().cpu() for loss in losses], gradients, network


def steps(model, folder, use_gpu, switches):
    """A step in full and one in half precision: (losses, gradients, scores) and (losses, gradients)."""
    config, (train_data, _, test_data) = prepared(model, folder, use_gpu=use_gpu, **switches)
    torch.manual_seed(1)
    batch = next(iter(train_data)).to(config["device"])
    losses, gradients, network = one_step(config, train_data, batch)
    with torch.no_grad():
        scores = network.eval().full_sort_predict(next(iter(test_data))[0].to(config["device"]))
    assert {p.device for p in network.parameters()} == {scores.device} == {config["device"]}
    return (losses, gradients, scores.cpu()), one_step(config, train_data, batch, torch.float16)[:2]


@pytest.mark.parametrize("model, switches", STEPS)
def test_a_step_elsewhere_equals_one_on_the_cpu_and_half_precision_is_near(trained_data, elsewhere, model, switches):
    (there, half_there), (here, half_here) = (steps(model, trained_data(model), gpu, switches) for gpu in (True, False))
    torch.testing.assert_close(there, here)
    for losses, gradients in (half_there, half_here):
        torch.testing.assert_close(losses, here[0], rtol=0.1, atol=0.01)
        if CONTRACTS[model].trains:
            directions = [torch.cat([part.flatten() for part in parts]) for parts in (gradients, here[1])]
            assert torch.cosine_similarity(*directions, dim=0) > 0.99


@pytest.mark.parametrize("model", CONTRACTS)
def test_a_model_can_move_after_it_has_scored(trained_data, elsewhere, model):
    config, (train_data, _, test_data) = prepared(model, trained_data(model))
    network, batch = build_model(config, train_data).eval(), next(iter(test_data))[0]
    with torch.no_grad():
        before = network.full_sort_predict(batch)
        network.to(elsewhere).device = elsewhere
        after = network.full_sort_predict(batch.to(elsewhere)).cpu()
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", TRAINED)
def test_epochs_in_half_precision_have_the_losses_of_full_ones(undropped, elsewhere, model):
    """With the scaler of fp16, which skips the first steps, and the clipping of its gradients."""
    given = {"use_gpu": True, "clip_grad_norm": {"max_norm": 1.0}, **SMALL_AT_FIRST.get(model, {})}
    half = undropped(model, enable_amp=True, amp_type="fp16", **given)["history"]["loss"]
    full = undropped(model, **given)["history"]["loss"]
    assert half.keys() == full.keys() and half != full
    for part in full:
        assert half[part] == pytest.approx(full[part], rel=0.35)


@pytest.mark.parametrize("model", SMALL_AT_FIRST)
def test_where_scores_are_large_at_first_bf16_has_the_losses_of_full_epochs(undropped, elsewhere, model):
    """With the model's defaults: bf16 has the range of float32 and no scaler that skips steps."""
    half, full = (undropped(model, use_gpu=True, enable_amp=on, amp_type="bf16")["history"]["loss"] for on in (True, False))
    assert half.keys() == full.keys() and half != full
    for part in full:
        assert half[part] == pytest.approx(full[part], rel=0.05)


@pytest.mark.parametrize("model", MOVABLE)
def test_training_elsewhere_gives_the_numbers_of_the_cpu(undropped, elsewhere, model):
    there, here = (undropped(model, use_gpu=use_gpu) for use_gpu in (True, False))
    assert there["device"] == str(elsewhere) and here["device"] == "cpu"
    assert there["test_result"] == pytest.approx(here["test_result"])


@pytest.mark.parametrize("trained_there", [True, False])
@pytest.mark.parametrize("model", MOVABLE)
def test_a_checkpoint_gives_the_same_lists_on_the_other_device(undropped, elsewhere, model, trained_there):
    path = undropped(model, use_gpu=trained_there)["checkpoint"]
    lists = []
    for checkpoint in (path, copy_for(not trained_there, path)):
        config, network, _, _, _, test_data = load_data_and_model(checkpoint)
        lists.append(full_sort_topk([1, 2], network, test_data, 3, config["device"])[1].cpu())
    assert torch.equal(*lists)


@pytest.mark.parametrize("model", [name for name in MOVABLE if name != "FPMC"])  # which has no place for new users
def test_recommend_on_the_other_device(undropped, elsewhere, model):
    path = undropped(model, use_gpu=False)["checkpoint"]
    histories = [["i1", "i2", "i3"], ["i4"], []]
    there, here = (Recommender.load(path, device=device).recommend(histories, k=3) for device in ("elsewhere", "cpu"))
    assert [[token for token, _ in ranking] for ranking in there] == [[token for token, _ in ranking] for ranking in here]


def test_vectors_are_drawn_from_elsewhere(undropped, elsewhere):
    loaded = load_data_and_model(undropped("DiffSBR", use_gpu=True)["checkpoint"])
    for cloud in (sequence_cloud, item_cloud, neighbor_cloud):
        assert len(cloud(loaded, points=20, users=3, seed=0).vectors) >= 12  # items are the fewest


@pytest.mark.parametrize("model", CONTRACTS)
def test_training_elsewhere_is_resumed(undropped, trained_data, elsewhere, model):
    whole = undropped(model, use_gpu=True)
    for epochs in (1, 2):
        more = {**without_dropout(model), "use_gpu": True, "checkpoint_dir": "parts", "epochs": epochs, "resume": epochs > 1}
        parts = run(model, "cycle", config_dict=training_settings(model, trained_data(model), **more))
    assert parts["epochs"] == 2 and parts["test_result"] == whole["test_result"]


@needs_images
def test_features_elsewhere_are_those_of_the_cpu(shop, elsewhere, text_model, image_weights, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # in which the emulation can have no views
    for item, colour in (("i1", "red"), ("i2", "blue"), ("i5", "green")):
        draw(shop / "images" / f"{item}.png", colour)
    found = []
    for device in ("elsewhere", "cpu"):  # each with a cache of its own
        settings = {"dims": 2, "device": device, "output": f"{device}.npz", "show_progress": False}
        build_features("shop", "dataset", text_model=text_model, image_weights=image_weights, **settings)
        found.append(vectors_of(f"{device}.npz", ["i1", "i2", "i3", "i4", "i5"]))
    torch.testing.assert_close(*found)


@pytest.fixture
def nccl_like(monkeypatch):
    """Tensors are only sent from the second device, as NCCL knows no others; the sending is done by gloo."""

    def like_nccl(send):
        def checked(tensor, *arguments):
            if tensor.device.type != emulated_device.NAME or not tensor.is_contiguous():
                raise RuntimeError(f"NCCL does not send {tensor.device.type} tensors with strides {tensor.stride()}")
            return send(tensor.detach().here, *arguments)

        return checked

    for name in ("all_reduce", "broadcast"):
        monkeypatch.setattr(torch.distributed, name, like_nccl(getattr(torch.distributed, name)))


PLAIN = [pytest.param("SimDiffRec", test_processes.PLAIN, id="SimDiffRec plain")]
QUIET = [pytest.param("SimDiffRec", test_processes.quiet("SimDiffRec"), id="SimDiffRec quiet")]
ONE_EPOCH = {"epochs": 1, "train_batch_size": 128, "eval_batch_size": 20}
NOISY = [pytest.param(name, None, id=f"{name} noisy") for name in CONTRACTS]


@pytest.mark.parametrize("model, more", [*PLAIN, *QUIET, *NOISY])
def test_two_processes_elsewhere_give_the_same_numbers(tmp_path, elsewhere, nccl_like, model, more):
    folder = test_processes.write_data(model, tmp_path)
    given = test_processes.settings(model, folder, **(more or ONE_EPOCH), use_gpu=True)
    several, codes = test_processes.run_in_copies(model, given)
    assert codes == [0, 0] and several[0]["device"] == str(elsewhere)
    assert several[0]["test_result"] == several[1]["test_result"]
    if more is not None:  # otherwise every process draws noise of its own
        one = {**given, "use_gpu": False, "checkpoint_dir": "one"}
        (one,), _ = test_processes.run_in_copies(model, one, size=1)  # a backward pass here would forbid copies
        assert several[0]["test_result"] == pytest.approx(one["test_result"], abs=1e-4)
