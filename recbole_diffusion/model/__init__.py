"""The models, one file per paper on a small common base."""
