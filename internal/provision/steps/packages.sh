# shellcheck shell=sh
# Brings the image up to date and installs PACKAGES, names apart by spaces. MIRROR is the archive to take Debian's
# packages from; the image keeps its own.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

if ! command -v apt-get >/dev/null; then
	echo "this image has no apt-get: only images of Debian and what descends from it can be built on" >&2
	exit 1
fi
apt() {
	apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Options::=--force-confdef \
		-o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 "$@"
}
if [ -n "${MIRROR-}" ]; then
	sources=$(mktemp -d /run/banger-sources.XXXXXX)
	chmod 755 "$sources"
	cp /etc/apt/sources.list.d/* "$sources"
	[ ! -s /etc/apt/sources.list ] || cp /etc/apt/sources.list "$sources/main.list"
	sed -i -E "s#https?://deb\.debian\.org/debian(/?)( |\$)#$MIRROR\1\2#" "$sources"/*
	case $MIRROR in
	*/debian) sed -i -E "s#https?://(deb|security)\.debian\.org/debian-security#$MIRROR-security#" "$sources"/* ;;
	esac
	printf 'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "%s";\n' "$sources" >"$sources/apt.conf"
	export APT_CONFIG="$sources/apt.conf"
fi
apt update -o APT::Update::Error-Mode=any
apt upgrade -y --no-install-recommends
if [ -n "$PACKAGES" ]; then
	# shellcheck disable=SC2086 # names, checked to hold no other characters
	apt install -y --no-install-recommends $PACKAGES
fi
