# shellcheck shell=sh
# Runs in the guest as root: makes ready what `sshd -i` needs and prints the path of sshd, then the public host key.
# $1 is the owner's public key, $2 the file to put it into. Ends with 3 when the image has no sshd.
set -eu
umask 022
owner=$1 authorized=$2
host_key=/etc/ssh/ssh_host_ed25519_key

sshd=$(command -v sshd) && command -v ssh-keygen >/dev/null || exit 3
# Its privilege separation wants this folder; at boot systemd makes it later.
mkdir -p /run/sshd /etc/ssh "${authorized%/*}"
printf '%s\n' "$owner" >"$authorized.$$"
mv "$authorized.$$" "$authorized"

# A link appears whole and replaces nothing, so neither two of us nor the image's own unit end with another key.
if ! test -s "$host_key"; then
	new=$(mktemp -d /etc/ssh/.banger-XXXXXX)
	trap 'rm -rf "$new"' EXIT
	ssh-keygen -q -t ed25519 -N '' -C '' -f "$new/key" </dev/null
	sync # the host remembers the key: it must outlive a power cut from here on
	ln "$new/key.pub" "$host_key.pub" 2>/dev/null || :
	ln "$new/key" "$host_key" 2>/dev/null || test -s "$host_key"
	sync
fi
printf '%s\n' "$sshd"
ssh-keygen -y -f "$host_key" </dev/null
