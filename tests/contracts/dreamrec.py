"""What is special about DreamRec and PreferDiff in tests."""

from recbole_diffusion.testing import ModelContract


class DreamRec(ModelContract):
    model = "DreamRec"
    settings_without_chance = {"twin": True}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}


class PreferDiff(ModelContract):
    model = "PreferDiff"
    settings_without_chance = {"twin": True}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}
