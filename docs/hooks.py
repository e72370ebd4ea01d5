"""What mkdocs cannot do by its settings: pages and pictures of the site that lie outside docs/.

On GitHub `../reports/x.png` leads from a page of docs/ to the file, and `docs/x.md` from
CONTRIBUTING.md to a page. In the site the pages, CONTRIBUTING.md and reports/ lie side by side.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "reports/README.md",
    "reports/benchmarks/**/README.md",
    "reports/benchmarks/**/*.csv",
    "reports/benchmarks/**/*.png",
    "reports/*/plots/*.png",
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the files of OUTSIDE under the paths that they have in the repository."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links from docs/ to the added files and back."""
    if "/" in page.file.src_uri:
        return markdown.replace("](../docs/", "](../")
    return markdown.replace("](../", "](").replace("](docs/", "](")
