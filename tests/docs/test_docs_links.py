"""Links, anchors, pictures and named files of the documents exist, and every page can be reached."""

import json
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest
from documents import DOCS, PAGES, ROOT, anchors, links, mentioned_files, name, prose


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_files_exist(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{name(page)} links to {target}, which is not there"
        assert ROOT in (place, *place.parents), f"{name(page)} links out of the repository: {target}"
        if anchor:
            assert anchor in anchors(place), f"{name(page)} links to {target}; {name(place)} has no such heading"
    missing = [f for f in mentioned_files(page) if not (ROOT / f).exists() and not f.startswith("docs/_")]
    assert not missing, f"{name(page)} names files that are not there: {missing}"


def test_a_wrong_anchor_would_be_found():
    assert "from-a-shell" in anchors(DOCS / "how_to/best_of_n.md")
    assert "from-a-shelf" not in anchors(DOCS / "how_to/best_of_n.md")


def test_links_of_the_notebook_exist():
    notebook = DOCS / "notebooks/first_steps.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)\s#]+)", text)
    assert targets and all((notebook.parent / t).is_file() for t in targets)


def test_every_page_stands_in_a_table_of_contents():
    listed = set()
    for page in DOCS.rglob("*.md"):
        for inside in re.findall(r"^:::\{toctree\}\n(.*?)^:::", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in (line for line in inside.splitlines() if line and not line.startswith(":")):
                listed.add((page.parent / line).resolve())
    pages = {p.with_suffix("") for suffix in ("md", "ipynb") for p in DOCS.rglob(f"*.{suffix}")}
    assert pages - listed == {DOCS / "index"} and listed <= pages


def test_files_outside_docs_that_a_page_links_to_have_a_page_of_the_site():
    """Else the site does not build, which only a slow test would see."""
    pages = runpy.run_path(str(DOCS / "conf.py"))["repository_pages"]
    linked = [(p, (p.parent / t.partition("#")[0]).resolve()) for p in DOCS.rglob("*.md") for t in links(p)]
    outside = {q for p, q in linked if q.suffix == ".md" and DOCS not in q.parents}
    assert {q.relative_to(ROOT).as_posix() for q in outside} <= set(pages)
    assert all((ROOT / file).is_file() and (DOCS / page).is_file() for file, page in pages.items())


def test_pictures_have_words_and_load_nothing():
    used = {(p.parent / t).resolve() for p in PAGES for t in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", prose(p))}
    assert not [p for p in PAGES if re.search(r"!\[\]\(", prose(p))]
    drawn = sorted((DOCS / "figures").glob("*.svg"))
    assert drawn and set(drawn) <= used
    for path in drawn:
        tree = ElementTree.parse(path)
        assert tree.getroot()[0].tag.endswith("title") and tree.getroot()[0].text
        addresses = [v for e in tree.iter() for k, v in e.attrib.items() if k.split("}")[-1] in ("href", "src")]
        assert all(a.startswith("data:image/png;base64,") for a in addresses)


def test_documents_name_no_folder_of_the_machine_they_were_written_on():
    root = str(Path(__file__).resolve().parents[2])
    absolute = re.compile(rf"{re.escape(root)}\b|(?<![\w.:/])/(?:home|root|tmp|mnt)/")
    assert not [name(p) for p in PAGES if absolute.search(Path(p).read_text(encoding="utf-8"))]
