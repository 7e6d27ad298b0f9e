"""Tell transformers of these models."""

from __future__ import annotations

from svfap.errors import require_package


def register_transformers() -> None:
    """Register the models with the Auto classes of transformers, which then read and write this package's model folders.

    `AutoConfig`, `AutoVideoProcessor`, and the models of `AutoModel` (features), `AutoModelForVideoClassification`
    (classification and regression) and `AutoModelForPreTraining`; so also `pipeline("video-classification")`. Call it once in
    each program; further calls do nothing. Raises `UserError` if transformers is not installed.
    """
    transformers = require_package("transformers", "transformers", "register_transformers")
    # Its top level hides this class where torchvision is missing, which reads no video here.
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    from svfap.huggingface.configuration import SVFAPConfig
    from svfap.huggingface.modeling import SVFAPForPreTraining, SVFAPForVideoClassification, SVFAPModel
    from svfap.huggingface.video_processing import SVFAPVideoProcessor

    transformers.AutoConfig.register(SVFAPConfig.model_type, SVFAPConfig, exist_ok=True)
    transformers.AutoModel.register(SVFAPConfig, SVFAPModel, exist_ok=True)
    transformers.AutoModelForVideoClassification.register(SVFAPConfig, SVFAPForVideoClassification, exist_ok=True)
    transformers.AutoModelForPreTraining.register(SVFAPConfig, SVFAPForPreTraining, exist_ok=True)
    AutoVideoProcessor.register(SVFAPConfig, SVFAPVideoProcessor, exist_ok=True)
