"""Test results that the paper reports (arXiv 2401.00416v2): tables show them beside the results of this package.

The numbers of its ablations are in `svfap.experiments.studies`. `REPORTED` holds what other systems have reported since.
"""

from __future__ import annotations

from typing import NamedTuple

# Names of the datasets here, by those in `dataset.json`; others are printed as they are.
TITLES = {
    "dfew": "DFEW", "ferv39k": "FERV39k", "mafw": "MAFW", "crema_d": "CREMA-D", "ravdess": "RAVDESS",
    "enterface05": "eNTERFACE'05", "werewolf_xl": "Werewolf-XL", "avcaffe_arousal": "AVCAffe (arousal)",
    "avcaffe_valence": "AVCAffe (valence)", "chalearn": "ChaLearn First Impressions",
}  # fmt: skip
# Dataset -> model -> metric -> value; percentages as fractions. "released": results of the authors' released checkpoints.
RESULTS: dict[str, dict[str, dict[str, float]]] = {
    "dfew": {
        "svfap_small": {"uar": 0.6045, "war": 0.7267},
        "svfap_base": {"uar": 0.6283, "war": 0.7427},
        "released": {"uar": 0.6389, "war": 0.7481},
    },
    "ferv39k": {
        "svfap_small": {"uar": 0.4119, "war": 0.5134},
        "svfap_base": {"uar": 0.4214, "war": 0.5229},
        "released": {"uar": 0.4305, "war": 0.5286},
    },
    "mafw": {
        "svfap_small": {"uar": 0.3982, "war": 0.5389},
        "svfap_base": {"uar": 0.4119, "war": 0.5428},
        "released": {"uar": 0.4351, "war": 0.5631},
    },
    "crema_d": {
        "svfap_small": {"uar": 0.7458, "war": 0.7458},
        "svfap_base": {"uar": 0.7731, "war": 0.7737},
    },
    "ravdess": {
        "svfap_small": {"uar": 0.7359, "war": 0.7390},
        "svfap_base": {"uar": 0.7515, "war": 0.7501},
    },
    "enterface05": {
        "svfap_small": {"uar": 0.5716, "war": 0.5712},
        "svfap_base": {"uar": 0.6058, "war": 0.6054},
    },
    "werewolf_xl": {
        "svfap_small": {
            **{"pcc_arousal": 0.2211, "ccc_arousal": 0.1786, "pcc_valence": 0.6566, "ccc_valence": 0.6374},
            **{"pcc_dominance": 0.3202, "ccc_dominance": 0.2799},
        },
        "svfap_base": {
            **{"pcc_arousal": 0.2351, "ccc_arousal": 0.1896, "pcc_valence": 0.6711, "ccc_valence": 0.6427},
            **{"pcc_dominance": 0.3461, "ccc_dominance": 0.2969},
        },
    },
    "avcaffe_arousal": {"svfap_small": {"weighted_f1": 0.3924}, "svfap_base": {"weighted_f1": 0.4036}},
    "avcaffe_valence": {"svfap_small": {"weighted_f1": 0.4022}, "svfap_base": {"weighted_f1": 0.4149}},
    "chalearn": {
        "svfap_small": {"ccc": 0.6514, "accuracy": 0.9159},
        "svfap_base": {"ccc": 0.6645, "accuracy": 0.9175},
    },
}


class Reported(NamedTuple):
    """What a system reports on a dataset, in percent as printed; None: not printed. source: where the figures were looked up."""

    system: str
    inputs: str
    uar: float | None
    war: float | None
    source: str


