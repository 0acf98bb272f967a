#!/usr/bin/env bash
# Tries the server with clients from PyPI: openai, lm_eval, and schemathesis over /openapi.json. They go into a folder of their own, .cache/python-clients,
# and nothing else of the project needs them.
#   scripts/python-clients.sh [ARGUMENT ...]    installs them, or goes on at once when they are there, and runs test/clients with pytest and these arguments
#   scripts/python-clients.sh --long            the same, with the fuzzer for longer
# Needs python3 3.11 or newer, and what `npm install` builds.
set -euo pipefail

cd "$(dirname "$0")/.."
folder=.cache/python-clients
wanted=test/clients/requirements.txt
if ! cmp -s "$wanted" "$folder/installed.txt"; then
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
  cp "$wanted" "$folder/installed.txt"
fi
exec "$folder/bin/pytest" -c test/clients/pytest.ini --rootdir test/clients "$@"
