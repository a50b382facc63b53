"""What a real browser makes of a hostile report: skipped where there is none."""

import shutil
import subprocess
from pathlib import Path

import pytest

from report_pages import Page
from sotune.reporting import write_comparison_report, write_run_report

pytestmark = pytest.mark.slow

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


ATTACK = "</text></title></svg></style><script>document.body.append('ran'.repeat(2))</script>"


def dump_dom(path: Path, profile: Path) -> Page:
    """Opens a page in headless Chromium and returns the document as it stands after loading."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed; install chromium to run this test")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    return Page(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)


def assert_harmless(page: Page) -> None:
    """Asserts that the browser found no element that only data could have made, and ran nothing."""
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("style") == 1
    assert page.tags.count("body") == 1
    assert "ranran" not in page.text
    assert "{{7*7}}" in page.text


def test_the_attack_works_on_a_page_without_safeguards(tmp_path):
    naive = tmp_path / "naive.html"
    naive.write_text(f"<!DOCTYPE html><body>{ATTACK}</body>")
    assert "ranran" in dump_dom(naive, tmp_path / "profile").text


def test_the_policy_stops_a_script_even_without_escaping(make_run, tmp_path):
    path = write_run_report(make_run())
    path.write_text(path.read_text(encoding="utf-8").replace("<footer>", f"{ATTACK}<footer>"), encoding="utf-8")
    assert "ranran" not in dump_dom(path, tmp_path / "profile").text


def test_a_hostile_run(make_run, hostile, tmp_path):
    ids = [ATTACK, *(text for text in hostile if "\ud800" not in text)]
    records = {"warnings": ids, "quarantine_reasons": dict.fromkeys(ids, 1)}
    run = make_run([1.0] * len(ids), ids=ids, n_kept=3, records=records, config={text: text for text in ids})
    assert_harmless(dump_dom(write_run_report(run), tmp_path / "profile"))


def test_a_hostile_comparison(make_comparison, hostile, tmp_path):
    texts = [ATTACK, *hostile]
    details = {
        "kept": {text: {"harmful_rows_kept": 0.5} for text in texts},
        "examples": [{"prompt": text, "kind": text, "adaptive": text} for text in texts],
        "safe_to_show": True,
    }
    folder = make_comparison({text: {} for text in texts}, details=details)
    assert_harmless(dump_dom(write_comparison_report(folder), tmp_path / "profile"))
