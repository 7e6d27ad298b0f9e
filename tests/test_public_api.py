"""The public API: every name exists, is imported lazily, and has types for user scripts."""

from __future__ import annotations

import subprocess
import sys

import pytest

import svfap


def test_every_public_name_exists():
    assert (
        {"predict_videos", "PredictConfig", "load_model"} <= set(svfap.__all__) == set(dir(svfap)) & set(svfap.__all__)
    )
    for name in svfap.__all__:
        assert getattr(svfap, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        svfap.nonsense  # noqa: B018


def test_modules_do_not_shadow_functions_of_the_same_name():
    import svfap.datasets.prepare
    import svfap.evaluation.evaluate
    import svfap.reports.report

    assert callable(svfap.prepare) and callable(svfap.evaluate) and callable(svfap.report)


def test_importing_the_package_imports_nothing_heavy():
    code = "import svfap, sys; assert not {'torch', 'numpy', 'pandas', 'cv2', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
