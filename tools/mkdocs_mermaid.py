"""A hook of MkDocs: adds what `tools/mermaid` has put into build/docs/mermaid to the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

MERMAID = Path(__file__).parent.parent / "build" / "docs" / "mermaid"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(MERMAID.glob("*.js")):
        files.append(File.generated(config, f"mermaid/{path.name}", abs_src_path=str(path)))
    return files
