"""How far items are apart."""

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers.spread import collapse_of, spread_of


def test_the_mean_cosine_is_that_of_all_pairs():
    torch.manual_seed(0)
    vectors = torch.randn(30, 5) + 1
    cosines = F.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    pairs = cosines[~torch.eye(30, dtype=torch.bool)]
    deviation, cosine = spread_of(vectors)
    assert cosine == pytest.approx(float(pairs.mean()), abs=1e-6) and cosine > 0.2
    assert deviation == pytest.approx(float(vectors.numpy().std()), abs=1e-6)


def test_ends_of_the_scale_and_the_random_state():
    state = torch.get_rng_state()
    assert spread_of(torch.ones(4, 3)) == pytest.approx((0.0, 1.0))
    assert spread_of(torch.eye(4)[:, :4])[1] == pytest.approx(0.0)
    assert spread_of(torch.ones(1, 3))[1] == 0.0
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "deviation, cosine, start, collapsed",
    [
        (0.1, 0.1, 0.1, False),
        (0.08, 0.1, 0.1, False),
        (0.07, 0.1, 0.1, True),
        (0.2, 0.51, 0.1, True),
        (0.2, -0.1, 0.1, False),
    ],
)
def test_vectors_collapse_when_they_shrink_by_a_quarter_or_point_one_way(deviation, cosine, start, collapsed):
    words = collapse_of(deviation, cosine, start)
    assert bool(words) is collapsed
    said = f"standard deviation {deviation:.2g} from 0.1 at the start, mean cosine of two items {cosine:.2f}"
    assert not words or said in words
