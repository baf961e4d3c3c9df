"""The approximate index: exact with all lists, its scores exact with any, its file refused where it does not belong."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.serving.index import ItemIndex, Seen, measured_histories, usual_path, weights_of
from recbole_diffusion.serving.recommender import Recommender

HISTORIES = [["i1", "i2"], ["i9"], ["i5", "i6", "i7", "i6"], [], ["i3", "nobody", "i4"]]


@pytest.fixture
def model(checkpoint, tmp_path):
    """A copy of the checkpoint of SimDiffRec, beside which an index may lie."""
    path = tmp_path / "model.pth"
    path.write_bytes(open(checkpoint("SimDiffRec"), "rb").read())
    return path


def close(found, expected):
    for ranking, other in zip(found, expected):
        assert [token for token, _ in ranking] == [token for token, _ in other]
        assert [score for _, score in ranking] == pytest.approx([score for _, score in other], rel=1e-5, abs=1e-6)
        assert ranking.source == other.source and ranking.unknown == other.unknown
    assert len(found) == len(expected)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("k", [1, 5, 12])
def test_with_all_lists_it_is_the_exact_ranking(recommender, exclude, k):
    expected = recommender.recommend(HISTORIES, k, exclude)
    recommender.index = ItemIndex.of(recommender.network, n_lists=4, n_probes=4)
    close(recommender.recommend(HISTORIES, k, exclude), expected)
    close([recommender.recommend([history], k, exclude)[0] for history in HISTORIES], expected)


def test_with_few_lists_scores_are_exact_and_the_history_is_always_looked_at(recommender):
    exact = [dict(ranking) for ranking in recommender.recommend(HISTORIES, 12)]
    recommender.index = ItemIndex.of(recommender.network, n_lists=6, n_probes=1)
    for ranking, scores, history in zip(recommender.recommend(HISTORIES, 4), exact, HISTORIES):
        values = [score for _, score in ranking]
        assert values == sorted(values, reverse=True) and values == pytest.approx([scores[token] for token, _ in ranking], rel=1e-5)
        best_of_history = max((scores[token] for token in history if token in scores), default=None)
        assert best_of_history is None or values[-1] >= best_of_history or best_of_history in [pytest.approx(value, rel=1e-5) for value in values]


def test_learned_repetition_counts(trained):
    recommender = Recommender.load(trained.alone("SimDiffRec", repetition="learned", epochs=1))
    with torch.no_grad():
        recommender.network.repetition.amount.uniform_(-5, 5)
    expected = recommender.recommend(HISTORIES, 6)
    recommender.index = ItemIndex.of(recommender.network, n_lists=3, n_probes=3)
    close(recommender.recommend(HISTORIES, 6), expected)


def test_what_histories_hold_and_what_is_added_to_it():
    seen = Seen([[3, 1, 3], [7], [2, 9, 4, 9]], torch.device("cpu"))
    assert seen.items.tolist() == [[1, 3, 0], [7, 0, 0], [2, 4, 9]]
    assert seen.holds(torch.tensor([[1, 2, 3], [0, 7, 8], [9, 10, 1]])).tolist() == [[True, False, True], [False, True, False], [True, False, False]]
    met = Additions(torch.tensor([0, 1, 2, 2]), torch.tensor([3, 7, 9, 2]), torch.tensor([0.5, 1.0, 2.0, 3.0]))
    assert seen.additions(met, 12).tolist() == [[0, 0.5, 0], [1, 0, 0], [3, 0, 2]]


def test_items_with_commas_are_whole_in_the_histories_that_recall_is_measured_on(tmp_path):
    (tmp_path / "in.csv").write_text('user,items\nu1,"red,small blue"\nu2,other\n')
    recommender = SimpleNamespace(tokens=["[PAD]", "red,small", "blue"])
    assert measured_histories(recommender, str(tmp_path / "in.csv")) == [["red,small", "blue"]]
    recommender.tokens = ["[PAD]", "red", "small", "blue"]
    assert measured_histories(recommender, str(tmp_path / "in.csv")) == [["red", "small", "blue"]]


def test_the_command_makes_measures_and_recommend_uses_it(model, tmp_path, capsys):
    assert main(["index", str(model), "--lists=4", "--probes=2", "--k=3"]) == 0
    printed = capsys.readouterr().out
    assert usual_path(model).is_file() and "4 lists of 12 items" in printed and "histories per second exact" in printed
    recall = float(printed.split("recall@3 ")[1].split()[0])
    assert 0.3 < recall <= 1 and "1000 histories of items drawn by their counts" in printed
    (tmp_path / "in.jsonl").write_text('["i1", "i2"]\n["i7"]\n')
    words = ["recommend", str(model), f"--input={tmp_path / 'in.jsonl'}", "--k=3"]
    assert main([*words, f"--output={tmp_path / 'exact.jsonl'}"]) == 0
    assert main([*words, f"--output={tmp_path / 'near.jsonl'}", "--index", "--probes=4"]) == 0
    assert (tmp_path / "near.jsonl").read_text() == (tmp_path / "exact.jsonl").read_text()
    assert main(["index", str(model), "--lists=4", "--probes=4", "--k=3", f"--input={tmp_path / 'in.jsonl'}"]) == 0
    assert "recall@3 1.0000 with 4 probes, of 2 histories of" in capsys.readouterr().out
    (tmp_path / "in.jsonl").write_text('["i1", "elsewhere"]\n["elsewhere"]\n')
    assert main(["index", str(model), "--k=3", f"--input={tmp_path / 'in.jsonl'}"]) == 0
    assert ", of 1 histories of" in capsys.readouterr().out  # popular items would be found for any other


def test_a_file_gives_the_index_back(recommender, tmp_path):
    index = ItemIndex.of(recommender.network, n_lists=4, n_probes=2)
    index.save(tmp_path / "a.npz")
    again = ItemIndex.load(tmp_path / "a.npz", recommender.network)
    assert again.n_probes == 2 and all(torch.equal(value, again.lists.state()[name]) for name, value in index.lists.state().items())


def test_a_full_disk_is_one_line(recommender, tmp_path, monkeypatch):
    def fill(*args, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill)
    with pytest.raises(UsageError, match="a.npz' cannot be written: No space left on device"):
        ItemIndex.of(recommender.network).save(tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_other_weights_is_refused(model, tmp_path):
    assert main(["index", str(model), "--lists=4", "--k=3"]) == 0
    recommender = Recommender.load(model, index="auto")
    with torch.no_grad():
        recommender.network.item_embedding.weight[3] += 1e-3
    with pytest.raises(UsageError, match="belongs to other weights"):
        ItemIndex.load(usual_path(model), recommender.network)


@pytest.mark.parametrize("words, message", [
    (["recommend", "{model}", "--index"], "index '{tmp}/model.index.npz' does not exist"),
    (["recommend", "{model}", "--index={tmp}/text.npz"], "is no index of recbole_diffusion"),
    (["recommend", "{model}", "--index={tmp}/empty.npz"], "is no index of recbole_diffusion"),
    (["recommend", "{model}", "--index={tmp}/array.npz"], "is no index of recbole_diffusion"),
    (["index", "{model}", "--output={tmp}/text.npz/a.npz", "--k=3"], "output: nothing can be written to"),
    (["recommend", "{model}", "--index={tmp}/other.npz"], "is an index of another version"),
    (["recommend", "{model}", "--index={tmp}/good.npz", "--probes=5"], "--probes=5 must lie between 1 and the lists of"),
    (["recommend", "{model}", "--probes=5"], "--probes is for --index"),
    (["index", "{model}", "--lists=13", "--k=3"], "--lists=13 must lie between 0 and the number of items, 12"),
    (["index", "{model}", "--probes=0", "--k=3"], "--probes=0 must be at least 1"),
    (["index", "{sknn}", "--k=3"], "SKNN does not rank by inner products"),
    (["index", "{sasrec}", "--k=3"], "SASRec does not rank by inner products"),
])  # fmt: skip
def test_wrong_words_and_files_are_one_line(words, message, model, checkpoint, recommender, tmp_path, capsys):
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    ItemIndex.of(recommender.network, n_lists=4).save(tmp_path / "good.npz")
    kept = dict(np.load(tmp_path / "good.npz"))
    np.savez(tmp_path / "other.npz", **{**kept, "format": 9})
    (tmp_path / "in.csv").write_text("items\ni1\n")
    files = {"model": model, "tmp": tmp_path, "sknn": checkpoint("SKNN"), "sasrec": checkpoint("SASRec")}
    extra = [f"--input={tmp_path}/in.csv", f"--output={tmp_path}/out.csv", "--k=2"] if words[0] == "recommend" else []
    capsys.readouterr()
    assert main([*(word.format(**files) for word in words), *extra]) == 2
    error = capsys.readouterr().err
    assert message.format(**files) in error and error.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_the_hash_is_of_names_and_values(recommender):
    before = weights_of(recommender.network)
    assert before == weights_of(recommender.network)
    with torch.no_grad():
        recommender.network.item_embedding.weight[1, 0] += 1
    assert weights_of(recommender.network) != before
