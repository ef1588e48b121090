# shellcheck shell=sh
# Takes away what must differ between machines, and what only the build needed.
set -eu

# From here on nothing that runs writes its traces into the image.
if [ -d /run/systemd/system ]; then
	mkdir -p /run/systemd/journald.conf.d
	printf '[Journal]\nStorage=volatile\n' >/run/systemd/journald.conf.d/zz-banger.conf
	systemctl restart systemd-journald.service
	systemctl stop systemd-random-seed.service || : # saves the seed now, and not when the machine ends
fi
if command -v apt-get >/dev/null; then
	apt-get clean
fi
rm -f /usr/sbin/policy-rc.d
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old /run/banger-sources.*
rm -rf /var/log/journal/* /var/log/apt
find /var/log -type f -delete
rm -rf /var/tmp/* /var/tmp/.[!.]* /root/.bash_history /root/.wget-hsts
find /tmp -xdev -mindepth 1 -delete
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/systemd/timers/*
rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
: >/etc/machine-id # empty, not missing: that would be a first boot, which asks questions on the console
# The line of this machine itself.
sed -i '/# banger$/d' /etc/hosts
rm -f /etc/hostname

if command -v git >/dev/null; then
	git config --system init.defaultBranch main
fi
# Says that /etc and /var are as new as /usr; else the first boot would rebuild caches that the packages' own scripts
# have just built, for half a minute under emulation.
stamp=$(stat -c %Y /usr)
for dir in /etc /var; do
	printf 'TIMESTAMP_NSEC=%s999999999\n' "$stamp" >"$dir/.updated"
	touch -d "@$((stamp + 1))" "$dir/.updated"
done

# What the host could not write, its disk being full, must not be missing from the image: errors of writing behind are told
# to who asks alone.
sync -f /
for count in /sys/fs/ext4/*/errors_count; do
	if [ "$(cat "$count")" != 0 ]; then
		echo "the machine's disk has had errors: $count" >&2
		exit 1
	fi
done
