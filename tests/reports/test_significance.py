"""Significance against values worked out by hand, from metrics and from stored ranks."""

from html import unescape
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up

from recbole_diffusion.quick_start import run
from recbole_diffusion.reports.report import write_reports
from recbole_diffusion.reports.significance import (
    PairedTest,
    compare_rows,
    correct,
    load_ranks,
    paired_test,
    read_ranks,
    user_values,
)
from recbole_diffusion.reports.study import Study, improvements
from recbole_diffusion.testing import cycle_sequences, write_sequences


def test_paired_test_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom.
    # For 2 degrees, p = 1 - t / sqrt(t^2 + 2) = 1 - 3.4641 / sqrt(14) = 0.0741799.
    found = paired_test([3, 5, 7], [2, 3, 4])
    assert found.n == 3 and found.effect == pytest.approx(2.0)
    assert found.p == pytest.approx(1 - 12**0.5 / 14**0.5)
    backwards = paired_test([2, 3, 4], [3, 5, 7])
    assert backwards.p == pytest.approx(found.p) and backwards.effect == pytest.approx(-2.0)


def test_equal_differences_are_no_evidence():
    assert paired_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == PairedTest(3, 1.0, 0.0)
    assert paired_test([0.2, 0.3, 0.4], [0.1, 0.2, 0.3]) is None
    assert paired_test([0.2], [0.1]) is None


def test_holm_by_hand():
    # Sorted .01, .02, .03, .04: times 4, 3, 2, 1 = .04, .06, .06, .04, and never below the one before.
    tests = [PairedTest(9, p, 0.0) for p in (0.03, 0.01, 0.04, 0.02)]
    correct([tests[0], None, *tests[1:]])
    assert [test.p_holm for test in tests] == pytest.approx([0.06, 0.04, 0.06, 0.06])
    large = [PairedTest(9, p, 0.0) for p in (0.6, 0.5)]
    correct(large)
    assert [test.p_holm for test in large] == [1.0, 1.0]


def test_values_of_users_by_hand():
    ranks = {"ranks": np.array([[1, 3, 0], [1, 0, 7]], dtype=np.int16), "longest": 10}
    assert user_values(ranks, "hit@5").tolist() == [1.0, 0.5, 0.0]
    assert user_values(ranks, "hit@10").tolist() == [1.0, 0.5, 0.5]
    assert user_values(ranks, "ndcg@5") == pytest.approx([1.0, 0.25, 0.0])  # 1 / log2(4) = .5 in one of two seeds
    assert user_values(ranks, "mrr@10") == pytest.approx([1.0, 1 / 6, 1 / 14])
    assert user_values(ranks, "hit@20") is None and user_values(ranks, "itemcoverage@5") is None


def with_ranks(name, ranks, users=(1, 2, 3, 4), **other):
    """A made-up result whose metrics follow from the ranks of its test targets."""
    ranks = np.array(ranks, dtype=np.int16)
    np.savez(f"{name}.npz", user=np.array(users), item=np.array(users) + 10, unmasked=ranks, masked=ranks)
    gains = np.where(ranks > 0, 1 / np.log2(np.maximum(ranks, 1) + 1.0), 0)
    metrics = {"hit@5": float((ranks > 0).mean()), "ndcg@10": float(gains.mean())}
    settings = {"valid_metric": "MRR@10", "topk": [5, 10]}
    return made_up(row=name, ranks_file=f"{name}.npz", settings=settings, test_result_unmasked=metrics,
                   test_result_masked=metrics, **other)  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_rows_are_compared_over_users():
    rows = {"a": [with_ranks("a", [0, 0, 0, 1])], "b": [with_ranks("b", [1, 1, 0, 1])]}
    found = compare_rows(rows, "b", "unmasked", ["hit@5"])
    # Differences 1, 1, 0, 0: mean 1/2, deviation sqrt(1/3), t = sqrt 3 with 3 degrees; d = sqrt(3)/2.
    # F of t with 3 degrees: 1/2 + (t sqrt(3) / (t^2 + 3) + atan(t / sqrt 3)) / pi = 1/2 + (1/2 + pi/4) / pi.
    assert [(c.other, c.metric, c.difference) for c in found] == [("a", "hit@5", 0.5)]
    assert found[0].users.effect == pytest.approx(3**0.5 / 2)
    assert found[0].users.p == pytest.approx(2 * (0.5 - (0.5 + np.pi / 4) / np.pi))
    assert found[0].seeds is None


