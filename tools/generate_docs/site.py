"""Hooks of mkdocs.yml: the site has the repository's directories, so its links work unchanged.

Pages below `docs/` and the Markdown files outside keep their paths. Code and other text files that
they link to become pages of their own. A page of `api/` shows the docstrings of one package.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("*.md", "configs/*.md", "datasets/*.md", "results/*.md", "results/earlier/*.md")
PROJECTS = ROOT / "projects"
FENCED = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)$)", re.MULTILINE | re.DOTALL)
# content of lists with GitHub's indentation, of which Python-Markdown wants 4 and 8
INDENTED = re.compile(r"^(?: {3}(?: {4})?(?=\S)| {2}(?=[-*] ))", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#:]+)(?=[)#])")  # relative links


def api_packages() -> list[str]:
    """Names of the packages and modules that have an API page."""
    return sorted(
        ".".join(path.relative_to(PROJECTS).with_suffix("").parts)
        for package in PROJECTS.glob("mask_rcnn_*")
        for path in package.iterdir()
        if not path.name.startswith(("_", "."))
        and (path.suffix == ".py" or (path / "__init__.py").is_file())
    )


def slugify(title: str, separator: str) -> str:
    """Anchors of headings as GitHub makes them."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Sets the anchors, and adds the API pages to the navigation."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify
    groups: dict[str, list[dict[str, str]]] = {}
    for name in api_packages():
        package, _, rest = name.partition(".")
        groups.setdefault(package, []).append({rest: f"api/{name}.md"})
    config.nav.append({"API": [{package: pages} for package, pages in groups.items()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Gives all files their path in the repository."""
    docs = Path(config.docs_dir)
    found = {}
    for file in files:
        path = Path(file.abs_src_path or "")
        if path.is_relative_to(docs):
            file = _copy(config, path)
        found[file.src_uri] = file
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            found[path.relative_to(ROOT).as_posix()] = _copy(config, path)
    for name in [name for name in found if name.endswith(".md")]:
        for target in LINK.findall((ROOT / name).read_text(encoding="utf-8")):
            linked = _target(name, target)
            path = ROOT / linked
            if f"{linked}.md" in found or not path.is_file() or linked.endswith(".md"):
                continue
            if path.suffix in {".png", ".jpg", ".svg"}:
                found[linked] = _copy(config, path)
            else:
                found.pop(linked, None)  # its page has the same address
                found[f"{linked}.md"] = File.generated(
                    config, f"{linked}.md", content=_source_page(linked)
                )
    for name in api_packages():
        text = f"---\ntitle: {name}\n---\n\n::: {name}\n"
        found[f"api/{name}.md"] = File.generated(config, f"api/{name}.md", content=text)
    return Files(found.values())


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to pages of code, titles of blocks, and lists as Python-Markdown reads them."""

    def link(found: re.Match[str]) -> str:
        is_code = files.get_file_from_path(f"{_target(page.file.src_uri, found[1])}.md")
        return f"]({found[1]}.md" if is_code else found[0]

    parts = FENCED.split(markdown)
    parts[::2] = [
        INDENTED.sub(lambda found: " " * (8 if len(found[0]) == 7 else 4), part)
        for part in parts[::2]
    ]
    markdown = "".join(parts)
    markdown = re.sub(r"^```(\w+) file=(\S+)$", r'```\1 title="\2"', markdown, flags=re.MULTILINE)
    return LINK.sub(link, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Shows Sphinx' roles and literal blocks of docstrings as Markdown does."""
    if not page.file.src_uri.startswith("api/"):
        return html
    html = re.sub(r":(?:class|func|meth|mod|attr|data):<code>~?", "<code>", html)
    return html.replace("::</p>", ":</p>")


def _copy(config: Any, path: Path) -> File:
    return File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))


def _target(page: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _source_page(name: str) -> str:
    if name.endswith(".ipynb"):
        return _notebook_page(ROOT / name)
    language = {".py": "python", ".json": "json", ".cff": "yaml"}.get(Path(name).suffix, "text")
    text = (ROOT / name).read_text(encoding="utf-8").rstrip("\n")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n~~~~{language}\n{text}\n~~~~\n"


def _notebook_page(file: Path) -> str:
    parts = [f"Open `{file.relative_to(ROOT)}` in Jupyter to run this page."]
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"~~~~python\n{text}\n~~~~")
    return "\n\n".join(parts)
