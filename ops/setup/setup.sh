#!/bin/sh
# Prepares a checkout for building: checks the tools, fetches libtorch and the
# Fashion-MNIST files into a cache outside the checkout, and links them in.
#
#   ops/setup/setup.sh              what `make setup` runs
#   ops/setup/setup.sh --deny       also builds cargo-deny (for `make verify`)
#   ops/setup/setup.sh --pytorch    also installs PyTorch, where it is a Debian package (for `make verify`)
#
# Safe to run again (does nothing), twice at once (one waits), and to interrupt
# (everything is built beside its place, checked, and renamed into it).
#
# EVORING_CACHE   where things go; default ${XDG_CACHE_HOME:-~/.cache}/evoring
# PIP_FIND_LINKS  a folder with the wheels named in SHA256SUMS, where no package index is reachable
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
cache=${EVORING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/evoring}
case $cache in
/*) ;;
*) cache=$(pwd)/$cache ;;
esac
deny_version=0.20.2

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf 'setup:        %s\n' "$line" >&2; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
seconds() { echo $(($(date +%s) - $1)); }

want_deny=no
want_pytorch=no
for argument in "$@"; do
    case $argument in
    --deny) want_deny=yes ;;
    --pytorch) want_pytorch=yes ;;
    *) fail "unknown argument '$argument' (there are --deny and --pytorch)" ;;
    esac
done

# --- the machine --------------------------------------------------------------

[ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] || fail \
    "this machine is $(uname -s)/$(uname -m); Evoring builds on Linux/x86_64 only" \
    "libtorch is fetched as a Linux x86-64 library. A container or a virtual machine will do."
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{ print $2 }')
[ -n "$glibc" ] || fail \
    "the C library here is not glibc; libtorch needs glibc 2.28 or newer" \
    "Use Debian 10, Ubuntu 20.04, Fedora 29, RHEL 8, or anything newer (not Alpine)."
echo "$glibc" | awk -F. '{ exit !($1 > 2 || ($1 == 2 && $2 >= 28)) }' || fail \
    "glibc is $glibc; libtorch needs 2.28 or newer" \
    "Use Debian 10, Ubuntu 20.04, Fedora 29, RHEL 8, or anything newer."

# --- the tools ----------------------------------------------------------------

can_install() { [ "$(id -u)" = 0 ] && have apt-get; }

# Prints one "what is missing|Debian package" line for each missing tool.
missing_tools() {
    have c++ || have g++ || echo "a C++ compiler (c++)|g++"
    have make || echo "make|make"
    have readelf || echo "readelf|binutils"
    # One group of tests needs it, and says so; it is no reason to refuse the rest.
    have ip || ! can_install || echo "ip (tests cut coordinators off in network namespaces)|iproute2"
    have protoc || echo "protoc, the Protocol Buffers compiler (the raft crate needs it)|protobuf-compiler"
    if ! have python3; then
        echo "python3 (3.8 or newer)|python3"
        echo "pip (for python3)|python3-pip"
    elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        echo "python3 3.8 or newer ($(command -v python3) is $(python3 -V 2>&1))|python3"
    elif pip_needed && ! have_pip; then
        echo "pip for $(command -v python3) (python3 -m ensurepip may bring it)|python3-pip"
    fi
}

# pip fetches libtorch, once; looking for it every time would take longer than all the rest.
pip_needed() { ! ls "$cache"/libtorch-*/evoring-manifest >/dev/null 2>&1; }
have_pip() {
    python3 -m pip --version >/dev/null 2>&1 || pip3 --version >/dev/null 2>&1 || pip --version >/dev/null 2>&1
}

apt_lists_updated=no
apt_update() {
    [ "$apt_lists_updated" = no ] || return 0
    say "reading the Debian package lists (apt-get update)"
    apt-get -q update >"$cache/apt.log" 2>&1 || fail \
        "apt-get update failed; the end of its output:" "$(tail -n 3 "$cache/apt.log")"
    apt_lists_updated=yes
}

