"""What is installed here, what of it does not fit together, and where data sets are looked for.

Works with the standard library, PyYAML and the package's own yaml files, so that it can still speak when nothing else
can be imported.
"""

import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from recbole_diffusion import __version__, threads
from recbole_diffusion.errors import one_line
from recbole_diffusion.settings.properties import PACKAGED, data_sets, load_yaml, properties_dir, property_names
from recbole_diffusion.versions import below, fits, from_, readable, release

SUPPORTED = {  # the same as in setup.py
    "recbole": (("==", "1.2.1"),),
    "torch": ((">=", "2.2"), ("<", "2.14")),
    "numpy": ((">=", "1.23"),),
    "pandas": ((">=", "1.5"), ("<", "3")),
    "pyyaml": (),
    "tqdm": (),
    "jinja2": ((">=", "3"),),
}
PINNED = {"colorlog": "colorlog==4.7.2", "colorama": "colorama==0.4.4"}  # by RecBole
REASONS = {"pandas": "RecBole silently leaves missing values in place under pandas 3"}
# What RecBole imports at start. It also asks for ray, which this package never imports.
NEEDED_BY_RECBOLE = (
    "scipy", "colorlog", "colorama", "scikit-learn", "tensorboard", "thop", "tabulate", "plotly", "texttable", "psutil",
)  # fmt: skip
OPTIONAL = (  # the extras of setup.py, and what RecBole's own functions use
    "ray", "hyperopt", "setuptools", "torchvision", "transformers", "pillow", "optuna", "matplotlib", "onnx",
    "onnxruntime", "onnxscript",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that does not fit.

    Attributes:
        what (str): what it is.
        repair (str): the command that repairs it, or what to do.
        serious (bool): whether this package cannot work with it; otherwise only something beside it is affected.
    """

    what: str
    repair: str
    serious: bool = True


def installed():
    """Name -> version of every package that matters: None where it is missing, "" where it tells no version."""
    found = {}
    for name in (*SUPPORTED, *NEEDED_BY_RECBOLE, *OPTIONAL):
        try:
            found[name] = metadata.version(name) or ""  # None for what an interrupted pip left behind
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def check_versions(found, python=sys.version_info):
    """Compare versions with what is known to work.

    Args:
        found (dict): as of :func:`installed`.
        python (tuple): version of Python.

    Returns:
        list[Finding]
    """
    versions = [*_unreadable(found, python), *_unsupported(found, python)]
    return [*versions, *_conflicts(found, python), *_limits_of_recbole(found)]


def _requirement(name, python):
    """What ``pip install`` is told to get a version that is known to work."""
    bounds = SUPPORTED.get(name)
    if bounds is None:
        return PINNED.get(name, name)
    no_deps = "--no-deps " if name == "recbole" and python[:2] >= (3, 12) else ""
    return no_deps + '"' + name + ",".join(sign + bound for sign, bound in bounds) + '"'


def _unreadable(found, python):
    """Packages whose version is no number; the other checks pass them over."""
    for name, version in found.items():
        if version is not None and release(version) is None:
            told = f"its version is '{version}'" if version else "it tells no version"
            pip = f"pip install --force-reinstall {_requirement(name, python)}"
            yield Finding(f"the installation of {name} is damaged: {told}", pip)


def _unsupported(found, python):
    if python[:2] < (3, 9):
        yield Finding(f"Python {python[0]}.{python[1]} is too old", "use Python 3.9 or later")
    for name, bounds in SUPPORTED.items():
        pip = f"pip install {_requirement(name, python)}"
        if found[name] is None:
            yield Finding(f"{name} is not installed", pip)
        elif readable(found[name]) and not fits(found[name], bounds):
            reason = f": {REASONS[name]}" if name in REASONS else ""
            yield Finding(f"{name} {found[name]} is not supported{reason}", pip)
    missing = [name for name in NEEDED_BY_RECBOLE if found[name] is None]
    if missing:
        words = " ".join(_requirement(name, python) for name in missing)
        yield Finding(f"RecBole needs {', '.join(missing)}", f"pip install {words}")


def _conflicts(found, python):
    torch, vision = found["torch"], found["torchvision"]
    if below(torch, "2.3") and from_(found["numpy"], "2"):
        yield Finding(f"PyTorch {torch} was built for NumPy 1, NumPy is {found['numpy']}", 'pip install "numpy<2"')
    if python[:2] >= (3, 12) and found["setuptools"] is None:
        yield Finding("thop needs distutils, which Python dropped and setuptools brings back", "pip install setuptools")
    if readable(torch) and readable(vision):
        matching, (_, _, build) = f"0.{release(torch)[1] + 15}", torch.partition("+")
        index = f" with the --index-url that pytorch.org/get-started names for {build}" if build else ""
        pip = f'pip install --force-reinstall --no-deps "torchvision=={matching}.*"{index}'
        if release(vision)[:2] != release(matching):
            yield Finding(f"torchvision {vision} was built for another PyTorch than {torch}", pip)
        elif (build == "cpu") != vision.endswith("+cpu"):
            kinds = ("CPU", "CUDA") if build == "cpu" else ("CUDA", "CPU")
            yield Finding(
                f"PyTorch {torch} is a {kinds[0]} build, torchvision {vision} a {kinds[1]} build that cannot be imported",
                pip,
            )


def _limits_of_recbole(found):
    """What fails in RecBole's own functions and not in those of this package."""
    if from_(found["setuptools"], "81") and below(found["ray"], "2.7"):
        yield Finding(
            f"recbole.quick_start cannot be imported: ray {found['ray']} asks setuptools {found['setuptools']} for "
            f"pkg_resources (recbole_diffusion.run does not need it)",
            'pip install "setuptools<81"',
            serious=False,
        )
    if from_(found["numpy"], "2"):
        yield Finding(
            f"RecBole's own Config and run_recbole fail under NumPy {found['numpy']} (recbole_diffusion.run works)",
            'pip install "numpy<2"',
            serious=False,
        )
    if from_(found["torch"], "2.6"):
        yield Finding(
            f"RecBole's own load_data_and_model fails under PyTorch {found['torch']}",
            "use recbole_diffusion.load_data_and_model",
            serious=False,
        )
    if from_(found["hyperopt"], "0.2.6"):
        yield Finding(
            f"RecBole's exhaustive search fails with hyperopt {found['hyperopt']}",
            'pip install "hyperopt==0.2.5"',
            serious=False,
        )


def check_imports():
    """Whether the package can be imported: a list with one Finding, or empty."""
    try:
        importlib.import_module("recbole_diffusion.quick_start")
    except Exception as error:  # whatever is broken in any of the packages behind it
        reason = one_line(error, 200)
        what = f"the package cannot be imported: {type(error).__name__}: {reason}"
        return [Finding(what, "repair what is named above")]
    return []


def check_device(found):
    """``(description, findings)`` of the device that training would use."""
    try:
        torch = importlib.import_module("torch")
    except Exception:  # check_imports tells why
        return "unknown, PyTorch cannot be imported", []
    if torch.cuda.is_available():
        return f"cuda, {torch.cuda.get_device_name(0)}", []
    cpu = f"cpu, {torch.get_num_threads()} threads"
    if torch.version.cuda:
        look = "look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        return cpu, [Finding("PyTorch is built for CUDA and sees no GPU", look, serious=False)]
    if shutil.which("nvidia-smi"):
        number = ".".join(map(str, release(found["torch"]))) if readable(found["torch"]) else ""
        pip = f'pip install --force-reinstall "torch{"==" * bool(number)}{number}"'
        return cpu, [Finding("there is an NVIDIA driver, PyTorch is a CPU build", pip, serious=False)]
    return cpu, []


def check_folders(data_path):
    """Findings about the folders in which a training reads and writes."""
    if not os.access(".", os.W_OK):
        yield Finding(f"nothing can be written in {os.getcwd()}, where log/ and saved/ go", "start in another folder")
    if not Path(data_path).is_dir():
        yield Finding(
            f"there is no folder '{os.path.abspath(data_path)}' for data sets (ml-100k and toy need none)",
            "start where it lies, or set --data_path",
            serious=False,
        )


def report(data_path=None):
    """Examine this installation.

    Args:
        data_path (str, optional): folder of the data sets; by default the one in ``properties/overall.yaml``.

    Returns:
        tuple: lines of the report (list[str]), findings (list[Finding]).
    """
    data_path = data_path or load_yaml(properties_dir() / "overall.yaml")["data_path"]
    found = installed()
    device, device_findings = check_device(found)
    doubts = [Finding(what, repair, serious=False) for what, repair in threads.doubts()]
    findings = [*check_versions(found), *device_findings, *doubts, *check_imports(), *check_folders(data_path)]
    here = data_sets(data_path)
    absent = [name for name in property_names("dataset") if name not in (*here, *PACKAGED, "ml-100k")]
    packaged = {name: "this package" for name in PACKAGED}
    if util.find_spec("recbole") is not None:
        packaged = {"ml-100k": "RecBole", **packaged}
    packaged = [f"{name} comes with {source}" for name, source in packaged.items() if name not in here]
    lines = [
        f"recbole_diffusion {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ", ".join(f"{name} {found[name]}" for name in (*SUPPORTED, *NEEDED_BY_RECBOLE) if found[name]),
        f"optional: {', '.join(f'{name} {found[name]}' for name in OPTIONAL if found[name]) or 'nothing'}",
        f"device: {device}",
        *threads.examine(),
        f"properties: {properties_dir()}",
        f"data sets are looked for in {os.path.abspath(data_path)} (--data_path changes it)",
        f"data sets there: {', '.join(here) or 'none'}{''.join(f'; {one}' for one in packaged)}",
        f"known and not there: {', '.join(absent) or 'none'}{' (recbole-diffusion prepare NAME)' if absent else ''}",
        "",
    ]
    for finding in sorted(findings, key=lambda one: not one.serious):
        lines += [f"{'problem' if finding.serious else 'note'}: {finding.what}", f"    {finding.repair}"]
    problems = sum(finding.serious for finding in findings)
    lines.append(f"{problems} problem(s)" if problems else "no problems")
    return lines, findings


# ------------------------------------------------------------------------------------------- command line


def add_arguments(parser):
    """Add the arguments of ``recbole-diffusion doctor`` to an argparse parser."""
    parser.add_argument("--data_path", help="folder of the data sets (default: dataset/)")


def main(args):
    """Run ``recbole-diffusion doctor``; returns 0, or 1 when something keeps this package from working."""
    lines, findings = report(args.data_path)
    print("\n".join(lines))
    return int(any(finding.serious for finding in findings))
