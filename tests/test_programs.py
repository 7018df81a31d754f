"""Programs that wider tests need."""

import os
import shutil

import pytest

from tests.programs import require_program


def test_a_program_is_found():
    assert require_program("sh") == shutil.which("sh")


def test_a_missing_program_skips_a_test_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.delenv("MOORLINE_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install no-such-program"):
        require_program("no-such-program")


def test_a_missing_program_fails_the_test_where_all_are_required(monkeypatch):
    monkeypatch.setenv("MOORLINE_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install no-such-program"):
        require_program("no-such-program")


def test_a_program_of_the_administrator_is_found_without_its_folder_in_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    if not os.path.exists("/usr/sbin/nologin"):
        pytest.skip("this system keeps no nologin in /usr/sbin")
    assert require_program("nologin") == "/usr/sbin/nologin"
