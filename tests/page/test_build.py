import json
import re
import shutil

import pytest

from digon.errors import CorruptError, PathError
from digon.page import build as page


def test_page_is_one_file_without_addresses_to_load(finished_run):
    html = page.build(finished_run.path).read_text()
    ours = html.split("</style>")[1].split('<script type="application/json"')[0]
    assert "http" not in ours
    assert re.findall(r'(?:src|href)="(?!data:,)([^"#]*)"', ours) == []
    assert "default-src 'none'" in html


def test_data_cannot_close_its_element(finished_run):
    html = page.build(finished_run.path).read_text()
    data = html.split('id="data">')[1].split("</script>")[0]
    assert "<" not in data
    assert json.loads(data)["overview"]["sentences"][0]["text"].endswith("<script>window.pwned=1</script>")
    assert "toy &lt;script&gt;" in html


def test_equal_runs_give_equal_pages_and_missing_numbers_are_null(finished_run, tmp_path):
    one = page.build(finished_run.path).read_bytes()
    assert page.build(finished_run.path, tmp_path / "two.html").read_bytes() == one
    assert page.collect(finished_run)["units"]["rho"][3] is None


def test_missing_and_damaged_runs_are_clear_errors(finished_run, tmp_path):
    with pytest.raises(PathError, match="no run at"):
        page.build(tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.path, copy)
    (copy / "diagnoses.json").write_text('[{"site": 3}]')
    with pytest.raises(CorruptError, match=r"diagnoses\.json"):
        page.build(copy)
    (copy / "facts.json").unlink()
    with pytest.raises(PathError, match=r"no facts\.json"):
        page.build(copy)
