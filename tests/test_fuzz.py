"""Mutations of real files: each is refused in one line, or accepted and right. Never a traceback, never a hang.

A wrong success is: training would start although

* the .inter file is broken by a plain reading of it, or the sequences are not those of that plain reading;
* a setting of the yaml is unknown, or a step of training or evaluation with the settings is not finite.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from pandas._libs.parsers import STR_NA_VALUES

from fuzzing import generator, guarded, mutate, outcome, works
from recbole_diffusion.properties import YamlLoader

ROOT = Path(__file__).parents[1]
TOY = (ROOT / "dataset" / "toy" / "toy.inter").read_text()
NUMBER = re.compile(r"[ \t]*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[ \t]*")
WORDS = ["--model=SimDiffRec", "--dataset=mine", "--show_progress=False", "--MAX_ITEM_LIST_LENGTH=20"]
WORDS += ["--hidden_size=8", "--inner_size=8", "--train_batch_size=16", "--eval_batch_size=16", "--use_gpu=False"]
# 60 mutations of a file and 40 of settings in the normal suite, 1,600 and 800 when asked for.
CASES = [range(60), pytest.param(range(1000, 2600), marks=pytest.mark.slow)]
YAML_CASES = [range(40), pytest.param(range(1000, 1800), marks=pytest.mark.slow)]


def plain_reading(content):
    """Item tokens of every user in order, users in order of appearance; None when the file is broken."""
    try:
        lines = content.decode("utf-8").lstrip("\ufeff").splitlines(keepends=True)
    except UnicodeDecodeError:
        return None
    header, *rows = list(csv.reader([line for line in lines if line.strip("\r\n")], delimiter="\t")) or [[]]
    if any("\n" in cell for row in rows for cell in row):
        return None
    wanted = ["user_id:token", "item_id:token", "timestamp:float"]
    if sorted(set(header) & set(wanted)) != sorted(wanted) or any(len(row) != len(header) for row in rows):
        return None
    users = defaultdict(list)
    for row in rows:
        user, item, time = (row[header.index(name)] for name in wanted)
        if not NUMBER.fullmatch(time):
            return None
        if not {user, item} & STR_NA_VALUES:
            users[user].append((float(time), item))
    return [[item for _, item in sorted(pairs, key=lambda pair: pair[0])] for pairs in users.values()]


def sequences_of(dataset):
    """The same of a data set that was accepted."""
    tokens = dataset.id2token("item_id", dataset.flat["item_id"])
    return list(tokens)


@pytest.mark.parametrize("cases", CASES, ids=["60", "1600"])
def test_broken_atomic_files(cases, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "mine.inter"
    found = {2: 0, "accepted": 0}
    with guarded(monkeypatch):
        for case in cases:
            content = mutate(TOY, "\t", generator(case))
            file.write_bytes(content)
            code, result = outcome([*WORDS, "--alpha=0", "--beta=0", f"--data_path={tmp_path}"], capsys)
            found[code] += 1
            if code == "accepted":
                expected = plain_reading(content)
                assert expected is not None, f"case {case} is broken and was accepted"
                flat = [item for sequence in expected for item in sequence]
                assert sequences_of(result.train_data._dataset) == flat, f"case {case} was read wrongly"
            else:
                assert result.startswith("error: ") and result.count("\n") == 1, (case, result)
            assert outcome(["check-data", "mine", f"--data_path={tmp_path}"], capsys)[0] in (0, 2)
    assert min(found.values()) > len(cases) / 10  # both ends are reached


def settings_text():
    """The settings of this package, of a model and of a data set in one file, without those that name places."""
    names = ["overall.yaml", "model/SimDiffRec.yaml", "dataset/toy.yaml"]
    lines = [line for name in names for line in (ROOT / "properties" / name).read_text().splitlines(keepends=True)]
    lines = {line.partition(":")[0]: line for line in lines if ":" in line.partition("#")[0]}  # later files win
    places = ("data_path", "checkpoint_dir", "result_file", "expected_counts", "model_settings", "  SimDiffRec")
    return "".join(line for key, line in lines.items() if key not in places)


def _only(value):
    """What stands alone in a list: RecBole makes lists of single words."""
    return value if isinstance(value, list) and len(value) == 1 else []


@pytest.mark.parametrize("cases", YAML_CASES, ids=["40", "800"])
def test_broken_yaml(cases, tmp_path, capsys, monkeypatch):
    text = settings_text()
    known = set(yaml.load(text, Loader=YamlLoader))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.inter").write_text(TOY)
    file = tmp_path / "mine.yaml"
    found = {2: 0, "accepted": 0}
    with guarded(monkeypatch):
        for case in cases:
            content = mutate(text, ":#", generator(case))
            file.write_bytes(content)
            words = ["--model=SimDiffRec", "--dataset=mine", f"--data_path={tmp_path}", "--use_gpu=False"]
            code, result = outcome([*words, f"--config_files={file}"], capsys)
            found[code] += 1
            if code == "accepted":
                given = yaml.load(content.decode("utf-8"), Loader=YamlLoader) or {}
                assert set(given) <= known, f"case {case}: {set(given) - known} was accepted"
                config = result.trainer.config
                ignored = [key for key, value in given.items() if value not in (None, config[key], *_only(config[key]))]
                assert ignored == [], f"case {case}: not what was given: {ignored}"
                assert works(result), f"case {case} was accepted and does not work"
            else:
                assert result.startswith("error: ") and result.count("\n") == 1, (case, result)
    assert min(found.values()) > len(cases) / 10
