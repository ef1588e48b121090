#!/usr/bin/env bash
# Shows what banger is for: one command in a new microVM. Its stages and their times come on standard error.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck disable=SC2016 # expanded in the guest
exec bin/banger run --rm -- sh -c '
	. /etc/os-release
	echo "kernel        $(uname -r)"
	echo "distribution  $PRETTY_NAME"
	echo "network       $(hostname -f), $(curl -sS --max-time 60 http://deb.debian.org/debian/dists/stable/InRelease | wc -c) bytes from the Debian mirror"
	echo "cpus          $(nproc)"
	echo "memory        $(awk "/MemTotal/ {printf \"%d MiB\", \$2 / 1024}" /proc/meminfo)"'
