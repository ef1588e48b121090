#!/usr/bin/env bash
# Runs all tests. The image and the kernel are made once, as a user would make them, and shared by all of them.
# BANGER_E2E_GOLDEN=FOLDER keeps them for the next run; the argument, if any, is a pattern of end-to-end tests to run
# alone.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

scratch=$(mktemp -d "${TMPDIR:-/tmp}/banger-test-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"

# Rootless networks need the tun device, which Debian opens to everybody and some containers do not.
[ "$(id -u)" != 0 ] || chmod 0666 /dev/net/tun

export BANGER_E2E_GOLDEN=${BANGER_E2E_GOLDEN:-$scratch/golden}
mkdir -p "$BANGER_E2E_GOLDEN"
echo "== image and kernel"
golden() { env BANGER_HOME="$BANGER_E2E_GOLDEN" bin/banger "$@"; }
golden create --name first >/dev/null
golden rm first >/dev/null
kernel=$(golden kernel inspect debian:trixie | sed -n 's/.*"dir": "\(.*\)".*/\1/p')
golden daemon stop

# The VMM's own tests boot the same kernel with an init of their own.
mkdir "$scratch/modules"
debugfs -R "rdump / $scratch/modules" "$kernel/modules.ext4" 2>/dev/null
export BANGER_TEST_VMLINUX=$kernel/vmlinux
BANGER_TEST_MODULES=$(find "$scratch/modules" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*')
export BANGER_TEST_MODULES

if [ $# -gt 0 ]; then
	exec go test -count=1 -timeout 60m -v -run "$1" ./internal/e2e
fi
echo "== shell scripts"
shellcheck scripts/*.sh .ci/run internal/image/*.sh internal/provision/steps/*.sh internal/ssh/*.sh
echo "== vet"
go vet ./...
go vet -tags images ./internal/e2e
echo "== unit and integration, with the race detector"
# Those that take minutes come first, so that the others run beside them.
slow=(banger/internal/vm banger/internal/network/keeper banger/internal/fcqemu)
go list ./... | grep -v '/internal/e2e$' | grep -vxF "$(printf '%s\n' "${slow[@]}")" | xargs go test -count=1 -race -timeout 15m "${slow[@]}"
echo "== a public Firecracker client, unmodified"
(cd test/sdk && go test -count=1 -timeout 10m ./...)
echo "== a public OpenAPI validator, unmodified"
(cd test/openapi && go test -count=1 -timeout 20m ./...)
echo "== end to end"
go test -count=1 -timeout 45m ./internal/e2e
