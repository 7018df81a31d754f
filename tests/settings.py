"""The portal's settings with what a test run needs, whatever the environment of the person who runs it says."""

import os
import tempfile

for name in [name for name in os.environ if name.startswith("MOORLINE_") and name != "MOORLINE_REQUIRE_ALL"]:
    del os.environ[name]
os.environ["MOORLINE_SECRET_KEY"] = "for-tests-only-" * 5
os.environ["MOORLINE_DATA"] = os.path.join(tempfile.gettempdir(), "moorline-tests")

from portal.config.settings import *  # noqa: E402, F403

# Hashing passwords slowly on purpose is the longest part of logging in.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
