#!/usr/bin/env bash
# Make .venv and install chunkwise into it: scripts/setup.sh base|dev
#
# What was installed is remembered as a digest of pyproject.toml and constraints.txt, so a second call does nothing.
# Whatever goes wrong ends in one sentence on stderr. The variables are described in the Makefile.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf 'chunkwise: %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

group=${1:-}
case $group in
  base) target='.[lab]' ;;
  dev) target='.[dev]' ;;
  *) printf 'usage: scripts/setup.sh base|dev\n' >&2; exit 2 ;;
esac
venv=.venv
python=$venv/bin/python

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

digest() {  # of what decides about the installation
  "$python" -c 'import hashlib, sys
print(sys.version_info[:2], hashlib.blake2b(b"".join(open(name, "rb").read() for name in sys.argv[1:])).hexdigest())' \
    pyproject.toml constraints.txt 2>/dev/null
}

installed() {  # dev contains base
  local wanted stamp
  wanted=$(digest) && [ -n "$wanted" ] || return 1
  for stamp in dev "$group"; do
    if [ -f "$venv/installed-$stamp" ] && [ "$(<"$venv/installed-$stamp")" = "$wanted" ]; then return 0; fi
  done
  return 1
}

disk_is_full() {  # less than 20 MB left
  local free
  free=$(df -Pk . 2>/dev/null | { read -r _; read -r _ _ _ free _; printf '%s' "${free:-}"; })
  [ -n "$free" ] && [ "$free" -lt 20480 ]
}

run() {  # run WHAT COMMAND...: silent when it works, one sentence when it does not
  local what=$1 output last
  shift
  output=$("$@" 2>&1) && return 0
  last=$(printf '%s\n' "$output" | grep -v '^ *$' | tail -n 1)
  case $output in
    *'No space left on device'* | *'[Errno 28]'* | *'[Errno 122]'* | *'Disk quota exceeded'* | *'File too large'*)
      fail "the disk is full: no room in $PWD/$venv to $what; free about 4 GB and run again" ;;
  esac
  if disk_is_full; then
    fail "the disk is full: no room in $PWD/$venv to $what; free about 4 GB and run again"
  fi
  case $output in
    *'Failed to establish a new connection'* | *NewConnectionError* | *ConnectTimeoutError* | *'ProxyError'* | \
    *'Temporary failure in name resolution'* | *'Network is unreachable'* | *'Connection refused'* | *'Read timed out'*)
      fail "the package index cannot be reached to $what; check the network (or the proxy and pip's index settings) and run again" ;;
  esac
  fail "could not $what: ${last:-it ended without a word}"
}

installed && exit 0

# 1. A virtual environment, by the first Python that can make one.
if ! { [ -x "$python" ] && new_enough "$python" && "$python" -m pip --version >/dev/null 2>&1; }; then
  chosen='' seen='' bare=''
  for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13 python}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    version=$("$candidate" --version 2>/dev/null) || continue
    seen="$seen${seen:+, }$candidate is ${version#Python }"
    new_enough "$candidate" || continue
    if ! "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      bare=$candidate
      continue
    fi
    chosen=$candidate
    break
  done
  if [ -z "$chosen" ] && [ -n "$bare" ]; then
    fail "$bare cannot make virtual environments (its modules venv and ensurepip are missing); install them (on Debian and Ubuntu: the package python3-venv) and run again"
  fi
  if [ -z "$chosen" ]; then
    fail "chunkwise needs Python 3.11 or newer and found ${seen:-none}; install it, or name one with PYTHON=/path/to/python3.11"
  fi
  say "making $venv with $chosen"
  run "make a virtual environment" "$chosen" -m venv --clear "$venv"
fi

# 2. The packages: torch first, alone, so that only it is looked for in CHUNKWISE_TORCH_INDEX.
say "installing the packages of constraints.txt into $venv (the first time takes some minutes)"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
pip=("$python" -m pip install --quiet -c constraints.txt)
if [ -n "${CHUNKWISE_TORCH_INDEX:-}" ]; then
  PIP_EXTRA_INDEX_URL="$CHUNKWISE_TORCH_INDEX${PIP_EXTRA_INDEX_URL:+ $PIP_EXTRA_INDEX_URL}" run "install torch" "${pip[@]}" torch
else
  run "install torch" "${pip[@]}" torch
fi
run "install chunkwise" "${pip[@]}" -e "$target"

# 3. Remember it, last.
stamp=$(digest)
printf '%s\n' "$stamp" 2>/dev/null >"$venv/installed-$group" || fail "the disk is full: cannot write $venv/installed-$group"
say "ready"
