"""The site builds without warnings and loads nothing from elsewhere; the reference knows every public name; the
notebook runs.
"""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from documents import DOCS, ROOT

REFERENCE = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
NOTEBOOK = DOCS / "notebooks" / "first_steps.ipynb"
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def public_packages() -> list[str]:
    """Packages that say by ``__all__`` what is public."""
    found = []
    for top in ("cac_align", "reward_model"):
        for path in sorted((ROOT / top).rglob("__init__.py")):
            if "__all__" in path.read_text(encoding="utf-8"):
                found.append(".".join(path.parent.relative_to(ROOT).parts))
    return found


def is_described(module: str) -> bool:
    """Whether the reference has all members of a module, or all public names of a package."""
    return bool(re.search(rf"automodule:: {re.escape(module)}\n(?!   :no-members:)", REFERENCE))


@pytest.mark.parametrize("package", public_packages())
def test_the_reference_has_every_public_name(package):
    if is_described(package):
        return  # members of a package are those of its __all__
    names = set(importlib.import_module(package).__all__) - {"__version__"}
    missing = [n for n in sorted(names) if not re.search(rf"auto\w+:: [\w.]+\.{n}\b", REFERENCE)]  # here or at its home
    homes = {n: getattr(getattr(importlib.import_module(package), n), "__module__", package) for n in missing}
    missing = [n for n in missing if n not in importlib.import_module("reward_model").__all__]  # all of these are there
    lost = [n for n in missing if not any(is_described(m) for m in (homes[n], homes[n].rpartition(".")[0]))]
    assert not lost, f"docs/reference lacks {', '.join(f'{package}.{n}' for n in lost)}"


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_the_notebook_is_stored_with_its_outputs_and_nothing_of_the_machine():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    stored = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    outputs = [o for c in stored for o in c["outputs"]]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2, "make notebook"
    assert [c["execution_count"] for c in stored] == list(range(1, len(stored) + 1))
    assert not [o for o in outputs if o.get("name") == "stderr"] and not [c for c in stored if c["metadata"]]
    said = "".join("".join(o.get("text", "")) for o in outputs)
    assert "candidate" in said and "verdict  abnormal" in said and not re.search(r"/(home|root|tmp|work)/", said)


def test_the_notebook_compiles():
    code = cells()
    assert len(code) > 4 and any("best_of_n(" in c for c in code) and any("draw_overlay(" in c for c in code)
    for cell in code:
        ast.parse(cell)


@pytest.mark.slow
def test_the_notebook_runs():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    said = "".join(o.get("text", "") for o in outputs)
    assert "candidate" in said and "verdict  abnormal" in said and not [o for o in outputs if o.get("name") == "stderr"]


@pytest.mark.parametrize(
    "place",
    [
        "cac_align.FlowGRPOConfig",
        "reward_model.JudgeConfig",
        "reward_model.training.grpo.config.GrpoConfig",
        "reward_model.training.sft.config.StageArguments",
        "reward_model.minis.stages.MiniArguments",
        "reward_model.second_look.settings.SecondLookConfig",
    ],
)
def test_every_setting_is_in_the_table_with_its_meaning(place, monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    from dataclasses import fields

    from docutils import nodes
    from settings_table import table_nodes

    assert f".. settings-table:: {place}\n" in REFERENCE
    module, _, name = place.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    rows = [row for node in table_nodes(cls) for body in node.findall(nodes.tbody) for row in body.children]
    texts = {row[0].astext().removesuffix(" *"): row[3].astext() for row in rows}
    assert len(rows) == len(texts) and set(texts) == {f.name for f in fields(cls)}
    assert all(len(text) > 5 for text in texts.values()), [n for n, text in texts.items() if len(text) <= 5]


class Loaded(HTMLParser):
    """Collects what a browser fetches by itself for a page: scripts, styles, pictures, frames, fonts."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and given.get("src"):
            self.addresses.append(given["src"] or "")
        if tag == "link" and given.get("rel") not in ("canonical", "author", "license"):
            self.addresses.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_nb")
    site = tmp_path / "site"
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees"]
    command = [sys.executable, "-m", "sphinx", *options, DOCS, site]
    built = subprocess.run(command, env=QUIET, timeout=1800, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        reader = Loaded()
        reader.feed(text)
        assert not [a for a in reader.addresses if re.match(r"(https?:)?//", a)], page
        # MyST's own class "mathjax_ignore" is harmless; the script and its settings are not wanted.
        assert "window.mathjax" not in text.lower() and not [a for a in reader.addresses if "mathjax" in a.lower()]
    styles = "".join(p.read_text(encoding="utf-8") for p in (site / "_static").rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)
    settings = (site / "reference/flow_grpo.html").read_text(encoding="utf-8")
    assert "wan_linear, flow, dance, cps, precise, ode" in settings and "Settings:" not in settings
    method = (site / "method.html").read_text(encoding="utf-8")
    assert method.count("<math") > 30 and all(f'id="equation-{n}"' in method for n in range(2, 13))
    assert "image/png" in (site / "notebooks/first_steps.html").read_text(encoding="utf-8") or list(
        site.rglob("_images/*.png")
    )
