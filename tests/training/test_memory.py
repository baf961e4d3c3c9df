"""Too little memory is said before training, in one line; what is counted is what is there after a step."""

import pytest
import torch

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training import memory
from recbole_diffusion.training.memory import check_memory, free_memory, group_memory, least_memory


def linear(rows=1000, width=16):
    return torch.nn.Sequential(torch.nn.Embedding(rows, width), torch.nn.Linear(width, width))


@pytest.mark.parametrize("learner, kept", [("adam", 2), ("sgd", 0), ("adagrad", 1), ("rmsprop", 1)])
def test_gradients_and_moments_are_those_of_a_step(learner, kept):
    network = linear()
    made = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}[learner]
    optimizer = made(network.parameters(), lr=0.1)
    network(torch.arange(5)).sum().backward()
    optimizer.step()
    gradients = sum(p.grad.numel() * 4 for p in network.parameters())
    moments = sum(v.numel() * 4 for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.dim())
    found = least_memory(learner, network, 8000)
    assert found == {"gradients": gradients, "learner": moments, "scores": 4 * 8 * 1000} and moments == kept * gradients


def test_a_sparse_table_has_moments_and_no_gradient_of_its_size():
    network = linear()
    dense = least_memory("adam", network, 10)
    network[0].sparse = True
    sparse = least_memory("adam", network, 10)
    assert dense["gradients"] - sparse["gradients"] == 4 * 1000 * 16 and dense["learner"] == sparse["learner"]


def test_it_is_refused_in_one_line_before_training(tmp_path, monkeypatch, capsys):
    write_sequences(cycle_sequences(), tmp_path, "cycle")
    monkeypatch.setattr(memory, "free_memory", lambda device: 100_000)
    words = [f"--data_path={tmp_path}", f"--checkpoint_dir={tmp_path / 'saved'}", "--use_gpu=False", "--topk=[1,5]", "--valid_metric=MRR@5",
             "--k_noise=3", "--k_sample=2"]  # fmt: skip
    assert main(["--model=SimDiffRec", "--dataset=cycle", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: too little memory: training needs") and error.count("\n") == 1 and "eval_batch_size" in error
    assert not (tmp_path / "saved").exists() or not list((tmp_path / "saved").glob("*.pth"))


def test_what_fits_is_not_refused(tmp_path):
    config = make_config("SimDiffRec", write_sequences(cycle_sequences(), tmp_path, "cycle"))
    check_memory(config, linear(), 12, 10**12)
    sampled = make_config("SimDiffRec", tmp_path, eval_args={"mode": "uni10"})
    check_memory(sampled, linear(), 10**10, 10**10)
    check_memory(make_config("SimDiffRec", tmp_path, eval_batch_size=10**9), linear(), 12, 40)  # of which there are few rows
    check_memory(config, linear(), 10**8, 10**4)  # scored one row at a time
    with pytest.raises(UsageError, match=r"scores \d{4,}\.\d"):
        check_memory(config, linear(), 10**12, 10**10)


def test_the_limit_of_the_control_group_counts(tmp_path):
    assert list(group_memory(tmp_path)) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert list(group_memory(tmp_path)) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert list(group_memory(tmp_path)) == [995]
    (tmp_path / "memory.stat").write_text("anon 1\nactive_file 1\ninactive_file 3\nshmem 7\n")  # files give way
    assert list(group_memory(tmp_path)) == [999]
    (tmp_path / "memory.stat").unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("5\n")
    assert list(group_memory(tmp_path)) == [995]
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("100\n")
    (tmp_path / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_active_file 0\ntotal_inactive_file 2\n")
    assert list(group_memory(tmp_path)) == [995, 97]
    assert 0 < free_memory("cpu") < 2**50


def test_what_pytorch_keeps_of_a_gpu_for_later_is_free(monkeypatch):
    for name, value in (("mem_get_info", (100, 1000)), ("memory_reserved", 700), ("memory_allocated", 50)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory("cuda:0") == 750
