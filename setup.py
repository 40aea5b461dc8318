"""Packaging: the package, with the configs inside its wheel so that `get_config` works there."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copies `configs/` into the wheel as `mask_rcnn_repro/configs` (a checkout uses its own)."""

    def run(self) -> None:
        """Runs the stock command, then copies the config files beside the modules."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for source in sorted((ROOT / "configs").rglob("*")):
            if source.suffix in {".py", ".md"}:
                target = Path(self.build_lib, "mask_rcnn_repro", source.relative_to(ROOT))
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


def version() -> str:
    """Reads the version without importing the package."""
    text = (ROOT / "projects/mask_rcnn_repro/__init__.py").read_text()
    return text.split('__version__ = "')[1].split('"')[0]


setup(
    name="mask-rcnn-repro",
    version=version(),
    description="Reference reproduction of the Mask R-CNN paper as a Detectron2 plugin",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": "projects"},
    packages=find_packages("projects"),
    package_data={
        "mask_rcnn_embedded": ["py.typed"],
        "mask_rcnn_repro": ["paper/*.json", "py.typed", "weights/*/*/*"],
        "mask_rcnn_tools": ["report/*.j2", "py.typed"],
    },
    entry_points={"console_scripts": ["mask-rcnn-repro = mask_rcnn_tools.command:main"]},
    cmdclass={"build_py": BuildWithConfigs},
    # Detectron2 is not on the package index under its own name: docs/installing.md.
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5",
        "iopath>=0.1.7,<0.1.10",
        "omegaconf>=2.1,<2.4",
        "hydra-core>=1.1",
        "pycocotools>=2.0.6",
        "cityscapesscripts>=2.2",
        "pydantic>=2.7,<3",
        "numpy>=1.24",
        "orjson>=3.9",
        "opencv-python-headless>=4.8",
        "Pillow>=9.5",
        "matplotlib>=3.7",
        "PyYAML>=6.0",
        "tabulate>=0.9",
        "tensorboard>=2.13",
        "safetensors>=0.4",
        "tqdm>=4.65",
        "filelock>=3.12",
        "jinja2>=3.1",
        "scipy>=1.10",
    ],
    extras_require={
        # Faster at the same numbers; without them PyTorch, torchvision and pycocotools do the work.
        "fast": ["numba>=0.60", "hotcoco>=1.2"],
        "export": ["onnx>=1.16", "onnxruntime>=1.18"],
        "slurm": ["submitit>=1.5"],
        # Trackers of experiments: `train.writers`.
        "wandb": ["wandb>=0.17"],
        "mlflow": ["mlflow>=2.10"],
        "trackio": ["trackio>=0.43"],
        # Contenders of the benchmarks; onnxruntime takes part, too.
        "peers": ["openvino>=2026.4", "ultrafast-pycocotools>=0.1.14", "vernier>=0.5"],
    },
)
