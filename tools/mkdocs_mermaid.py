"""A hook of MkDocs: adds what `tools/mermaid` has put into build/docs/mermaid to the site, and to
those of its pages that have diagrams."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

MERMAID = Path(__file__).parent.parent / "build" / "docs" / "mermaid"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(MERMAID.glob("*.js")):
        files.append(File.generated(config, f"mermaid/{path.name}", abs_src_path=str(path)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    if '<pre class="mermaid">' in output:
        return output
    return re.sub(r'<script src="[^"]*mermaid/start\.js"[^>]*></script>', "", output)
