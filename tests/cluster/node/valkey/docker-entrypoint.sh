#!/bin/bash
# What the official image does: options alone are for valkey-server, and VALKEY_EXTRA_FLAGS are more of them. Any other
# command is run as it is.
set -euo pipefail
case ${1:-} in
valkey-server) shift ;;
-* | *.conf) ;;
*) exec "$@" ;;
esac
# shellcheck disable=SC2086 # VALKEY_EXTRA_FLAGS is several words
exec valkey-server "$@" --protected-mode no ${VALKEY_EXTRA_FLAGS:-}
