#!/usr/bin/env bash
# Runs `rtmo-deploy release` with INPUT_*; ci/outcome.py writes what came of it. Ends with 0 whatever came.
set -euo pipefail

work=$(mktemp -d "$RUNNER_TEMP/rtmo-release.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Ends as `release` does for wrong arguments.
refuse() {
    printf 'Error: %s\n' "$1" >&2
    finish 2 "$1"
}

finish() {
    "$RTMO_DEPLOY_HOME/venv/bin/python" "$GITHUB_ACTION_PATH/ci/outcome.py" "$work/release.json" "$@"
    exit 0
}

arguments=(--json "--output=$INPUT_OUTPUT")
if [ -n "$INPUT_MODEL" ]; then arguments+=("--source=$INPUT_MODEL"); fi
case $INPUT_STRICT in
    true) arguments+=(--strict) ;;
    false) ;;
    *) refuse "The input strict is '$INPUT_STRICT'. Give true or false." ;;
esac
case $INPUT_OUTPUT in
    "" | [~!#]* | *[*?[\\]* | *$'\n'* | [[:space:]]* | *[[:space:]])
        refuse "The input output is '$INPUT_OUTPUT'. Give the path of a folder, without * ? [ \\ and line breaks, without ~ ! # at its start, and without blanks at its ends: cache and artifact would take another folder."
        ;;
esac
case $INPUT_CACHE in
    true | false) ;;
    *) refuse "The input cache is '$INPUT_CACHE'. Give true or false." ;;
esac
case $INPUT_SIGN in
    "") ;;
    env)
        if [ -z "${RTMO_DEPLOY_SIGN_KEY:-}" ]; then
            refuse "The input sign is env, and the variable RTMO_DEPLOY_SIGN_KEY is empty. Set it to the private key (PEM)."
        fi
        (umask 077 && printf '%s\n' "$RTMO_DEPLOY_SIGN_KEY" > "$work/key.pem")
        arguments+=("--sign=$work/key.pem")
        ;;
    *) arguments+=("--sign=$INPUT_SIGN") ;;
esac
unset RTMO_DEPLOY_SIGN_KEY

# Nothing that the program prints is a workflow command.
word=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
echo "::stop-commands::$word"
code=0
{ "$RTMO_DEPLOY_HOME/bin/rtmo-deploy" release "${arguments[@]}" -- "$INPUT_RECIPE" > "$work/release.json"; } 2>&1 || code=$?
printf '\n::%s::\n' "$word"
finish "$code"
