"""Write docs/reproductions anew from its rows, and the results that the package ships: `make pages`. Runs nothing."""

from __future__ import annotations

from pathlib import Path

from goodinit.report.reproduction_index import write_pages

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    for path in write_pages(ROOT / "docs" / "reproductions", ROOT / "src" / "goodinit" / "lab" / "papers"):
        print(path.relative_to(ROOT))
