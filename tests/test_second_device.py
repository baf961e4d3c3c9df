"""The models on a device that is not the CPU; see second_device_checks.py."""

import subprocess
import sys
from pathlib import Path

import emulated_device
import pytest

CHECKS = Path(__file__).with_name("second_device_checks.py")


@pytest.mark.skipif(not emulated_device.available(), reason="this PyTorch registers devices from C++ only")
@pytest.mark.parametrize("part", ["step_elsewhere", "half", "training", "processes", "not step and not training and not processes"])
def test_everything_works_on_a_device_that_is_not_the_cpu(part):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", part, CHECKS]
    done = subprocess.run(words, cwd=CHECKS.parent, capture_output=True, text=True)
    print(done.stdout[-5000:], done.stderr[-1000:])
    assert done.returncode == 0 and " passed" in done.stdout
