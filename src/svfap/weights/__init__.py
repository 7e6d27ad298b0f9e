"""Weights on disk: our folders, and the checkpoints that the authors of SVFAP and VideoMAE published."""

from svfap.weights.checkpoint import Checkpoint, read_checkpoint, read_published
from svfap.weights.folder import init_encoder, load_model
from svfap.weights.names import published_name
from svfap.weights.published import build_published, export_published, import_published, save_published

__all__ = [
    "Checkpoint",
    "build_published",
    "export_published",
    "import_published",
    "init_encoder",
    "load_model",
    "published_name",
    "read_checkpoint",
    "read_published",
    "save_published",
]
