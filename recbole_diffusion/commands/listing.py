"""``recbole-diffusion list``: the models, data sets, presets and tables of papers that there are."""

from pathlib import Path

from recbole_diffusion.settings.abilities import abilities
from recbole_diffusion.settings.presets import describe_preset, preset_files
from recbole_diffusion.settings.properties import (
    data_sets,
    default_data_path,
    load_yaml,
    properties_dir,
    property_file,
    property_names,
    settings_of_data,
)
from recbole_diffusion.settings.recbole_files import recbole_folder


def add_arguments(parser):
    """Add the words of ``list`` to an ``argparse`` parser."""
    parser.description = "What there is to name: models, data sets, presets of models, and tables of papers."
    parser.add_argument("what", choices=list(LISTS), help="what to list")
    parser.add_argument("--data_path", "--data-path", help="folder of the data sets (default: dataset/)")


def main(args):
    """Run ``recbole-diffusion list``; returns 0.

    Args:
        args (argparse.Namespace): see :func:`add_arguments`.
    """
    print("\n".join(LISTS[args.what](args.data_path)))
    return 0


def list_models(_):
    """Lines: every model and what it can."""
    found = abilities()
    able = [model for model in found if not model.refused]
    yield from format_columns({
        "model": [model.name for model in able],
        "of": [model.origin for model in able],
        "recommend": [model.recommend for model in able],
        "export": [model.export for model in able],
        "beside interactions": [model.features for model in able],
        "trim_padding": [model.trim_padding for model in able],
        "tune": [model.tune for model in able],
        "presets": [model.presets for model in able],
    })  # fmt: skip
    yield from ("", "recommend: for new users, from a checkpoint alone; load_data_and_model works for all.")
    yield "beside interactions: what the data set must have; in brackets what a model can do without."
    yield "tune: whether a search space comes with the package; --space names one for any model."
    yield from (f"{model.name} of {model.origin} cannot run here: {model.refused}" for model in found if model.refused)


def list_datasets(data_path):
    """Lines: every data set that is known or there, its counts, its protocol, and where its files are looked for."""
    folder = Path(data_path or load_yaml(properties_dir() / "overall.yaml")["data_path"]).expanduser()
    there = data_sets(folder)
    names = list(dict.fromkeys([*there, *property_names("dataset")]))
    settings = {name: settings_of_data(name, folder) for name in names}
    places = {name: place_of(name, folder, there) for name in names}
    yield from format_columns({
        "data set": names,
        "there": ["yes" if any(places[name].glob(f"{name}.*inter")) else "no" for name in names],
        "folder": [str(places[name]) for name in names],
        "counts": [describe_counts(settings[name]) for name in names],
        "protocol": [describe_protocol(settings[name]) for name in names],
    })  # fmt: skip
    yield from (
        "",
        f"Looked for in {folder.resolve()} (--data_path changes it). 'recbole-diffusion prepare NAME' builds one.",
    )


def place_of(name, folder, there):
    """Folder of a data set; ``ml-100k`` comes with RecBole, others with this package."""
    recbole = recbole_folder()
    if name == "ml-100k" and name not in there and recbole:
        return recbole / "dataset_example" / name
    return Path(default_data_path(name, folder)) / name


def describe_counts(settings):
    """``60 users, 40 items``; nothing where no settings tell."""
    return ", ".join(f"{count:,} {what}" for what, count in (settings.get("expected_counts") or {}).items())


def describe_protocol(settings):
    """What is cut into which parts, as far as the settings of a data set tell; else what happens by default."""
    if settings.get("benchmark_filename"):
        return f"ready-made parts {', '.join(settings['benchmark_filename'])}"
    split = (settings.get("eval_args") or {}).get("split")
    words = [f"split {split}" if split else "last item tests, the one before validates"]
    for key, what in (("user_inter_num_interval", "users"), ("item_inter_num_interval", "items")):
        if str(settings.get(key, "[0,inf)")) != "[0,inf)":
            words.append(f"{what} with {settings[key]} interactions")
    return "; ".join(words)


def list_presets(_):
    """Lines: every preset of every model and what it is."""
    models = [model.name for model in abilities() if model.presets]
    found = [(model, name, describe_preset(path)) for model in models for name, path in preset_files(model).items()]
    yield from format_columns(dict(zip(("model", "--preset", "what"), map(list, zip(*found)))))


def list_papers(_):
    """Lines: every published table that ``compare --paper`` knows, its data sets and metrics."""
    names = property_names("paper")
    papers = [load_yaml(property_file("paper", name)) for name in names]
    yield from format_columns({
        "--paper": names,
        "title": [paper["title"] for paper in papers],
        "data sets": [", ".join(map(str, paper["datasets"])) for paper in papers],
        "metrics": [", ".join(paper["metrics"]) for paper in papers],
    })  # fmt: skip


LISTS = {"models": list_models, "datasets": list_datasets, "presets": list_presets, "papers": list_papers}


def format_columns(columns):
    """Lines of an aligned table from column title -> texts."""
    widths = [max(map(len, [title, *texts])) for title, texts in columns.items()]
    for line in [list(columns), *zip(*columns.values())]:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
