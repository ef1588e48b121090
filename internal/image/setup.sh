# shellcheck shell=sh
# Turns a fresh Debian or Ubuntu root at $1 into an image many VMs share.
set -eu
root=$1

# What must differ between VMs is not in the image. An empty machine-id, unlike a missing one, makes systemd choose an
# id without taking this for a first boot, which would ask questions on the console.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" # the host's
: >"$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"

# Host keys are made at the first start of sshd: one kind, because an RSA key takes many seconds under emulation.
# Debian's own unit for that makes all kinds, and only at what systemd calls a first boot.
chroot "$root" systemctl mask --quiet sshd-keygen.service
mkdir -p "$root/etc/systemd/system/ssh.service.d"
cat >"$root/etc/systemd/system/ssh.service.d/host-key.conf" <<'UNIT'
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'test -s /etc/ssh/ssh_host_ed25519_key || ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/ssh_host_ed25519_key'
ExecStartPre=/usr/sbin/sshd -t
UNIT

# Keys alone let in: the user's own, and that of the VM's owner, which banger puts below /run at each start.
cat >"$root/etc/ssh/sshd_config.d/banger.conf" <<'CONFIG'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AuthorizedKeysFile .ssh/authorized_keys /run/banger/ssh/authorized_keys
CONFIG
# From one VM to another: name, address and port are tied together by rules on the host, so there is nothing for a host
# key to prove, and it would only seem to have changed when a VM of that name is made again.
cat >"$root/etc/ssh/ssh_config.d/banger.conf" <<'CONFIG'
Host *.vm
	StrictHostKeyChecking no
	UserKnownHostsFile /dev/null
	LogLevel ERROR
CONFIG

# No password opens root; keys, sudo and the agent do.
chroot "$root" usermod --password '*' --shell /bin/bash root
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"

# Timers that only burn time in a machine that lives for minutes or is thrown away.
chroot "$root" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer
# No terminal to log in on, and no password to log in with; the agent gives shells.
chroot "$root" systemctl mask --quiet getty@tty1.service serial-getty@ttyS0.service
# /tmp in memory would be half of a small VM's memory; it is on the VM's disk.
chroot "$root" systemctl mask --quiet tmp.mount
# ssh on vsock would listen beside the agent, unasked for.
mkdir -p "$root/etc/systemd/system-generators"
ln -s /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"

# Without these two marks the first boot rebuilds the hardware database, the linker's cache and the message catalogue:
# half a minute under emulation, for the same result.
for dir in etc var; do
	printf 'TIMESTAMP_NSEC=%s000000000\n' "$SOURCE_DATE_EPOCH" >"$root/$dir/.updated"
done

# The journal survives a stop, and stays small.
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\n' >"$root/etc/systemd/journald.conf.d/banger.conf"

# Sources as a fresh system has them, trusted by the keyring package's own file.
# shellcheck source=/dev/null
. "$root/etc/os-release"
suite=$VERSION_CODENAME
rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*
if [ "$ID" = ubuntu ]; then
	cat >"$root/etc/apt/sources.list.d/ubuntu.sources" <<SOURCES
Types: deb
URIs: http://archive.ubuntu.com/ubuntu
Suites: $suite $suite-updates $suite-security
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
SOURCES
else
	cat >"$root/etc/apt/sources.list.d/debian.sources" <<SOURCES
Types: deb
URIs: http://deb.debian.org/debian
Suites: $suite $suite-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: $suite-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
fi

# Left over from the build, and different each time.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/log/apt
rm -f "$root/var/cache/ldconfig/aux-cache" "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
find "$root/var/log" -type f -delete
