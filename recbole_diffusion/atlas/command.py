"""``recbole-diffusion atlas``: every row of the papers' tables beside kept runs, with a verdict, as a page, a CSV file and pictures."""

from pathlib import Path

from recbole_diffusion.atlas.charts import draw_costs, draw_table
from recbole_diffusion.atlas.evidence import entries_by, gather
from recbole_diffusion.atlas.pages import format_atlas, format_csv
from recbole_diffusion.atlas.plan import read_plan
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import make_folder
from recbole_diffusion.reports.drawing import import_matplotlib, save
from recbole_diffusion.reports.tables import write_text
from recbole_diffusion.settings.properties import load_yaml, property_file, property_names


def main(args):
    """Write the atlas.

    Args:
        args (argparse.Namespace): see :func:`recbole_diffusion.atlas.arguments.add_atlas`.

    Returns:
        int: 0.

    Raises:
        UsageError: for an unknown table, a place without runs, a malformed file of the atlas, pictures without matplotlib.
    """
    tables = [name.strip() for name in args.tables.split(",") if name.strip()]
    for name in tables:
        if name not in property_names("paper"):
            raise UsageError(f"unknown table '{name}'{did_you_mean(name, property_names('paper'))}")
    plan = read_plan(args.plan)
    if args.runs:
        plan.kept = [Path(place.strip()) for place in args.runs.split(",") if place.strip()]
    evidence = gather(plan, tables or None)
    out = Path(args.out)
    make_folder(out, "out")
    pictures = draw(evidence, out / "pictures") if args.pictures else []
    write_text(out / "atlas.md", format_atlas(evidence, plan, command_of(args), interactions(), pictures))
    write_text(out / "atlas.csv", format_csv(evidence.entries, evidence.spread))
    print(f"{out / 'atlas.md'}, {out / 'atlas.csv'}")
    return 0


def command_of(args):
    """The words that matter, as a command."""
    words = ["recbole-diffusion atlas", args.plan] + [f"--{key}={value}" for key in ("runs", "tables") if (value := getattr(args, key))]
    return " ".join([*words, f"--out={args.out}", *(["--pictures"] if args.pictures else [])])


def interactions():
    """Data set -> interactions that its properties expect."""
    files = {name: load_yaml(property_file("dataset", name)).get("expected_counts") for name in property_names("dataset")}
    return {name: counts["interactions"] for name, counts in files.items() if counts}


def draw(evidence, folder):
    """Draw all pictures of the atlas; returns their names without suffix. Raises UsageError without matplotlib."""
    import_matplotlib().use("Agg")
    drawn = {f"atlas.{table}": draw_table(entries, evidence) for table, entries in entries_by(evidence.entries, "table").items()}
    drawn.update({f"atlas.{name}.costs": draw_costs(name, evidence) for name in dict.fromkeys(name for name, _ in evidence.runs)})
    names = [name for name, picture in drawn.items() if picture]
    for name in names:
        save(*drawn[name], folder / name)
    return names
