"""What ``--help`` says: the commands, and the settings of a model and of a data set."""

from pathlib import Path

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.settings import registry
from recbole_diffusion.settings.presets import describe_preset, preset_files
from recbole_diffusion.settings.properties import (
    data_sets,
    load_yaml,
    properties_dir,
    property_file,
    property_names,
    settings_of_data,
)
from recbole_diffusion.settings.recbole_files import stock_models, stock_settings
from recbole_diffusion.settings.schema import read_schema

USAGE = """usage: recbole-diffusion [run | train] --model=NAME --dataset=NAME [--KEY=VALUE ...]
       recbole-diffusion compare --models=A,B --datasets=X,Y --seeds=3 [--KEY=VALUE ...]
       recbole-diffusion compare --paper=simdiffrec.table2 --datasets=beauty
       recbole-diffusion atlas [FILE] [--runs=FOLDER] [--pictures]
       recbole-diffusion tune --model=NAME --dataset=NAME --trials=20 [--KEY=VALUE ...]
       recbole-diffusion plot curves | sweep | groups | tsne ...
       recbole-diffusion prepare NAME --source=FILE [--user=COLUMN ...] | --download
       recbole-diffusion check-data NAME [--KEY=VALUE ...]
       recbole-diffusion features --dataset=NAME [--text_model=FOLDER]
       recbole-diffusion augment NAME --checkpoint=CHECKPOINT [--KEY=VALUE ...]
       recbole-diffusion evaluate CHECKPOINT [--part=test|valid|both] [--KEY=VALUE ...]
       recbole-diffusion recommend CHECKPOINT --input=FILE --output=FILE [--k=10] [--exclude-seen]
       recbole-diffusion index CHECKPOINT [--probes=16]
       recbole-diffusion export CHECKPOINT --format=onnx --output=FILE
       recbole-diffusion cache [NAME] [--clear]
       recbole-diffusion list models | datasets | presets | papers
       recbole-diffusion doctor
       recbole-diffusion help [COMMAND]
       python -m recbole_diffusion and python run_recbole_diffusion.py take the same words.

Trains a model, picks the best epoch on the validation part and tests it.

  -m, --model NAME          a model of this package or any sequential model of RecBole (SASRec, GRU4Rec, ...)
  -d, --dataset NAME        a folder NAME/ under --data_path, or ml-100k, which needs no download
  --nproc N                 train in N processes; see docs/several_processes.md, also for torchrun
  --preset NAME             a bundle of the model's settings: paper, released, quick; --help --model=NAME lists them
  --config_files "A B"      yaml files; later ones win, the command line wins over all (also --config, --config_file);
                            recipe: the best settings found for this model and data set, properties/recipe
  --result_file FILE.json   where everything the run found is written (default: beside the checkpoint)
  --KEY VALUE, --KEY=VALUE  any setting of RecBole or of the model
  --quiet, --verbose        print warnings and the result only, or the whole log
  --debug                   show the traceback of an error
  --help                    this text; with --model=NAME and --dataset=NAME also their settings
  --version
"""


def print_help(settings):
    """Usage, and the documented settings of what is named.

    Args:
        settings (dict): ``model``, ``dataset``, ``preset`` and ``data_path`` count, all of them optional.

    Raises:
        UsageError: for a name that does not exist.
    """
    text = [USAGE, f"models of this package: {', '.join(property_names('model'))}",
            f"data sets with settings: {', '.join(property_names('dataset'))}"]  # fmt: skip
    overall = properties_dir() / "overall.yaml"
    model = settings.get("model")
    if model is not None:
        text += settings_of_model(str(model), settings.get("preset"))
    if settings.get("dataset") is not None:
        text += lines_of_data(str(settings["dataset"]), settings.get("data_path", load_yaml(overall)["data_path"]))
    text += section("overall.yaml, for all models", read_schema(overall).values())
    print("\n".join(text))


def section(title, settings):
    """A heading and a line per setting."""
    return [f"\nsettings in {title}:", *(f"  {setting}" for setting in settings)]


def settings_of_model(name, preset=None):
    """Lines: presets and settings of a model. Raises UsageError for an unknown one, and one that cannot run."""
    plugin = registry.plugin_models()
    known = [*plugin, *stock_models()]
    if name in registry.UNSUPPORTED or name not in known:
        hint = did_you_mean(name, known) or "; 'recbole-diffusion list models' names all"
        reason = f"RecBole's {name} cannot run here: {registry.UNSUPPORTED.get(name)}"
        raise UsageError(reason if name in registry.UNSUPPORTED else f"unknown model '{name}'{hint}")
    own_file = None
    if name in plugin and name not in registry.MODELS:  # from elsewhere: only the class knows
        own_file = getattr(registry.get_model(name), "settings_file", None)
    presets = preset_files(name, own_file)
    if preset is not None and str(preset) not in presets:
        there = f"there are: {', '.join(presets)}" if presets else "it has none"
        raise UsageError(f"{name} has no preset '{preset}'{did_you_mean(str(preset), presets)}: {there}")
    lines = [f"--preset={preset}: {describe_preset(path)}" for preset, path in presets.items()]
    if name not in plugin:
        fixed = read_schema(properties_dir() / "overall.yaml")
        return lines + section(f"RecBole's {name}.yaml", [one for one in stock_settings(name) if one.key not in fixed])
    path = Path(own_file or property_file("model", name))
    return lines + (section(path.name, read_schema(path).values()) if path.is_file() else [])


def lines_of_data(name, folder):
    """Lines: the settings of a data set. Raises UsageError where nothing is known of it."""
    settings = settings_of_data(name, folder)
    known = {*property_names("dataset"), *data_sets(folder)}
    if name not in known:
        hint = did_you_mean(name, known) or "; 'recbole-diffusion list datasets' names all"
        raise UsageError(f"unknown data set '{name}'{hint} (looked for in '{folder}', --data_path changes it)")
    return [f"\nsettings of the data set {name}:", *(f"  {key}: {value}" for key, value in settings.items())]
