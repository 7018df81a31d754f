"""What the documents say is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_setting_of_the_provider_is_documented_and_every_documented_one_exists() -> None:
    code = (ROOT / "portal/config/environment.py").read_text()
    known = set(re.findall(r'variables[.,]\s*(?:\w+\()?"(MOORLINE_[A-Z_]+)"', code)) | set(
        re.findall(r'_read_\w+\(variables, "(MOORLINE_[A-Z_]+)"', code)
    )
    assert len(known) > 15
    known |= {name for name in re.findall(r"MOORLINE_[A-Z_]+", code) if not name.endswith(("_", "_FILE"))}
    documented = set(re.findall(r"^\| `(MOORLINE_[A-Z_]+)` \|", (ROOT / "docs/provider.md").read_text(), re.MULTILINE))
    assert documented == known


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tunnels/*.md")]))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
