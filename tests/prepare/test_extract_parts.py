"""Features by several processes: each encodes its items once, the first one writes what one process would write."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from feature_inputs import TITLES, build, vectors_of

from recbole_diffusion.prepare.extract import part_path, wait_for

ROOT = Path(__file__).parents[2]
ITEMS = ["i1", "i2", "i3", "i4"]


def test_shares_are_encoded_once_and_make_the_same_file(shop, text_model, encoded):
    build(text_model)
    alone = vectors_of(shop / "shop.features.npz", ITEMS)
    encoded.clear()
    words = {"output": "other.npz", "cache": "other.cache"}
    assert build(text_model, **words, share=(1, 2)) is None
    assert encoded == [[TITLES[1], TITLES[3]]] or sorted(sum(encoded, [])) == sorted([TITLES[1], TITLES[3]])
    assert part_path(Path("other.cache"), 1).is_file() and not Path("other.npz").exists()
    report = build(text_model, **words, share=(0, 2))
    assert sorted(sum(encoded, [])) == sorted(TITLES[:4])  # i5 has no text; nothing was encoded twice
    assert report["items"] == 5 and not part_path(Path("other.cache"), 1).exists()
    torch.testing.assert_close(vectors_of("other.npz", ITEMS), alone, atol=1e-5, rtol=1e-4)


def test_a_share_that_was_interrupted_goes_on(shop, text_model, encoded):
    assert build(text_model, cache="c", share=(1, 2)) is None
    encoded.clear()
    assert build(text_model, cache="c", share=(1, 2)) is None and encoded == []


def test_the_first_waits_for_the_others(tmp_path):
    def write():
        time.sleep(0.5)
        (tmp_path / "b").touch()

    (tmp_path / "a").touch()
    threading.Thread(target=write).start()
    start = time.monotonic()
    assert wait_for([tmp_path / "a", tmp_path / "b"]) == [tmp_path / "a", tmp_path / "b"]
    assert time.monotonic() - start >= 0.4


def test_a_share_without_texts_is_an_empty_one(shop, text_model, encoded):
    assert build(text_model, cache="c", share=(4, 5)) is None  # of i5, which has no text
    assert encoded == [] and part_path(Path("c"), 4).is_file()


@pytest.mark.filterwarnings("ignore")
def test_torchrun_writes_one_file(shop, text_model):
    build(text_model)
    alone = vectors_of(shop / "shop.features.npz", ITEMS)
    program = Path("program.py")  # the command, with the operators of torchvision that a build for another PyTorch lacks
    program.write_text("import conftest, sys\nfrom recbole_diffusion.cli import main\nsys.exit(main())\n")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
         str(program), "features", "--dataset=shop", f"--data_path={shop.parent}",
         f"--text_model={text_model}", "--dims=2", "--output=two.npz", "--device=cpu"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "helpers")))}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("explained_variance") == 1
    torch.testing.assert_close(vectors_of("two.npz", ITEMS), alone, atol=1e-5, rtol=1e-4)
    assert not list(Path().glob("two.npz.cache.*"))
