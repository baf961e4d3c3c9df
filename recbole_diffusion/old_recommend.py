"""Where ``recbole_diffusion.recommend`` stood before version 0.2, when it was a module; now it is a function.

``from recbole_diffusion.recommend import Recommender`` still works: the package registers this module under that name.
"""

_MOVED = ("Recommender", "UnknownItemError")


def __getattr__(name):
    if name in _MOVED:
        from recbole_diffusion.serving import recommender

        return getattr(recommender, name)
    raise AttributeError(f"module 'recbole_diffusion.recommend' has no attribute '{name}'")
