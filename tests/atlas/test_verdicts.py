"""The verdict on a published row, from figures made up for each case."""

import pytest

from recbole_diffusion.atlas.verdicts import (
    VERDICTS,
    Claim,
    Figures,
    deciding,
    mean_and_deviation,
    usual_spread,
    verdict,
)

PUBLISHED = {"hit@10": 0.08, "ndcg@10": 0.04}
SEEDS = {"hit@10": [0.070, 0.071, 0.072], "ndcg@10": [0.035, 0.036, 0.037]}  # deviations .001, so .08 and .04 are far away
HIGHER = {"hit@10": [0.079], "ndcg@10": [0.0405]}


def test_the_words_are_those_of_the_legend():
    cases = {
        "not run": verdict(PUBLISHED, Figures()),
        "not published": verdict(dict.fromkeys(PUBLISHED), Figures(SEEDS)),
        "cannot be true": verdict(PUBLISHED, Figures(SEEDS), impossible={"ndcg@10"}),
        "reproduced": verdict({"hit@10": 0.0729, "ndcg@10": 0.0341}, Figures(SEEDS)),
        "leaks": verdict(PUBLISHED, Figures(SEEDS, leaking=HIGHER)),
        "validation figure": verdict(PUBLISHED, Figures(SEEDS, validation=HIGHER), claim=Claim("validation", "")),
        "other protocol": verdict(PUBLISHED, Figures(SEEDS, masked=HIGHER), claim=Claim("masked", "")),
        "above": verdict({"hit@10": 0.08, "ndcg@10": 0.03}, Figures(SEEDS)),
        "below": verdict(PUBLISHED, Figures(SEEDS)),
    }
    assert cases == {word: word for word in VERDICTS}


@pytest.mark.parametrize("kind, figures", [("validation", {"validation": HIGHER}), ("masked", {"masked": HIGHER})])
def test_a_figure_near_by_accuses_nobody_without_a_claim(kind, figures):
    assert verdict(PUBLISHED, Figures(SEEDS, **figures)) == "below"
    far = {name: {metric: [2.0] for metric in PUBLISHED} for name in figures}
    assert verdict(PUBLISHED, Figures(SEEDS, **far), claim=Claim(kind, "")) == "below"  # a claim that the figures do not bear out


def test_a_claim_does_not_outweigh_reproduction_but_other_data_do():
    near = {"hit@10": 0.071, "ndcg@10": 0.036}
    assert verdict(near, Figures(SEEDS, validation=HIGHER), claim=Claim("validation", "")) == "reproduced"
    assert verdict(near, Figures(SEEDS), claim=Claim("data", "")) == "other protocol"
    assert verdict(near, Figures(SEEDS, leaking=HIGHER), claim=Claim("data", "")) == "other protocol"
    assert verdict(PUBLISHED, Figures(SEEDS, leaking=HIGHER), claim=Claim("data", "")) == "leaks"


def test_both_figures_must_be_near():
    assert verdict({"hit@10": 0.071, "ndcg@10": 0.05}, Figures(SEEDS)) == "below"
    assert verdict({"hit@10": 0.05, "ndcg@10": 0.0355}, Figures(SEEDS)) == "above"


def test_a_figure_that_is_nearly_met_does_not_hide_one_that_is_missed():
    assert verdict({"hit@10": 0.079, "ndcg@10": 0.035}, Figures(SEEDS)) == "below"  # -10 % and +3 %
    assert verdict({"hit@10": 0.074, "ndcg@10": 0.030}, Figures(SEEDS)) == "above"  # -4 % and +20 %


def test_one_seed_has_the_usual_deviation():
    one = Figures({"hit@10": [0.0790], "ndcg@10": [0.0396]})
    assert verdict(PUBLISHED, one, spread=0.01) == "reproduced"
    assert verdict(PUBLISHED, one, spread=0.001) == "below"
    assert mean_and_deviation([0.5], 0.1) == (0.5, 0.05)
    assert mean_and_deviation([1.0, 3.0], 0.1) == (2.0, pytest.approx(2**0.5))


def test_the_usual_spread_is_the_median_over_rows_of_several_seeds():
    assert usual_spread([[1.0], [9.0, 11.0], [99.0, 101.0], [], [0.0, 0.0], [3.0, 3.0], [9.0, 11.0]]) == pytest.approx((2**0.5 / 10 + 2**0.5 / 100) / 2)
    assert usual_spread([[1.0], [3.0, 3.0]]) == 0.0  # nothing is random in a counter


@pytest.mark.parametrize("metrics, expected", [
    (["hit@5", "hit@10", "ndcg@5", "ndcg@10", "ndcg@20"], ["hit@10", "ndcg@10"]),
    (["hit@20", "mrr@20"], ["hit@20", "mrr@20"]),
    (["ndcg@5"], ["ndcg@5"]),
])  # fmt: skip
def test_metrics_that_decide(metrics, expected):
    assert deciding(metrics) == expected
