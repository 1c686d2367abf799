"""The documentation: every link leads somewhere, the index names every page, and the reference can be built."""

import re
import subprocess
import sys
from importlib import util
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What is written for readers; other folders at the top, such as environments, are somebody else's.
PLACES = ("benchmarks", "cli", "codec", "docs", "models", "sample_images", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(path for place in PLACES for path in (ROOT / place).rglob("*.md"))])
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def prose(path):
    """The text of a page without its code, in which brackets mean something else."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(path):
    """The names of a page's headings, as they are made of their words by those that show Markdown."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES])
def test_every_relative_link_leads_somewhere(page):
    broken = []
    for first, second in LINK.findall(prose(page)):
        link = first or second
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_index_names_every_page():
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / first).resolve() for first, _ in LINK.findall(prose(index)) if "#" not in first}
    pages = {path for path in PAGES if ROOT / "docs" in path.parents} | set((ROOT / "codec").rglob("*.md"))
    assert pages - {index} - named == set()
    assert {path.name for path in (ROOT / "docs").iterdir() if path.is_dir()} == {"experiments", "guide", "reference"}


def test_what_code_calls_a_page_of_the_docs_is_one():
    named = 0
    for place in ("benchmarks", "cli", "codec", "tests"):
        for path in (ROOT / place).rglob("*.py"):
            for name in re.findall(r"docs/[\w/-]+\.(?:md|svg|png)", path.read_text(encoding="utf-8")):
                assert (ROOT / name).exists(), f"{path}: {name}"
                named += 1
    assert named > 5


@pytest.mark.skipif(not util.find_spec("pdoc"), reason="pdoc is not installed")
def test_the_reference_is_built_of_the_modules_that_make_names(tmp_path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = re.search(r"^DOCUMENTED := (.*?)\n\n", makefile, re.DOTALL | re.MULTILINE)[1].replace("\\\n", " ")
    for prefix, names in re.findall(r"\$\(addprefix ([\w.]+),([\w ]+)\)", text):
        text = text.replace(f"$(addprefix {prefix},{names})", " ".join(prefix + name for name in names.split()))
    modules = text.split()
    command = [sys.executable, "-W", "ignore", "-m", "pdoc", "--docformat", "google", "-o", str(tmp_path), *modules]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for module in modules:
        page = (tmp_path / f"{module.replace('.', '/')}.html").read_text(encoding="utf-8")
        assert not re.search(r"(?:src|@import) *=? *\"?https?:", page)  # nothing is fetched by who reads it
    front = (tmp_path / "codec.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in front for name in ("Codec", "compress", "decompress", "Codec.compress"))
