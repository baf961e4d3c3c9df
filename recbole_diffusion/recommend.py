"""Where ``Recommender`` stood before version 0.2; ``from recbole_diffusion import Recommender`` is its name."""

from recbole_diffusion.serving.recommender import Recommender, UnknownItemError

__all__ = ["Recommender", "UnknownItemError"]