_SURVEY = "wangyanckxx/SurveyFER, README"
_S2D = "MSA-LMC/S2D, README"
_S4D = "arXiv 2409.06154, abstract"
_MIRA = "summary by others of arXiv 2606.30611; check the paper"
_HUMAN_OMNI = "HumanOmni, README"
# Printed figures, none of which was run with this package. Inputs, encoders and protocols differ.
REPORTED: dict[str, tuple[Reported, ...]] = {
    "dfew": (
        Reported("MAE-DFER", "video", 63.41, 74.43, _SURVEY),
        Reported("VideoMAE, pre-trained on VoxCeleb2", "video", 63.60, 74.60, _MIRA),
        Reported("S2D", "video, stills", 61.82, 76.03, _S2D),
        Reported("S2D, oversampled", "video, stills", 65.45, 74.81, _S2D),
        Reported("S4D", "video, stills", None, 76.68, _S4D),
        Reported("UMBEnet", "video, text", 64.55, 73.93, _SURVEY),
        Reported("A3lign-DFER", "video, text", 64.09, 74.20, _SURVEY),
        Reported("FineCLIPER", "video, text", 65.98, 76.21, _SURVEY),
        Reported("MiRA, ViT-B", "video", 65.29, 75.86, _MIRA),
        Reported("MiRA, ViT-H", "video", 68.25, 78.24, _MIRA),
        Reported("HiCMAE", "video, sound", 63.76, 75.01, f"{_HUMAN_OMNI}; {_SURVEY} has 61.92 / 73.10"),
        Reported("MMA-DFER", "video, sound", 67.01, 77.51, _SURVEY),
        Reported("CLAIP-Emo, ViT-L", "video, sound", None, 80.14, "arXiv 2509.14527, abstract"),
        Reported("Emotion-LLaMA", "video, sound, language model", 64.21, 77.06, _HUMAN_OMNI),
        Reported("HumanOmni 7B", "video, sound, language model", 74.86, 82.46, f"{_HUMAN_OMNI}; protocol not clear"),
    ),
    "ferv39k": (
        Reported("MAE-DFER", "video", 43.12, 52.07, _SURVEY),
        Reported("VideoMAE, pre-trained on VoxCeleb2", "video", 43.33, 52.39, _MIRA),
        Reported("S2D", "video, stills", 41.28, 52.56, _S2D),
        Reported("S2D, oversampled", "video, stills", 43.97, 46.21, _S2D),
        Reported("S4D", "video, stills", None, 53.65, _S4D),
        Reported("UMBEnet", "video, text", 44.01, 52.10, _SURVEY),
        Reported("A3lign-DFER", "video, text", 41.87, 51.77, _SURVEY),
        Reported("FineCLIPER", "video, text", 45.22, 53.98, _SURVEY),
        Reported("MiRA, ViT-H", "video", 45.12, 55.64, _MIRA),
    ),
    "mafw": (
        Reported("MAE-DFER", "video", 41.62, 54.31, _SURVEY),
        Reported("VideoMAE, pre-trained on VoxCeleb2", "video", 40.87, 53.51, _MIRA),
        Reported("S2D", "video, stills", 41.86, 57.37, _S2D),
        Reported("S2D, oversampled", "video, stills", 43.40, 55.22, _S2D),
        Reported("S4D", "video, stills", None, 58.44, _S4D),
        Reported("UMBEnet", "video, text", 46.92, 57.25, _SURVEY),
        Reported("A3lign-DFER", "video, text", 42.07, 53.22, _SURVEY),
        Reported("FineCLIPER", "video, text", 45.01, 56.91, _SURVEY),
        Reported("MiRA, ViT-B", "video", 45.24, 58.69, _MIRA),
        Reported("MiRA, ViT-H", "video", 48.22, 61.45, _MIRA),
        Reported("HiCMAE", "video, sound", 42.65, 56.17, _HUMAN_OMNI),
        Reported("MMA-DFER", "video, sound", 44.11, 58.52, _SURVEY),
        Reported("CLAIP-Emo, ViT-L", "video, sound", None, 61.18, "arXiv 2509.14527, abstract"),
        Reported("HumanOmni 7B", "video, sound, language model", 52.94, 68.40, f"{_HUMAN_OMNI}; protocol not clear"),
    ),
}