def test_other_users_or_missing_ranks_are_not_paired():
    rows = {"a": [with_ranks("a", [0, 1, 1, 0], users=(1, 2, 3, 5))], "b": [with_ranks("b", [1, 1, 0, 1])]}
    assert compare_rows(rows, "b", "masked", ["hit@5"])[0].users is None
    assert load_ranks([made_up()], "masked") is None


def test_rows_are_compared_over_seeds():
    def row(name, values):
        return [made_up(name, seed=seed, value=value) for seed, value in enumerate(values)]

    rows = {"a": row("a", [0.2, 0.3, 0.4]), "b": row("b", [0.3, 0.5, 0.7]), "c": row("c", [0.1, 0.2])}
    found = {c.other: c.seeds for c in compare_rows(rows, "b", "unmasked", ["hit@5"])}
    assert found["a"].p == pytest.approx(1 - 12**0.5 / 14**0.5) and found["a"].n == 3 and found["c"] is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"something else"])
def test_a_damaged_file_of_ranks_is_none(content, tmp_path):
    (tmp_path / "r.npz").write_bytes(content)
    assert read_ranks({"ranks_file": str(tmp_path / "r.npz")}, "unmasked") is None


def test_stored_ranks_give_the_metrics(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    settings = {"data_path": folder, "epochs": 2, "topk": [1, 5], "valid_metric": "MRR@5", "use_gpu": False, "alpha": 0,
                "beta": 0, "hidden_size": 8, "ranks_file": "r.npz", "train_batch_size": 16,
                "show_progress": False}  # fmt: skip
    result = run("SimDiffRec", "cycle", config_dict=settings)
    for protocol in ("unmasked", "masked"):
        ranks = load_ranks([{**result, "ranks_file": "r.npz"}], protocol)
        assert ranks["who"].shape == (2, 40)
        for name, value in result[f"test_result_{protocol}"].items():
            assert user_values(ranks, name).mean() == pytest.approx(value, abs=1e-5)
    assert Path("r.npz").stat().st_size < 2000


def test_improvement_is_over_the_best_other_row():
    rows = {"a": [made_up(value=0.2)], "b": [made_up(value=0.25)], "c": [made_up(value=0.3)]}
    assert improvements(rows, "test_result_unmasked", ["hit@5"], "c") == {"hit@5": ("b", pytest.approx(0.2))}
    assert improvements({"c": rows["c"]}, "test_result_unmasked", ["hit@5"], "c") == {}


def test_both_pages_say_how_the_tests_were_corrected():
    rows = [made_up(row=row, seed=seed, value=start + step * seed)
            for row, start, step in (("a", 0.2, 0.01), ("b", 0.3, 0.02)) for seed in range(3)]  # fmt: skip
    page = write_reports(rows, "out", Study(metrics=["hit@5"]), everything=True)["toy"].read_text(encoding="utf-8")
    found = compare_rows({"a": rows[:3], "b": rows[3:]}, "b", "masked", ["hit@5"])[0].seeds
    assert found.p_holm == found.p  # the test of the other protocol stands in a table of its own and does not count
    assert page.count(f"| {found.p_holm:.4f} * |") == 2 and "## Tests of b" in page
    for text in (page, unescape(Path("out/report.html").read_text(encoding="utf-8"))):
        assert "over all tests of a column of a table, each protocol by itself" in text
