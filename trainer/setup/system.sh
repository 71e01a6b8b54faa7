#!/bin/sh
# Installs system packages and the Rust toolchain; prints nothing if they are present.
#
# As root (in a container or on a fresh machine) it installs what is missing. Otherwise it prints the one
# command to run first, and stops.
set -eu

# The C++ compiler, Open MPI, libclang for the MPI bindings, Python for the wheels of libtorch.
packages="build-essential pkg-config libopenmpi-dev openmpi-bin libclang-dev python3 python3-venv
ca-certificates curl git xz-utils"
oldest_rust=1.91
installed_rust=1.95.0 # the version for the lints of make test
rustup=https://static.rust-lang.org/rustup/archive/1.28.2/x86_64-unknown-linux-gnu/rustup-init
rustup_sha256=20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || {
    echo "set-up: $(uname -s) on $(uname -m) is not supported: libtorch is fetched for Linux on x86-64" >&2
    exit 1
}

missing=""
if command -v dpkg-query >/dev/null; then
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
            missing="$missing $package"
    done
else
    for program in c++ make pkg-config mpicc mpirun clang python3 curl; do
        command -v "$program" >/dev/null || missing="$missing $program"
    done
    [ -z "$missing" ] || {
        echo "set-up: missing:$missing (this system has no apt; install them with its package manager)" >&2
        exit 1
    }
fi
if [ -n "$missing" ]; then
    install="apt-get install -y --no-install-recommends$missing"
    if [ "$(id -u)" != 0 ]; then
        echo "set-up needs system packages; run this, then try again:" >&2
        echo "  sudo apt-get update && sudo $install" >&2
        exit 1
    fi
    echo "set-up: installing$missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
fi

PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
if ! command -v cargo >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "set-up needs Rust; run this, then try again:" >&2
        echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
        exit 1
    fi
    echo "set-up: installing Rust into ${CARGO_HOME:-$HOME/.cargo}"
    installer=$(mktemp -d)
    trap 'rm -rf "$installer"' EXIT
    { curl --proto '=https' --tlsv1.2 -sSf --retry 3 -o "$installer/rustup-init" "$rustup" &&
        echo "$rustup_sha256  $installer/rustup-init" | sha256sum --check --quiet &&
        chmod +x "$installer/rustup-init" &&
        "$installer/rustup-init" -y -q --profile minimal -c rustfmt -c clippy \
            --default-toolchain "$installed_rust" >/dev/null; } || {
        echo "set-up: Rust could not be installed; see https://rustup.rs for other ways" >&2
        exit 1
    }
fi
rust=$(rustc --version | cut -d' ' -f2)
[ "$(printf '%s\n%s\n' "$oldest_rust" "$rust" | sort -V | head -n1)" = "$oldest_rust" ] || {
    echo "set-up: $(command -v rustc) is Rust $rust, and $oldest_rust or newer is needed:" >&2
    echo "  rustup update stable" >&2
    exit 1
}
