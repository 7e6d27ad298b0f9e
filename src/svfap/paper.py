"""Test results that the paper reports (arXiv 2401.00416v2): tables show them beside the results of this package.

The numbers of its ablations are in `svfap.experiments.studies`.
"""

from __future__ import annotations

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
