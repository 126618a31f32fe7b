#!/usr/bin/env bash
# Installs rtmo-deploy into an environment of its own; later steps of the job find the command.
# Reads PYTHON and INPUT_*; writes the outputs home and cache-prefix.
set -euo pipefail

if [ "$RUNNER_OS" = Windows ]; then
    echo "::error title=rtmo-deploy::The action runs on Linux and macOS; on Windows, install the package and run rtmo-deploy release."
    exit 1
fi
extras=$INPUT_EXTRAS
if [ -n "$INPUT_SIGN" ]; then extras=${extras:+$extras,}sign; fi
if [ -n "$INPUT_VERSION" ]; then
    package="rtmo-deploy${extras:+[$extras]}==$INPUT_VERSION"
else
    package="$GITHUB_ACTION_PATH${extras:+[$extras]}"
fi
home=$(mktemp -d "$RUNNER_TEMP/rtmo-deploy.XXXXXX")
"$PYTHON" -m venv "$home/venv"
"$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check -- "$package"
mkdir "$home/bin"
ln -s ../venv/bin/rtmo-deploy "$home/bin/rtmo-deploy"
echo "$home/bin" >> "$GITHUB_PATH"
recipe=$(printf '%s' "$INPUT_RECIPE" | "$home/venv/bin/python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
{
    echo "home=$home"
    echo "cache-prefix=rtmo-release-$RUNNER_OS-$RUNNER_ARCH-${recipe:0:16}-"
} >> "$GITHUB_OUTPUT"
