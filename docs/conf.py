"""Settings of the documentation: ``make docs`` builds it into outputs/docs, offline, with warnings as errors.

Sphinx, because the reference is made from docstrings; MyST, so that a page reads the same on GitHub; furo, whose pages
load nothing from elsewhere. Equations become MathML while building (``_ext/mathml.py``).
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# The notebook runs in its own process, in its folder: the models here are small and nothing may be fetched.
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import cac_align

#: STIX Two Math (SIL Open Font License), which MathML needs for its sizes and brackets; in the package ziamath.
MATH_FONT = Path(find_spec("ziamath").origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"

project = "cac-align"
author = "the cac-align authors"
project_copyright = author
version = release = cac_align.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "repository",
    "command_options",
]
exclude_patterns = ["_build"]
nitpicky = False

# --- pages ------------------------------------------------------------------------------------------------------------
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
#: Tables in results.md are pasted as the recipes print them, with headings of a fixed level.
suppress_warnings = ["myst.header"]

# --- the notebook: stored with outputs for readers elsewhere, run while building, kept until it changes ---------------
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True

# --- reference --------------------------------------------------------------------------------------------------------
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Args of a call", "params_style")]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

#: Tables of settings, read from the dataclasses.
extensions += ["settings_table"]

#: Files outside docs/ that pages link to, and the page of the site that includes each.
repository_pages = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "assets/cac-mini/README.md": "cards/cac_mini.md",
    "assets/wan-mini/README.md": "cards/wan_mini.md",
    "benchmarks/results/judge.md": "cards/judge.md",
    "benchmarks/results/train.md": "cards/train.md",
    "benchmarks/results/train_vllm.md": "cards/train_vllm.md",
    "benchmarks/results/flow_grpo.md": "cards/flow_grpo.md",
    "benchmarks/results/metrics.md": "cards/metrics.md",
    "benchmarks/results/server_load.md": "cards/server_load.md",
    "benchmarks/results/own_footage.md": "cards/own_footage.md",
    "benchmarks/results/repair.md": "cards/repair.md",
    "benchmarks/results/corpus_runs.md": "cards/corpus_runs.md",
    "benchmarks/results/score.md": "cards/score.md",
    "benchmarks/results/previews.md": "cards/previews.md",
    "assets/unified-mini/README.md": "cards/unified_mini.md",
}

# --- look -------------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = "cac-align"
html_math_renderer = "mathml"
html_static_path = ["_static", str(MATH_FONT)]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
