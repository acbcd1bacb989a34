"""The package is light to import and offers exactly what it promises."""

import subprocess
import sys
from importlib.resources import files

import pytest

import cac_align


def test_import_is_light():
    code = (
        "import sys, time; t = time.process_time(); import cac_align; s = time.process_time() - t;"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'PIL', 'av'} & set(sys.modules);"
        "assert not heavy, heavy; assert s < 0.5, s"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    names = ["BestOfNOutput", "CaCReward", "CompositeReward", "FlowGRPOConfig", "FlowGRPOTrainer", "MotionReward"]
    names += ["RemoteReward", "UnifiedReward", "VBenchMetric", "__version__", "best_of_n", "repair", "set_verbosity"]
    assert cac_align.__all__ == names
    assert all(getattr(cac_align, name) for name in cac_align.__all__) and callable(cac_align.best_of_n)
    assert set(cac_align.__all__) <= set(dir(cac_align))


@pytest.mark.slow
def test_best_of_n_is_the_function_whatever_was_imported_first():
    code = "import cac_align.selection.best; from cac_align import best_of_n; assert callable(best_of_n)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="CaCReward"):
        _ = cac_align.CacReward


def test_package_is_typed():
    assert (files("cac_align") / "py.typed").is_file()