# Installs the packages named; the caller has asked can_install.
install() {
    say "installing Debian packages: $*"
    began=$(date +%s)
    apt_update
    DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "$@" \
        >"$cache/apt.log" 2>&1 || fail \
        "apt-get install $* failed; the end of its output:" "$(tail -n 5 "$cache/apt.log")"
    say "installed in $(seconds "$began") s"
}

check_rust() {
    wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$root/Cargo.toml" | head -n 1)
    for tool in rustc cargo; do
        have "$tool" || fail "$tool is missing; Evoring needs Rust $wanted or newer" \
            "Install it with rustup (https://rustup.rs) and open a new shell."
        found=$("$tool" --version 2>/dev/null | awk '{ print $2 }')
        printf '%s %s\n' "$found" "$wanted" | awk '{
            split($1, a, /[.-]/); split($2, b, ".");
            exit !(a[1] > b[1] || (a[1] == b[1] && a[2] + 0 >= b[2] + 0)) }' || fail \
            "$tool is ${found:-not working}; Evoring needs $wanted or newer" \
            "With rustup: rustup update stable"
    done
}

mkdir -p "$cache" 2>/dev/null || fail "cannot create the cache folder $cache" \
    "Set EVORING_CACHE to a folder you can write to."
[ -w "$cache" ] || fail "cannot write to the cache folder $cache" \
    "Set EVORING_CACHE to a folder you can write to."

# One set-up at a time per cache. The descriptor closes with the process.
exec 9>"$cache/lock"
if have flock && ! flock -n 9; then
    say "another set-up is using $cache; waiting for it"
    flock 9
fi

check_rust
missing=$(missing_tools)
if [ -n "$missing" ] && can_install; then
    packages=$(echo "$missing" | cut -d'|' -f2 | sort -u | tr '\n' ' ')
    # shellcheck disable=SC2086  # a list of package names
    install $packages
    missing=$(missing_tools)
fi
if [ -n "$missing" ]; then
    echo "$missing" | while IFS='|' read -r what package; do
        printf 'setup: error: missing: %s\n' "$what" >&2
        printf 'setup:        install it; on Debian or Ubuntu: sudo apt-get install %s\n' "$package" >&2
    done
    exit 1
fi

# --- libtorch, data, links ----------------------------------------------------

EVORING_APT_FRESH=$apt_lists_updated \
    python3 "$root/ops/setup/fetch.py" --root "$root" --cache "$cache" || exit 1

# --- PyTorch, for the test of examples/load_model.py ----------------------------

has_pytorch() { "$1" -c 'import torch' >/dev/null 2>&1; }

if [ "$want_pytorch" = yes ]; then
    if has_pytorch python3 || has_pytorch /usr/bin/python3; then
        say "PyTorch is in place"
    elif can_install && apt_update && apt-cache show python3-torch >/dev/null 2>&1; then
        install python3-torch
    else
        say "no python3 imports PyTorch; the test of examples/load_model.py will not run"
        say "for it: python3 -m pip install torch, or on Debian: sudo apt-get install python3-torch"
    fi
fi

# --- cargo-deny, for `make verify` ---------------------------------------------

if [ "$want_deny" = yes ]; then
    deny=$cache/tools/bin/cargo-deny
    if [ "$("$deny" --version 2>/dev/null | awk '{ print $2 }')" = "$deny_version" ]; then
        say "cargo-deny $deny_version is in place"
    else
        say "building cargo-deny $deny_version (once per machine, some minutes)"
        began=$(date +%s)
        # Not from inside the checkout, whose .cargo/config.toml is for Evoring; and without its
        # release profile (fat LTO), which takes three times longer for a tool that runs a second.
        (cd "$cache" && CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
            CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR="$cache/tmp/cargo-deny" \
            cargo install cargo-deny --locked --version "$deny_version" \
            --root "$cache/tools" --force --quiet) || fail "building cargo-deny failed"
        rm -rf "$cache/tmp"
        say "built in $(seconds "$began") s"
    fi
fi
