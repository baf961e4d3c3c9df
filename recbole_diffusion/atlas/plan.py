"""The file of the atlas: which kept runs stand for which published row, and what is known that no run can tell."""

from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.atlas.verdicts import KNOWN, Claim
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.settings.properties import load_yaml, property_names

KEYS = {"kept": list, "settings": dict, "twins": dict, "beyond": list, "pages": dict, "claims": dict, "lacking": list}


@dataclass
class Plan:
    """What a file of the atlas says.

    Attributes:
        kept (list[Path]): folders of runs and CSV pages of ``compare``.
        settings (dict[str, list[str]]): label of a published row -> labels of the kept runs that are settings of it.
        twins (dict[str, str]): a published row, or a label beyond them -> label of the runs of the same without its idea.
        beyond (list[str]): labels of runs of no published row: floors, and models of other papers.
        pages (dict[str, str]): label of a published row -> page that explains it, relative to the atlas.
        claims (dict[str, dict[str, Claim]]): table -> row, ``*`` for all -> what is known of its figures.
        lacking (dict[tuple[str, str], str]): (data set, row) -> what the data lack, without which the row cannot be run.
    """

    kept: list
    settings: dict
    twins: dict
    beyond: list
    pages: dict
    claims: dict
    lacking: dict

    def labels(self, row):
        """Labels of the kept runs of a published row."""
        return self.settings.get(row, [row])

    def claim(self, table, row):
        """What is known of the figures of a row, or None."""
        known = self.claims.get(table, {})
        return known.get(row, known.get("*"))


def read_plan(path):
    """The file of the atlas. Raises UsageError for one that is missing, malformed or of unknown words."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"file '{path}' does not exist: it says which kept runs stand for which published row, see docs/atlas.md")
    content = load_yaml(path)
    for key, value in content.items():
        if key not in KEYS:
            raise UsageError(f"{path} has an unknown word '{key}'{did_you_mean(key, KEYS)}: there are {', '.join(KEYS)}")
        check_form(value, KEYS[key], f"{path}: {key}")
    for table, rows in (content.get("claims") or {}).items():
        check_form(rows, dict, f"{path}: claims of {table}")
    claims = {table: {row: read_claim(claim, path, row) for row, claim in (rows or {}).items()}
              for table, rows in (content.get("claims") or {}).items()}  # fmt: skip
    for table in claims:
        if table not in property_names("paper"):
            raise UsageError(f"{path} has claims of an unknown table '{table}'{did_you_mean(table, property_names('paper'))}")
    settings = {row: labels if isinstance(labels, list) else [labels] for row, labels in (content.get("settings") or {}).items()}
    kept = [path.parent / name for name in content.get("kept") or []]
    lacking = {pair: why for given in content.get("lacking") or [] for pair, why in read_lacking(given, path).items()}
    return Plan(kept, settings, content.get("twins") or {}, content.get("beyond") or [], content.get("pages") or {}, claims, lacking)


def check_form(value, kind, what):
    """Raise UsageError for a value that is neither of a kind, list or dict, nor nothing."""
    if value is not None and not isinstance(value, kind):
        form = "a list, [A, B]" if kind is list else "pairs, {A: B}"
        raise UsageError(f"{what} must be {form}, got {value}")


def read_claim(content, path, row):
    """One claim. Raises UsageError."""
    if not isinstance(content, dict) or set(content) != {"kind", "why"} or content["kind"] not in KNOWN:
        raise UsageError(f"{path}: a claim on '{row}' is {{kind: {' | '.join(KNOWN)}, why: TEXT}}, got {content}")
    return Claim(content["kind"], content["why"])


def read_lacking(content, path):
    """What some data sets lack for some rows: (data set, row) -> why. Raises UsageError."""
    if not isinstance(content, dict) or set(content) != {"datasets", "rows", "why"}:
        raise UsageError(f"{path}: each of lacking is {{datasets: [A, B], rows: [C, D], why: TEXT}}, got {content}")
    for key in ("datasets", "rows"):
        check_form(content[key], list, f"{path}: {key} of lacking")
    return {(dataset, row): content["why"] for dataset in content["datasets"] or [] for row in content["rows"] or []}
