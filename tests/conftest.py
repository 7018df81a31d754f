"""Parts that several folders of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.apiserver import ApiServer, run_api_server


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A Kubernetes API server without controllers, or the cluster of MOORLINE_TEST_KUBECONFIG."""
    with run_api_server(tmp_path_factory.mktemp("apiserver")) as server:
        yield server
