"""The package is light to import, offers what it says, and its examples run."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

from cac_align import flow_grpo


def test_import_is_light_and_names_are_there():
    code = (
        "import sys, cac_align.flow_grpo; heavy = {'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(flow_grpo, name) for name in flow_grpo.__all__)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(flow_grpo.__path__)])
def test_examples_run(module):
    assert doctest.testmod(importlib.import_module(f"cac_align.flow_grpo.{module}")).failed == 0
