# shellcheck shell=sh
# Installs Docker: docker-ce from REPOSITORY where one is configured, else the distribution's own.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

apt() {
	apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}
if [ -n "${REPOSITORY-}" ]; then
	# shellcheck source=/dev/null
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	mkdir -p /etc/apt/keyrings
	curl -fsSL --max-time 120 "$REPOSITORY/gpg" -o /etc/apt/keyrings/docker.asc
	cat >/etc/apt/sources.list.d/docker.sources <<SOURCES
Types: deb
URIs: $REPOSITORY
Suites: $suite
Components: stable
Signed-By: /etc/apt/keyrings/docker.asc
SOURCES
	apt update -o APT::Update::Error-Mode=any
	apt install -y --no-install-recommends docker-ce docker-ce-cli containerd.io docker-buildx-plugin docker-compose-plugin iptables
else
	packages='docker.io iptables'
	if [ -n "$(apt-cache madison docker-cli)" ]; then # a package of its own since Debian 13
		packages="$packages docker-cli"
	fi
	# shellcheck disable=SC2086 # names
	apt install -y --no-install-recommends $packages
fi
# Never silently another driver, which would copy every layer.
mkdir -p /etc/docker
[ -e /etc/docker/daemon.json ] || printf '{\n  "storage-driver": "overlay2",\n  "log-driver": "local"\n}\n' >/etc/docker/daemon.json
systemctl enable docker.service containerd.service
