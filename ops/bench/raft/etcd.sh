#!/bin/sh
# Prints the path of an etcd server, fetched from its Debian package where there is none yet:
# unpacked into the cache, nothing is installed and no root is needed.
#
#   ops/bench/raft/etcd.sh
#
# EVORING_ETCD   use this program instead
set -eu

package=etcd-server
cache=${EVORING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/evoring}/bench
program=$cache/$package/usr/bin/etcd

say() { printf 'etcd: %s\n' "$*" >&2; }
runs() { "$1" --version >/dev/null 2>&1; }

if [ -n "${EVORING_ETCD:-}" ]; then
    runs "$EVORING_ETCD" || { say "error: $EVORING_ETCD (EVORING_ETCD) does not run"; exit 1; }
    echo "$EVORING_ETCD"
    exit 0
fi
if runs "$program"; then
    echo "$program"
    exit 0
fi

# Unpacks the Debian package beside its place and renames it into it.
fetch() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/$package.XXXXXX")
    # apt-get leaves its own user where that one cannot write; the warning about it is no help.
    if (cd "$work" && apt-get -q download "$package" && dpkg-deb -x "$package"_*.deb unpacked) >"$work/log" 2>&1 &&
        runs "$work/unpacked/usr/bin/etcd"; then
        rm -rf "${cache:?}/$package"
        mv "$work/unpacked" "$cache/$package"
        rm -rf "$work"
        return 0
    fi
    say "the Debian package $package could not be fetched (apt-get update may help):"
    tail -n 3 "$work/log" >&2
    rm -rf "$work"
    return 1
}

if fetch; then
    echo "$program"
elif found=$(command -v etcd) && runs "$found"; then
    say "using $found"
    echo "$found"
else
    say "error: no etcd to compare with: no Debian package, none on PATH"
    say "       install it (Debian: apt-get install $package), or name one with EVORING_ETCD=FILE"
    exit 1
fi
