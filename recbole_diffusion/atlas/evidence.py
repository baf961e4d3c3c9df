"""What the atlas rests on: kept runs, and which of them stand for which row of a published table."""

import csv
import re
from dataclasses import dataclass, field

from recbole_diffusion.atlas.verdicts import Claim, Figures, deciding, usual_spread, verdict
from recbole_diffusion.errors import UsageError, one_line
from recbole_diffusion.experiments.paper import read_preset
from recbole_diffusion.reports.bounds import impossible_metrics
from recbole_diffusion.reports.kept import read_json
from recbole_diffusion.reports.study import PROTOCOLS, recbole_name
from recbole_diffusion.reports.validation import best_validation
from recbole_diffusion.settings.free import PLACES
from recbole_diffusion.settings.properties import property_names


@dataclass
class Entry:
    """One published row on one data set beside our runs.

    Attributes:
        table, title, dataset, row (str): where it stands.
        published (dict[str, float | None]): the figures that decide, None for data of which the paper has none.
        doubts (dict[str, str]): metric -> why a figure of the row cannot be true.
        runs (list[dict]): of the setting that counts, one per seed.
        figures (Figures): of these runs.
        word (str): the verdict.
        claim (Claim | None): what is known of the published figures.
        lacks (str): what the data at hand lack, without which the row cannot be run.
    """

    table: str
    title: str
    dataset: str
    row: str
    published: dict
    doubts: dict
    runs: list
    figures: Figures
    claim: Claim = None
    lacks: str = ""
    word: str = ""


@dataclass
class Evidence:
    """Everything that the pages and pictures show.

    Attributes:
        entries (list[Entry]): the published rows.
        runs (dict[tuple[str, str], list[dict]]): (data set, label) -> runs, for the published rows that have any and for what the
            plan names as twins and beyond the tables.
        spread (float): usual relative deviation between seeds.
        repeated (list[list[dict]]): runs that differ in their seeds alone, of every setting with several.
    """

    entries: list
    runs: dict = field(default_factory=dict)
    spread: float = 0.0
    repeated: list = field(default_factory=list)


# Kept runs


def read_runs(places):
    """All finished runs of some folders and CSV pages.

    Args:
        places (Iterable[Path]): a folder with one JSON file per run, as in results/cells or of ``compare --out``; or a CSV page.

    Returns:
        list[dict]: as ``compare`` keeps them; of a CSV page only what it has. ``place`` is where a run was found.

    Raises:
        UsageError: for a place that is not there, and for a damaged file.
    """
    found = []
    for place in places:
        if place.is_dir():
            files = sorted([*place.glob("*.json"), *place.glob("*/*.json")])
            contents = ((file, read_json(file)) for file in files if file.name != "index.json")
            found += [as_kept(run, place, file) for file, run in contents if isinstance(run, dict) and "test_result_unmasked" in run]
        elif place.is_file():
            found += read_page(place)
        else:
            raise UsageError(f"'{place}' does not exist: name folders of kept runs or CSV pages of compare")
    return found


def as_kept(run, place, file):
    """A run with where it was found, under its model's name where it has no label, without metrics that have no value."""
    results = {key: {name: value for name, value in run[key].items() if value is not None} for key in PROTOCOLS.values()}
    return {"row": run["model"], **run, **results, "place": str(place), "file": file}


def read_page(path):
    """The runs of a CSV page of ``compare``, for those of which nothing else is left. Raises UsageError for another file."""
    try:
        return runs_of_page(path)
    except (KeyError, ValueError, csv.Error) as error:
        raise UsageError(f"'{path}' is no CSV page of compare: {type(error).__name__} {one_line(error, 100)}") from None


