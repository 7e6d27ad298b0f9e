"""From videos of face crops to the input of a model, as `svfap predict` reads them, for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor

from svfap.data.augment import normalize
from svfap.data.crops import fit_frames
from svfap.data.prepared import in_crops
from svfap.errors import UserError
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.huggingface.configuration import SVFAPConfig
from svfap.model.config import VIDEO_PROCESSOR, ModelConfig
from svfap.predict.reader import Reader

Video = str | Path | np.ndarray | torch.Tensor | Sequence[Any]


class SVFAPVideoProcessor(BaseVideoProcessor):
    """Reads a clip of each video as a model's `config.json` says: frame rate, stride, number of frames, size, mean and deviation.

    Of a file or folder of frames it is the clip in the middle (see `Reader.middle`); `svfap predict` reads all of a video.
    Faces are not looked for: a model that was trained on face crops takes what `svfap crop` wrote, or with faces="none" any
    video as a face crop.

    config: the model's. faces: None or "none". Raises `UserError` for another value.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, config: ModelConfig, faces: Literal["none"] | None = None) -> None:
        if faces not in (None, "none"):
            raise UserError(
                f"faces={faces!r}: faces are not looked for here; crop them first (svfap crop), or use svfap predict"
            )
        self.config, self.faces = config, faces
        crop, tracking = FaceCropConfig(size_px=config.img_size), TrackConfig()  # not used without a detector
        self._reader = Reader(config, hop_s=None, detector=None, crop=crop, tracking=tracking, timeout_s=10.0)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, faces: Literal["none"] | None = None, **kwargs: Any
    ) -> SVFAPVideoProcessor:
        """The processor for the model in a folder or Hub repository; other options are those of loading.

        Raises `UserError` for options of reading, such as `size`, other than `faces`.
        """
        if refused := sorted(kwargs.keys() & VideosKwargs.__annotations__.keys()):
            raise UserError(
                f"{', '.join(refused)}: videos are read as the model's config.json says; the option here is faces"
            )
        config = SVFAPConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(config.settings(), faces)

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the class. The rest is in the model's `config.json`."""
        return {"video_processor_type": VIDEO_PROCESSOR}

    def __call__(
        self,
        videos: Video,
        num_frames: int | None = None,
        do_sample_frames: bool | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Clips for the model: `pixel_values`, (B, T, 3, H, W) float32.

        videos: a file, a folder of frames, or the frames of a clip, T of (H, W, 3) uint8 RGB, at the model's rate and stride; or
        a list of such videos. num_frames: the model's, if given. do_sample_frames: as pipelines give it: clips of files are
        sampled in any case. Raises `UserError` for what cannot be used, `VideoError` if a video cannot be read.
        """
        if isinstance(videos, list | tuple) and not videos:
            raise UserError("there are no videos in the list")
        if num_frames not in (None, self.config.num_frames):
            raise UserError(f"num_frames={num_frames}: this model's clips have {self.config.num_frames} frames")
        if do_sample_frames and self.config.frame_level:  # a pipeline, which takes logits of a clip
            raise UserError("the model has outputs for every frame, which a pipeline cannot show; use svfap predict")
        listed: Any = videos if isinstance(videos, list | tuple) and not _is_picture(videos[0]) else [videos]
        clips = np.stack([self._clip(video) for video in listed])
        pixels = normalize(torch.from_numpy(clips), self.config.pixel_mean, self.config.pixel_std)
        return BatchFeature({"pixel_values": pixels.transpose(1, 2).contiguous()}, tensor_type=return_tensors)

    def _clip(self, video: Video) -> np.ndarray:
        """(T, H, W, 3) uint8 of the model's size."""
        config = self.config
        if isinstance(video, str | Path):
            if config.face_crop and self.faces is None and not in_crops(Path(video).parent):
                raise UserError(
                    f"{video}: not of svfap crop, and the model was trained on face crops; crop it first, use svfap predict, "
                    'which finds faces, or take it as a face crop by SVFAPVideoProcessor.from_pretrained(…, faces="none")'
                )
            return self._reader.middle(video)
        frames = np.stack([np.asarray(frame) for frame in cast(Any, video)])
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != config.num_frames:
            got = f"{frames.dtype} {frames.shape}"
            raise UserError(
                f"a clip is uint8 RGB ({config.num_frames}, height, width, 3), every {config.sampling_stride}th frame at "
                f"{config.contract['frames a second in training']} frames a second, not {got}"
            )
        return fit_frames(frames, config.img_size, config.frame_fit)


def _is_picture(item: Any) -> bool:
    """Whether it is one frame of a clip rather than a video."""
    return not isinstance(item, str | Path | list | tuple) and np.asarray(item).ndim == 3
