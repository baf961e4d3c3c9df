"""Fixtures of the tests of features."""

from feature_inputs import encoded, image_weights, shop, text_model  # noqa: F401