def runs_of_page(path):
    """See :func:`read_page`. Raises KeyError, ValueError, csv.Error."""
    runs = []
    with open(path, encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line.get("error") or not line.get("seed"):
                continue
            results = {key: {} for key in PROTOCOLS.values()}
            for name, value in line.items():
                metric, _, title = name.partition(" ")
                if title in PROTOCOLS and value:
                    results[PROTOCOLS[title]][recbole_name(metric)] = float(value)
            seconds = {"training": float(line["seconds"])} if line.get("seconds") else {}
            runs.append({"row": line["row"], "dataset": line["dataset"], "seed": int(line["seed"]), "place": str(path), **results,
                         "leaks_test_labels": line.get("leaks_test_labels") == "True", "epochs": int(float(line["epochs"] or 0)), "seconds": seconds})  # fmt: skip
    return runs


def by_setting(runs):
    """Runs in groups that differ in their seeds alone, of equal ones the newest file: (data set, label) -> list of lists."""
    groups = {}
    for run in runs:
        settings = groups.setdefault((run["dataset"], run["row"]), [])
        group = next((group for group in settings if is_same_setting(group[0], run)), None)
        if group is None:
            settings.append([run])
            continue
        place = next((i for i, other in enumerate(group) if other["seed"] == run["seed"]), len(group))
        if place == len(group) or is_newer(run, group[place]):
            group[place : place + 1] = [run]
    return groups


def is_newer(run, other):
    """Whether a run was written after another: compare keeps those of former code beside those of today's."""
    return "file" in run and "file" in other and run["file"].stat().st_mtime > other["file"].stat().st_mtime


def is_same_setting(run, other):
    """Whether two runs agree in all settings that both were kept with; those of a page only with others of the page."""
    if bool(run.get("leaks_test_labels")) != bool(other.get("leaks_test_labels")):
        return False
    mine, theirs = run.get("settings"), other.get("settings")
    if mine is None or theirs is None:
        return mine is theirs and run["place"] == other["place"]
    common = (set(mine) & set(theirs)) - PLACES - {"seed"}
    return all(mine[key] == theirs[key] for key in common)


def best_setting(candidates):
    """Of several settings of a row the one that counts: that with most seeds, of these the best on the validation part.

    The test part has no say. Runs without a validation score come last.
    """
    return max(candidates, key=lambda runs: (len(runs), validation_score(runs)), default=[])


def validation_score(runs):
    scores = [run.get("best_valid_score") for run in runs]
    return sum(scores) / len(scores) if scores and None not in scores else float("-inf")


def is_cut(runs):
    """Whether the number of epochs ended the training of any of the runs before the wait for a better validation was over."""
    return any(epochs_waited(run) < longest_wait(run["settings"]) for run in runs
               if run.get("settings") and run["epochs"] > 1 and run.get("best_epoch") is not None)  # fmt: skip


def epochs_waited(run):
    """Epochs since the best one."""
    return run["epochs"] - 1 - run["best_epoch"]


def longest_wait(settings):
    """Epochs without a better validation that end a training, one validation more than ``stopping_step``; 0 where nothing does."""
    validations, step = settings.get("stopping_step"), settings.get("eval_step")
    return (validations + 1) * step if validations and step else 0


def figures_of(runs, leaking=()):
    """Figures of some runs and of the leaking runs of the same row."""
    test, masked = (collect(runs, lambda run, key=key: run.get(key, {})) for key in PROTOCOLS.values())
    names = {name for run in runs for name in run.get("history", {}).get("valid", {})}
    validation = collect(runs, lambda run: {name: best_validation(run, name) for name in names})
    return Figures(test, masked, validation, collect(leaking, lambda run: run["test_result_unmasked"]))


def collect(runs, read):
    """Metric -> values of all runs; metrics that one of them lacks are left out."""
    found = {}
    for run in runs:
        for name, value in read(run).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return {name: values for name, values in found.items() if len(values) == len(runs)}


# Entries


def gather(plan, tables=None):
    """Every row of the published tables beside our runs.

    Args:
        plan (Plan): the file of the atlas.
        tables (list[str], optional): names as in ``properties/paper``; by default all that print figures of test parts.

    Returns:
        Evidence

    Raises:
        UsageError: see :func:`read_runs`.
    """
    groups = by_setting(read_runs(plan.kept))
    presets = [read_preset(name) for name in tables or property_names("paper")]
    presets = [preset for preset in presets if preset.published]
    repeated = [runs for _, settings in sorted(groups.items()) for runs in settings if len(runs) > 1]
    spread = usual_spread(map(ranking_values, repeated))
    entries = [entry_of(preset, dataset, row, plan, groups, spread)
               for preset in presets for dataset in preset.datasets for row in rows_of(preset, dataset)]  # fmt: skip
    runs = {(entry.dataset, entry.row): entry.runs for entry in entries if entry.runs}
    for (dataset, label), settings in sorted(groups.items()):
        if label in {*plan.twins, *plan.twins.values(), *plan.beyond} and (dataset, label) not in runs:
            runs[dataset, label] = best_setting(honest(settings))
    return Evidence(entries, {key: found for key, found in sorted(runs.items()) if found}, spread, repeated)


def rows_of(preset, dataset):
    """Rows of a table on a data set; on one without published figures those that it prints elsewhere."""
    printed = preset.published.get(dataset)
    return list(printed or dict.fromkeys(row for rows in preset.published.values() for row in rows))


def ranking_values(runs):
    """NDCG@10, or MRR@20 without it, of some runs, test part."""
    test = figures_of(runs).test
    return test.get("ndcg@10") or test.get("mrr@20") or []


def honest(settings):
    """Groups of runs without those that see test labels."""
    return [runs for runs in settings if not any(run.get("leaks_test_labels") for run in runs)]


def entry_of(preset, dataset, row, plan, groups, spread):
    """One row of a table on one data set."""
    candidates = [runs for label in plan.labels(row) for runs in groups.get((dataset, label), [])]
    leaking = best_setting([runs for runs in candidates if runs not in honest(candidates)])
    runs = best_setting(honest(candidates))
    printed = preset.published.get(dataset, {}).get(row, {})
    names = deciding(printed or preset.metrics)
    published = {name: printed.get(name) for name in names}
    entry = Entry(preset.name, preset.title, dataset, row, published, impossible_metrics(printed, preset.unit), runs,
                  figures_of(runs, leaking), plan.claim(preset.name, row), plan.lacking.get((dataset, row), ""))  # fmt: skip
    entry.word = verdict(published, entry.figures, set(entry.doubts) & set(names), entry.claim, spread)
    return entry


def entries_by(entries, name):
    """Entries by an attribute, in order of appearance."""
    groups = {}
    for entry in entries:
        groups.setdefault(getattr(entry, name), []).append(entry)
    return groups


def paper_of(table):
    """``simdiffrec.table2`` -> ``simdiffrec``."""
    return re.sub(r"\..*", "", table)
