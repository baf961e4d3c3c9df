"""The model of docs/adding_a_model.md, as written there, outside the package."""

import re
import sys
from pathlib import Path

import pytest

from recbole_diffusion import run
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings import registry
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import ModelContract

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_model.md").read_text(encoding="utf-8")


def block(language, start):
    """The code block of the page that begins with some text."""
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if b.startswith(start))


@pytest.fixture(scope="class", autouse=True)
def mean_rec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("third")
    (folder / "mean_rec.py").write_text(block("python", '"""MeanRec'))
    (folder / "mean_rec.yaml").write_text(block("yaml", "hidden_size"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setitem(registry.MODELS, "MeanRec", "mean_rec")  # where an entry point would put it
        yield
    sys.modules.pop("mean_rec", None)


class TestMeanRec(ModelContract):
    model = "MeanRec"

    def test_its_settings_are_known_and_checked(self, folder):
        assert DiffusionConfig("MeanRec", "cycle", config_dict={"data_path": folder})["decay"] == 0.3
        with pytest.raises(UsageError, match="decay must lie in"):
            run("MeanRec", "cycle", config_dict={"data_path": folder, "decay": 2.0})
