"""Models for `torch.hub.load`, from a checkout of this repository; see docs/ecosystem.md."""

import sys
from pathlib import Path
from typing import Any

# Checked by torch.hub before a function below is called.
dependencies = ["torch", "numpy", "yaml", "safetensors", "huggingface_hub", "jinja2", "lazy_loader", "rich"]

if "svfap" not in sys.modules:
    sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))


def svfap_base(task: str | None = None, weights: str | None = None, **settings: Any) -> Any:
    """The paper's base model. task: features, classification, regression or pretraining; default: that of the weights, else
    features. weights: a folder, the name of a repository on the Hugging Face Hub, or a checkpoint file of the authors;
    default: fresh ones. settings: fields of `svfap.ModelConfig`, such as num_outputs=7. Raises `svfap.UserError`, also if the
    weights are of another size."""
    return _model("svfap_base", task, weights, settings)


def svfap_small(task: str | None = None, weights: str | None = None, **settings: Any) -> Any:
    """The paper's small model; arguments as for svfap_base."""
    return _model("svfap_small", task, weights, settings)


def svfap_tiny(task: str | None = None, weights: str | None = None, **settings: Any) -> Any:
    """A size that trains on a laptop's CPU; arguments as for svfap_base."""
    return _model("svfap_tiny", task, weights, settings)


def videomae_base(task: str | None = None, weights: str | None = None, **settings: Any) -> Any:
    """VideoMAE-Base; arguments as for svfap_base."""
    return _model("videomae_base", task, weights, settings)


def load_model(weights: str, task: str | None = None, **settings: Any) -> Any:
    """`svfap.load_model`: a model of any size, from a folder, a file or the Hub, or one that comes with the package."""
    import svfap

    return svfap.load_model(weights, task, **settings)


def _model(preset: str, task: str | None, weights: str | None, settings: dict[str, Any]) -> Any:
    import svfap
    from svfap.model.config import ENCODER_SETTINGS
    from svfap.model.presets import model_config

    if weights is None:
        return svfap.create_model(preset, task or "features", **settings)
    model, wanted = svfap.load_model(weights, task, **settings), model_config(preset, "features")
    differing = [name for name in ENCODER_SETTINGS if getattr(model.config, name) != getattr(wanted, name)]
    if differing:
        said = ", ".join(f"{name}={getattr(model.config, name)}" for name in differing)
        raise svfap.UserError(f"{weights}: not of the size of {preset} ({said}); load_model takes any size")
    return model
