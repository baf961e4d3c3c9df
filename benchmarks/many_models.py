"""How long the tests take with more models: copies of ours are registered under other names for one run of pytest.

    python benchmarks/many_models.py --copies=15 -- -n 2

What stands after ``--`` goes to pytest. Tests that look for the files of a registered model in this package are left out.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASES = {"SimDiffRec": "simdiffrec", "DiffuRec": "diffurecsys", "DiffuRecSys": "diffurecsys", "DiffSBR": "diffsbr"}
MODEL = """from pathlib import Path

from recbole_diffusion.model.{module} import {base}


class {name}({base}):
    settings_file = Path(__file__).with_name("{name}.yaml")
"""
CONTRACT = """from contracts.{module} import {base}


class {name}({base}):
    model = "{name}"
"""
LEFT_OUT = [
    "--ignore=tests/test_structure.py",
    "--deselect=tests/settings/test_presets.py::test_models_that_train_have_the_three_presets",
]


def write_copies(folder, number):
    """Modules, settings and contracts of copies, and a plugin of pytest that registers them."""
    (folder / "contracts").mkdir()
    registered = {}
    for i in range(number):
        base = list(BASES)[i % len(BASES)]
        name, words = f"{base}{i}", {"module": BASES[base], "base": base, "name": f"{base}{i}"}
        registered[name] = f"copy_{name.lower()}"
        (folder / f"{registered[name]}.py").write_text(MODEL.format(**words))
        (folder / "contracts" / f"{registered[name]}.py").write_text(CONTRACT.format(**words))
        shutil.copy(ROOT / "properties" / "model" / f"{base}.yaml", folder / f"{name}.yaml")
    (folder / "copies.py").write_text(f"from recbole_diffusion.settings import registry\n\nregistry.MODELS.update({registered})\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=15)
    parser.add_argument("words", nargs="*", help="of pytest")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_copies(Path(folder), options.copies)
        path = os.pathsep.join([folder, str(ROOT), os.environ.get("PYTHONPATH", "")])
        begin = time.perf_counter()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "copies", "-p", "no:cacheprovider", *LEFT_OUT, *options.words]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{options.copies} copies: {time.perf_counter() - begin:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor")
    return code


if __name__ == "__main__":
    sys.exit(main())
