#!/usr/bin/env bash
# Compares the release with an earlier one. Writes the outputs comparison and exit-code, and the job's summary.
set -euo pipefail

comparison=$(mktemp -d "$RUNNER_TEMP/rtmo-diff.XXXXXX")/comparison.md
# Nothing that the program prints is a workflow command.
word=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
echo "::stop-commands::$word"
code=0
"$RTMO_DEPLOY_HOME/bin/rtmo-deploy" diff "--md=$comparison" -- "$INPUT_COMPARE_WITH" "$INPUT_OUTPUT" 2>&1 || code=$?
printf '\n::%s::\n' "$word"
echo "exit-code=$code" >> "$GITHUB_OUTPUT"
if [ "$code" = 6 ]; then
    echo "::error title=rtmo-deploy diff::The release is worse than the earlier one; the job's summary has the comparison."
elif [ "$code" != 0 ]; then
    echo "::error title=rtmo-deploy diff::The releases could not be compared (exit code $code); the log of this step says why."
fi
if [ -f "$comparison" ]; then
    echo "comparison=$comparison" >> "$GITHUB_OUTPUT"
    if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$comparison" >> "$GITHUB_STEP_SUMMARY"; fi
fi
