"""From frames to face tracks to crops; opens no videos and knows no models."""

from svfap.faces.crop import CropConfig, crop_face
from svfap.faces.detect import Detector, Face, Haar, YuNet, make_detector
from svfap.faces.track import TrackConfig, TrackedFace, TrackedFrame, track_faces

__all__ = [
    "CropConfig",
    "Detector",
    "Face",
    "Haar",
    "TrackConfig",
    "TrackedFace",
    "TrackedFrame",
    "YuNet",
    "crop_face",
    "make_detector",
    "track_faces",
]
