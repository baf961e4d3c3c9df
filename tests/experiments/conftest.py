"""Training that is replaced by made-up results."""

import pytest
from made_up_runs import Runner

from recbole_diffusion.experiments import work


@pytest.fixture
def runner(monkeypatch):
    runner = Runner()
    monkeypatch.setattr(work.quick_start, "run", runner)
    return runner
