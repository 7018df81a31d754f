"""The state directory."""

import stat

import pytest

from quickstart.errors import StartFailed
from quickstart.state import State


def test_only_its_owner_reads_the_directory_and_the_secrets(state):
    state.keep_secret("password", 12)
    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((state.directory / "password").stat().st_mode) == 0o600


def test_a_secret_is_the_same_at_the_next_start_and_another_elsewhere(state, tmp_path):
    secret = state.keep_secret("password", 12)
    assert State(state.directory).keep_secret("password", 12) == secret
    assert State(tmp_path / "other").keep_secret("password", 12) != secret


def test_an_empty_secret_is_made_again(state):
    (state.directory / "password").touch()
    assert len(state.keep_secret("password", 12)) == 16


def test_the_lock_has_one_holder_who_is_named(state):
    refused = pytest.raises(StartFailed, match=r"runs in this checkout already \(process \d+\)")
    with state.locked({"tcp_port": 1}), refused, State(state.directory).locked({"tcp_port": 2}):
        pass


def test_what_runs_is_known_while_it_runs(state):
    assert state.running_ports() == {}
    with state.locked({"tcp_port": 25060}):
        assert State(state.directory).running_ports()["tcp_port"] == 25060
    assert state.running_ports() == {}


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartFailed, match="file/state can't be used"):
        State(tmp_path / "file" / "state")
