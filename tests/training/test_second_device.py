"""The models on a device that is not the CPU; see second_device_checks.py."""

import subprocess
import sys
from pathlib import Path

import emulated_device
import pytest

CHECKS = Path(__file__).parents[1] / "helpers" / "second_device_checks.py"
WORDS = ["step", "training", "processes"]
PARTS = [*WORDS, " and ".join(f"not {word}" for word in WORDS)]  # everything else


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """All parts at once, one process each: {part: (process, file of its output)}."""
    folder, started = tmp_path_factory.mktemp("parts"), {}
    for number, part in enumerate(PARTS):
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", part, CHECKS]
        words.append(f"--basetemp={folder / str(number)}")
        output = folder / f"{number}.txt"
        with open(output, "w") as file:
            started[part] = subprocess.Popen(words, cwd=CHECKS.parent, stdout=file, stderr=subprocess.STDOUT), output
    yield started
    for process, _ in started.values():
        process.kill()


@pytest.mark.skipif(not emulated_device.available(), reason="this PyTorch registers devices from C++ only")
@pytest.mark.parametrize("part", PARTS)
def test_everything_works_on_a_device_that_is_not_the_cpu(running, part):
    process, output = running[part]
    code = process.wait()
    text = output.read_text()
    print(text[-5000:])
    assert code == 0 and " passed" in text
