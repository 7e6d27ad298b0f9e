"""What the paper reports (arXiv 2401.00416v2), to stand beside results of ours and never in their place."""

from __future__ import annotations

# Dataset -> model -> metric -> value; percentages as fractions. "released": what the authors' released checkpoints give.
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

# Experiment -> row -> (UAR, WAR) of SVFAP-B on fold 1 of DFEW. The figures (4 and 7) give theirs roughly.
EXPERIMENTS: dict[str, dict[str, tuple[float, float]]] = {
    "scratch": {"from scratch": (0.21, 0.30), "pre-trained": (0.6263, 0.7481)},
    "few_shot": {"10%": (0.50, 0.63), "100%": (0.6263, 0.7481)},
    "scale": {
        **{"1%": (0.5765, 0.7061), "5%": (0.6034, 0.7300), "10%": (0.6109, 0.7356), "20%": (0.6154, 0.7376)},
        **{"100%": (0.6263, 0.7481)},
    },
    "masking": {"75%": (0.6089, 0.7391), "85%": (0.6187, 0.7477), "90%": (0.6263, 0.7481), "95%": (0.5993, 0.7317)},
    "variants": {
        **{"neither": (0.6171, 0.7441), "pyramid only": (0.6084, 0.7428), "bottleneck only": (0.6266, 0.7502)},
        **{"both": (0.6263, 0.7481)},
    },
    "fusion": {
        **{"no / no": (0.6178, 0.7443), "no / yes": (0.6124, 0.7417), "yes / no": (0.6263, 0.7481)},
        **{"yes / yes": (0.6239, 0.7474)},
    },
    "bottleneck": {"4": (0.6176, 0.7408), "8": (0.6263, 0.7481), "16": (0.6286, 0.7469)},
    "downsampling": {"avg": (0.6204, 0.7442), "max": (0.6225, 0.7416), "conv": (0.6263, 0.7481)},
    "videomae": {"VideoMAE (Kinetics-400)": (0.5832, 0.7094), "SVFAP-B": (0.6263, 0.7481)},
}

# Tables 2, 3, 5 and 6: row -> (parameters in M, fine-tuning and pre-training multiply-adds in G); None: not reported.
COSTS: dict[str, dict[str, tuple[float | None, float | None, float | None]]] = {
    "masking": {
        **{"75%": (None, None, 18.4), "85%": (None, None, 14.7), "90%": (None, None, 12.9)},
        **{"95%": (None, None, 11.2)},
    },
    "variants": {
        **{"neither": (76.4, 76.9, 14.9), "pyramid only": (77.5, 53.1, 13.1), "bottleneck only": (76.6, 49.9, 13.5)},
        **{"both": (77.6, 43.6, 12.9)},
    },
    "bottleneck": {"4": (None, 43.2, 12.6), "8": (None, 43.6, 12.9), "16": (None, 44.4, 13.7)},
    "downsampling": {"avg": (76.6, 43.3, None), "max": (76.6, 43.3, None), "conv": (77.6, 43.6, None)},
}
