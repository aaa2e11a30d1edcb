"""Packaging: dependencies with bounds, and the extras a user picks by hardware or purpose."""

from setuptools import find_packages, setup

JAX = "jax>=0.10,<0.13"
FAISS = "faiss-cpu>=1.15,<2"
TOKENIZERS = "tokenizers>=0.20,<1"
TEST = [
    FAISS,
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "scikit-learn>=1.5,<2",
    TOKENIZERS,
    # The independent implementation of the backbones. The tests that need it are skipped where no such wheel exists.
    "torch==2.13.0; python_version < '3.12'",
    "transformers>=5.0,<6; python_version < '3.12'",
]

setup(
    name="mrl_jax",
    version="0.1.0",
    description="Pretraining, probing and serving of elastic (Matryoshka and switchable) representations in JAX",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mrl_jax", "mrl_jax.*"]),
    install_requires=[
        "absl-py>=2.1,<3",
        "array-record>=0.7,<0.9",
        "flatbuffers>=24.3,<26",
        "flax>=0.12,<0.13",
        "grain>=0.2.15,<0.3",
        JAX,
        "matplotlib>=3.9,<4",
        "ml-collections>=1.0,<2",
        "ml-dtypes>=0.5,<1",
        "numpy>=2.0,<3",
        "optax>=0.2.5,<0.3",
        "opencv-python-headless>=4.10,<6",
        "orbax-checkpoint>=0.12.0,<0.13",
        "pillow>=11,<14",
        "pyarrow>=16,<27",
        "qtawesome>=1.4,<1.5",
        "safetensors>=0.5,<1",
        "scipy>=1.14,<2",
        "simplejpeg>=1.8,<2",
        "tensorflow-datasets>=4.9.8,<5",
        "tqdm>=4.66,<5",
        # For its C library, which decodes parts of a picture; without it whole pictures are decoded.
        "turbojpeg>=0.0.2,<0.1; platform_machine == 'x86_64' and python_version < '3.14'",
    ],
    extras_require={
        "beam": ["apache-beam>=2.60,<3"],
        "gpu": [JAX.replace("jax", "jax[cuda12]", 1)],
        "tpu": [JAX.replace("jax", "jax[tpu]", 1)],
        "retrieval": [FAISS],
        "text": [TOKENIZERS],
        "wordnet": ["nltk>=3.8,<4"],
        "log": ["tensorboardX>=2.6,<3", "wandb>=0.18,<1"],
        "test": TEST,
        "dev": [*TEST, "ruff>=0.8,<1", "pre-commit>=4,<5"],
    },
)
