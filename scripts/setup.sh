#!/usr/bin/env bash
# Installs what banger needs and this machine lacks: setup.sh run, or setup.sh test for what the tests need besides, or
# setup.sh bench for what the benchmarks compare with.
# On Debian and Ubuntu it lists the packages and installs them; elsewhere it names them and stops. Does nothing when
# nothing is missing.
set -euo pipefail

minimum_qemu=8.2 # older ones crash or hang emulated guests
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

have() { command -v "$1" >/dev/null 2>&1; }

qemu_is_new_enough() {
	have qemu-system-x86_64 || return 1
	local version
	version=$(qemu-system-x86_64 --version | sed -n 's/.*version \([0-9.]*\).*/\1/p')
	[ "$(printf '%s\n' "$minimum_qemu" "$version" | sort -V | head -n 1)" = "$minimum_qemu" ]
}

missing=()
need() { # need PROGRAM PACKAGE
	have "$1" || missing+=("$2")
}

need mmdebstrap mmdebstrap
need newuidmap uidmap
need mkfs.ext4 e2fsprogs
need depmod kmod
need pasta passt
need nsenter util-linux
if [ "${1:-run}" != run ]; then
	need tmux tmux
	need shellcheck shellcheck
	need busybox busybox-static
	need gcc gcc # go test -race
	need nft nftables
	need ip iproute2
	need xz xz-utils
	need runuser util-linux
	need ssh openssh-client
	need rsync rsync
fi
if [ "${1:-run}" = bench ]; then
	need slirp4netns slirp4netns
fi
qemu=()
qemu_is_new_enough || qemu=(qemu-system-x86)
[ ${#missing[@]} -gt 0 ] || [ ${#qemu[@]} -gt 0 ] || exit 0

# shellcheck source=/dev/null
. /etc/os-release
echo "banger needs these packages: ${missing[*]} ${qemu[*]}" >&2
if ! have apt-get; then
	echo "Install them with this distribution's package manager (QEMU $minimum_qemu or newer) and try again." >&2
	exit 1
fi

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
install() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

backports=
if [ ${#qemu[@]} -gt 0 ] && [ "${VERSION_CODENAME:-}" = bookworm ]; then
	backports=bookworm-backports
	if ! grep -rqs "$backports" /etc/apt/sources.list /etc/apt/sources.list.d/; then
		echo "QEMU comes from $backports, which is added to /etc/apt/sources.list.d" >&2
		echo "deb http://deb.debian.org/debian $backports main" | as_root tee /etc/apt/sources.list.d/banger-backports.list >/dev/null
	fi
fi
as_root apt-get update -q
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
[ ${#qemu[@]} -eq 0 ] || install ${backports:+-t "$backports"} "${qemu[@]}"
qemu_is_new_enough || {
	echo "The installed QEMU is older than $minimum_qemu; install a newer one and try again." >&2
	exit 1
}
