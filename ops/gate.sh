#!/bin/sh
# Runs one gate and says which one, whether it passed, and how long it took:
#   ops/gate.sh "format" cargo fmt --check
set -u
name=$1
shift
began=$(date +%s)
# Ctrl-C reaches the command as well; wait for it to clean up instead of leaving it behind.
trap : INT
printf '== %s\n' "$name"
"$@"
status=$?
took=$(($(date +%s) - began))
if [ "$status" -eq 0 ]; then
    printf '== %s: ok (%s s)\n' "$name" "$took"
else
    printf '== %s: FAILED (%s s, exit status %s)\n' "$name" "$took" "$status" >&2
fi
exit "$status"
