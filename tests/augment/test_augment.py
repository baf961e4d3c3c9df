"""The command: what the generator sees, going on where it was stopped, what is kept, and every refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion import run
from recbole_diffusion.augment import command, work
from recbole_diffusion.augment.command import augment
from recbole_diffusion.augment.report import share_found
from recbole_diffusion.cli import main
from recbole_diffusion.data.pseudo_items import read_pseudo_items
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import make_config, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint

SMALL = {
    "item_vectors": "random", "network": "mlp", "vector_width": 16, "pseudo_length": 3, "min_pairs": 10, "train_steps": 20,
    "check_every": 5, "batch_size": 16, "generation_batch": 16,
}  # fmt: skip


def groups(n_users=60, seed=0):
    """The first three items of a user and the rest are of one group of items; every item stands early in the file."""
    random = np.random.default_rng(seed)
    sequences = [list(range(1, 31))]
    for user in range(1, n_users):
        first = 1 + 10 * (user % 3)
        sequences.append(random.integers(first, first + 10, size=random.integers(5, 13)).tolist())
    return sequences


@pytest.fixture
def folder(tmp_path):
    return write_sequences(groups(), tmp_path / "data", "cycle")


def make(folder, output, say=lambda line: None, **more):
    settings = {"data_path": folder, "seed": 7, **SMALL, **more}
    return augment("cycle", settings, output=output, device="cpu", show_progress=False, say=say)


def test_a_file_for_every_user_with_what_made_it(folder, tmp_path):
    lines = []
    report = make(folder, tmp_path / "a.npz", lines.append)
    found = read_pseudo_items(tmp_path / "a.npz")
    assert found.items.shape == (60, 3) and sorted(found.users) == sorted(f"u{u}" for u in range(60))
    assert len(found.tokens) == 30 and not found.leaks
    assert report["users"] == 60 and report["steps"] == 20 and report["pairs"] < 60
    assert found.meta["settings"]["pseudo_length"] == 3 and found.meta["settings"]["seed"] == 7
    assert found.meta["report"] == {key: value for key, value in report.items() if key != "file"}
    assert str(tmp_path) not in json.dumps(found.meta)
    assert [line.split("   ")[0] for line in lines[:4]] == [f"step {n} of 20" for n in (5, 10, 15, 20)]


@pytest.mark.parametrize("source", ["diffusion", "random_history"])
def test_validation_and_test_items_never_reach_the_generator(folder, tmp_path, source):
    """Other items at the end of every history: nothing that is generated changes, but with the released switch."""
    strongly = {"condition": "sum", "guidance_strength": 20.0, "learning_rate": 0.01}
    others = [groups()[0], *([*items[:-2], 1 + items[-1] % 30, 1 + items[-2] % 30] for items in groups()[1:])]
    changed = write_sequences(others, tmp_path / "changed", "cycle")
    one, other = (make(place, tmp_path / f"{i}.npz", pseudo_source=source, **strongly) for i, place in enumerate([folder, changed]))
    assert one["fingerprint"] == other["fingerprint"]
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()
    lines = []
    for name, place in (("2", folder), ("3", changed)):
        make(place, tmp_path / f"{name}.npz", lines.append, pseudo_source=source, guide_from="train_valid", **strongly)
    seen = [read_pseudo_items(tmp_path / f"{name}.npz") for name in (0, 2, 3)]
    assert [pseudo.leaks for pseudo in seen] == [False, True, True] and any("LEAKS" in line for line in lines)
    assert len({pseudo.items.tobytes() for pseudo in seen}) == len({p.meta["fingerprint"] for p in seen}) == 3


def test_the_released_guide_is_the_history_with_the_validation_item(folder):
    own, config = command.split_settings("cycle", {"data_path": folder, **SMALL})
    train, valid, _ = command.create_dataset(config).build()
    histories = command.training_histories(train)
    longer = command.with_validation(histories, valid)
    names, users = train.field2id_token["item_id"], train.field2id_token["user_id"]
    for row in range(len(longer)):
        sequence = [f"i{item}" for item in groups()[int(users[longer.users[row]][1:])]]
        assert names[longer.choose(torch.tensor([row])).items].tolist() == sequence[:-1]
        assert names[histories.choose(torch.tensor([row])).items].tolist() == sequence[:-2]


def stop_at(number):
    """A function for ``say`` that stops at a line."""
    lines = []

    def say(line):
        lines.append(line)
        if len(lines) == number:
            raise KeyboardInterrupt

    return say


@pytest.mark.parametrize("line", [1, 2, 4])
def test_training_goes_on_where_it_was_stopped(folder, tmp_path, line):
    make(folder, tmp_path / "whole.npz", dropout=0.5)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        make(folder, tmp_path / "a.npz", stop_at(line), dropout=0.5)
    assert not (tmp_path / "a.npz").exists()
    lines = []
    make(folder, tmp_path / "a.npz", lines.append, dropout=0.5)
    assert lines[0] == f"going on after step {5 * line}" and len([t for t in lines if t.startswith("step")]) == 4 - line
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_generation_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    make(folder, tmp_path / "whole.npz")
    original, batches = command.Generator.generate, []

    def generate(self, histories):
        batches.append(len(histories))
        if len(batches) == 3 and stopping:
            raise KeyboardInterrupt
        return original(self, histories)

    monkeypatch.setattr(command.Generator, "generate", generate)
    stopping = True
    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "a.npz")
    stopping, batches[:] = False, []
    lines = []
    make(folder, tmp_path / "a.npz", lines.append)
    assert batches[:2] == [16, 12] and len(batches) == 3  # of 16, 16, 16 and 12; the last one is the held-out users'
    assert lines[:2] == ["going on after step 20", "generating for 60 users"]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_kept_work_is_not_taken_for_other_numbers(folder, tmp_path):
    """The same histories in another order of the file: other numbers of users and items."""
    file = Path(folder, "cycle", "cycle.inter")
    header, *rows = file.read_text().splitlines(keepends=True)
    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "a.npz", stop_at(5))  # trained, nothing generated
    file.write_text(header + "".join(reversed(rows)))
    lines = []
    make(folder, tmp_path / "a.npz", lines.append)
    make(folder, tmp_path / "b.npz")
    assert lines[0].startswith("step 5")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_loss_that_is_no_number_is_an_error(folder, tmp_path, monkeypatch):
    for loss in (float("inf"), float("nan")):
        monkeypatch.setattr(work.Training, "_held_out_loss", lambda self: loss)
        with pytest.raises(UsageError, match="no number after 5 steps: lower learning_rate"):
            make(folder, tmp_path / "a.npz")


def test_data_that_come_with_a_package_get_a_file_of_the_user(tmp_path):
    report = augment("ml-100k", {"pseudo_source": "random"}, show_progress=False, say=lambda line: None)
    assert report["file"] == str(Path("dataset", "ml-100k", "ml-100k.augmented.npz")) and Path(report["file"]).is_file()
    Path("dataset", "toy").mkdir()  # where there are no data
    assert augment("toy", {"pseudo_source": "random"}, say=lambda line: None)["users"] > 0
    given = {"augmented": "auto", "epochs": 1, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "loss_type": "CE"}
    result = run("SASRec", "toy", config_dict={**given, "use_gpu": False, "show_progress": False})
    assert result["augmented"]["file"] == str(Path("dataset", "toy", "toy.augmented.npz"))


def test_what_is_there_is_not_made_again_and_never_replaced_silently(folder, tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    first, content = make(folder, file), file.read_bytes()
    monkeypatch.setattr(work.Training, "run", lambda self: pytest.fail("trained again"))
    lines = []
    assert make(folder, file, lines.append) == first and "is there already" in lines[0]
    for more in ({"guidance_strength": 2.0}, {"seed": 8}, {"pseudo_source": "random"}):
        with pytest.raises(UsageError, match="made from other data or settings: --force replaces it"):
            make(folder, file, **more)
    assert file.read_bytes() == content
    augment("cycle", {"data_path": folder, **SMALL, "pseudo_source": "random"}, output=file, force=True, say=lines.append)
    assert file.read_bytes() != content
    file.write_text("damaged")
    with pytest.raises(UsageError, match="no file of pseudo items.*--force"):
        make(folder, file)


def test_number_of_users_at_once_changes_no_item(folder, tmp_path):
    for name, batch in (("a", 7), ("b", 100)):
        make(folder, tmp_path / f"{name}.npz", generation_batch=batch)
    one, other = (read_pseudo_items(tmp_path / f"{name}.npz").items for name in "ab")
    assert np.array_equal(one, other)


def test_only_short_histories_on_demand(folder, tmp_path):
    make(folder, tmp_path / "a.npz", max_history=4)
    short = {f"u{user}" for user, items in enumerate(groups()) if len(items) - 2 <= 4}
    assert set(read_pseudo_items(tmp_path / "a.npz").users) == short and 0 < len(short) < 60


def test_controls_without_a_generator(folder, tmp_path):
    for source in ("random", "random_history"):
        report = make(folder, tmp_path / f"{source}.npz", pseudo_source=source)
        assert "steps" not in report and not Path(f"{tmp_path / source}.npz.cache").exists()
    assert report["in_history"] == 1
    found = read_pseudo_items(tmp_path / "random_history.npz")
    for user, row in zip(found.users, found.items):
        assert set(found.tokens[row]) <= {f"i{item}" for item in groups()[int(user[1:])][:-2]}
    assert len(np.unique(read_pseudo_items(tmp_path / "random.npz").items)) == 30


def test_a_generator_that_has_learned_knows_the_group_of_a_user(tmp_path):
    """Chance is a third: the first items of a user are drawn from the group of the others, one of three."""
    folder = write_sequences(groups(600), tmp_path / "data", "cycle")
    more = {"train_steps": 800, "check_every": 200, "batch_size": 256, "learning_rate": 0.003}
    report = make(folder, tmp_path / "a.npz", **more)
    found = read_pseudo_items(tmp_path / "a.npz")
    group = (np.array([int(token[1:]) for token in found.tokens]) - 1) // 10
    of_user = np.array([int(user[1:]) for user in found.users]) % 3
    assert (group[found.items] == of_user[:, None]).mean() > 0.5, report
    assert report["cosine"] > report["cosine_of_chance"]


def test_random_generators_are_left_alone(folder, tmp_path):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    make(folder, tmp_path / "a.npz")
    assert torch.equal(torch.get_rng_state(), state)


def test_few_users_are_held_out_of_many_and_none_twice():
    for n_users, count in ((10, 1), (100, 5), (100_000, 512)):
        rows, held_out = work.split_pairs(range(n_users), 0.05, 0)
        assert len(held_out) == count and len(torch.cat([rows, held_out]).unique()) == n_users


def test_share_found():
    assert share_found(torch.tensor([[1, 2], [3, 3]]), torch.tensor([[2, 9], [4, 5]])) == 0.25


# With a trained model


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory):
    """Folder of data and a checkpoint of SASRec on it."""
    folder = write_sequences(groups(), tmp_path_factory.mktemp("data"), "cycle")
    small = {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "loss_type": "CE", "epochs": 1}
    settings = make_config("SASRec", folder, **small).external_config_dict
    return folder, run("SASRec", "cycle", config_dict=settings)["checkpoint"]


@pytest.mark.parametrize("guidance", ["free", "classifier"])
@pytest.mark.parametrize("official", [False, True])
def test_vectors_and_classifier_of_a_checkpoint(trained_on, tmp_path, guidance, official):
    folder, checkpoint = trained_on
    more = {"item_vectors": "pretrained", "checkpoint": checkpoint, "guidance": guidance, "official_guidance": official}
    make(folder, tmp_path / "a.npz", **more)
    found = read_pseudo_items(tmp_path / "a.npz").meta
    assert found["checkpoint"]["model"] == "SASRec" and "checkpoint" not in found["settings"]
    result = run("SASRec", "cycle", config_dict=make_config(
        "SASRec", folder, augmented=str(tmp_path / "a.npz"), hidden_size=8, inner_size=8, loss_type="CE", epochs=1,
    ).external_config_dict)  # fmt: skip
    assert result["augmented"]["fingerprint"] == found["fingerprint"]


def test_pretrained_vectors_have_unit_variance_and_padding_is_nothing(trained_on):
    folder, checkpoint = trained_on
    settings = {**SMALL, "data_path": folder, "item_vectors": "pretrained", "checkpoint": checkpoint}
    own, config = command.split_settings("cycle", settings)
    data = command.create_dataset(config)
    table = command.make_generator(own, command.checkpoint_of(own, config, data.build()[0]), config, data, torch.device("cpu")).table
    assert torch.allclose(table[1:].std(0), torch.ones(16), atol=1e-5) and not table[0].any()


# What is refused


def refused(capsys, folder, *words):
    settings = [f"--{key}={value}" for key, value in SMALL.items() if not any(w.startswith(f"--{key}=") for w in words)]
    assert main(["augment", "cycle", f"--data_path={folder}", *settings, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert not Path(folder, "cycle", "cycle.augmented.npz").exists()
    return error


@pytest.mark.parametrize("words, expected", [
    (["--guidance_strength=-1"], "guidance_strength must lie in [0, inf), got -1"),
    (["--guidance=strong"], "guidance must be one of free, classifier, none"),
    (["--diffusion_steps=0"], "diffusion_steps must lie in [1, inf)"),
    (["--sampling_steps=0"], "sampling_steps must lie in [1, inf)"),
    (["--diffusion_steps=4"], "sampling_steps 5 is larger than diffusion_steps 4"),
    (["--pseudo_length=0"], "pseudo_length must lie in [1, inf)"),
    (["--pseudo_length=30"], "0 users have more than 32 training items"),
    (["--min_pairs=500"], "users have more than 5 training items, of which the generator learns; min_pairs is 500"),
    (["--network=sunet"], "vectors of 16 numbers are no squares whose side is a multiple of 8"),
    (["--beta_end=1.5"], "beta_end must lie in (0, 1)"),
    (["--guide_from=test"], "guide_from must be one of train, train_valid"),
    (["--max_history=1"], "no user has at most 1 training items: raise max_history"),
    (["--pseudo_lenght=3"], "unknown key 'pseudo_lenght', did you mean 'pseudo_length'?"),
    (["--model=SASRec"], "augment takes no model, its file serves all: remove --model"),
    (["--augmented=auto"], "augment makes that file: remove --augmented"),
    (["--item_vectors=pretrained"], "train one with 'recbole-diffusion run --model=SASRec --dataset=cycle --data_path="),
    (["--guidance=classifier"], "guidance: classifier is by a trained model: train one with 'recbole-diffusion run"),
    (["--item_vectors=pretrained", "--checkpoint=absent.pth"], "checkpoint 'absent.pth' does not exist: make one with"),
    (["--device=tpu9"], "--device=tpu9 cannot be used"),
], ids=lambda value: value[-1] if isinstance(value, list) else "")  # fmt: skip
def test_wrong_words(folder, capsys, words, expected):
    assert expected in refused(capsys, folder, *words)


def test_checkpoints_that_do_not_fit(trained_on, tmp_path, capsys):
    _, checkpoint = trained_on
    words = ["--item_vectors=pretrained", f"--checkpoint={checkpoint}"]
    others = write_sequences([[31 - item for item in row] for row in groups()], tmp_path / "other", "cycle")
    assert "with other items than 'cycle' has now: make one with 'recbole" in refused(capsys, others, *words)
    same = write_sequences(groups(), tmp_path / "same", "cycle")
    split = "--eval_args={split: {RS: [0.6, 0.2, 0.2]}, group_by: user}"
    assert "another part of the data" in refused(capsys, same, *words, split)
    later = [[*row[:-3], row[-2], row[-3], row[-1]] for row in groups()]  # the same items, of which others train
    later = write_sequences([groups()[0], *later[1:]], tmp_path / "later", "cycle")
    assert "another part of the data" in refused(capsys, later, *words)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"official_negatives": True}, "was trained with official_negatives: True, by which validation or test items"),
        ({"graph_source": "all"}, "was trained with graph_source: all"),
        ({"augmented": "a.npz"}, "was trained with augmented: a.npz"),
        ({"model": "STOSA"}, "a checkpoint of STOSA does not serve here: train one of SimDiffRec, "),
        ({"model": "MMSBR"}, "a checkpoint of MMSBR does not serve here: train one of SimDiffRec, "),
        ({"model": "DiffuRec", "attention_mask": "queries"}, "a DiffuRec with attention_mask: queries reads padding and cannot"),
    ],
)
def test_checkpoints_that_know_too_much_or_score_otherwise(trained_on, tmp_path, capsys, changed, words):
    folder, checkpoint = trained_on
    state = load_checkpoint(checkpoint)
    state["config"].update(changed)
    torch.save(state, tmp_path / "other.pth")
    assert words in refused(capsys, folder, f"--checkpoint={tmp_path / 'other.pth'}", "--guidance=classifier")


def test_a_classifier_that_reads_fewer_items_than_are_made(trained_on, tmp_path):
    folder, _ = trained_on
    small = {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "loss_type": "CE", "epochs": 1, "MAX_ITEM_LIST_LENGTH": 2}
    settings = make_config("SASRec", folder, **small).external_config_dict
    checkpoint = run("SASRec", "cycle", config_dict=settings)["checkpoint"]
    with pytest.raises(UsageError, match="the classifier reads at most 2 items: set pseudo_length to that or less"):
        make(folder, tmp_path / "a.npz", guidance="classifier", checkpoint=checkpoint)


def test_a_missing_data_set_is_named(tmp_path, capsys):
    assert main(["augment", "beaty", f"--data_path={tmp_path}"]) == 2
    assert "dataset 'beaty' not found" in capsys.readouterr().err
