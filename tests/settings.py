"""The portal's settings with what a test run needs, whatever the environment of the person who runs it says."""

import getpass
import os
import tempfile

# Set by the test that runs the portal's tests once more, on PostgreSQL.
DATABASE_URL = os.environ.get("TEST_DATABASE_URL", "")

# These say what the tests have to work with, and nothing of how Moorline is set.
FOR_TESTS = {"MOORLINE_REQUIRE_ALL", "MOORLINE_CLUSTER", "MOORLINE_TEST_KUBECONFIG"}
for name in [name for name in os.environ if name.startswith("MOORLINE_") and name not in FOR_TESTS]:
    del os.environ[name]
data = os.path.join(tempfile.gettempdir(), f"moorline-tests-{getpass.getuser()}")
os.environ["MOORLINE_SECRET_KEY"] = "for-tests-only-0123456789-" * 2
os.environ["MOORLINE_DATA"] = data
os.environ["MOORLINE_LOG_FORMAT"] = "text"
if DATABASE_URL:
    os.environ["MOORLINE_DATABASE_URL"] = DATABASE_URL

from portal.config.settings import *  # noqa: E402, F403
from portal.config.settings import DATABASES  # noqa: E402

if not DATABASE_URL:
    # In a file, as it is where it runs: a database in memory knows neither threads nor waiting for a lock.
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(data, f"test-{os.getpid()}.sqlite3")}

# Hashing passwords slowly on purpose is the longest part of logging in.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
