# shellcheck shell=sh
# The machine's own files, as every image starts with them.
set -eu

# Packages that bring a service must not start it here: the image only holds it. cleanup.sh takes this away again.
cat >/usr/sbin/policy-rc.d <<'POLICY'
#!/bin/sh
exit 101
POLICY
chmod 755 /usr/sbin/policy-rc.d

# banger writes name, hosts and resolv.conf anew at each start of a machine; this is what it starts from.
if ! grep -q '^127\.0\.0\.1[[:space:]]' /etc/hosts; then
	printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >>/etc/hosts
fi

# Mounts of an image's former life would stop the boot: the machine's disk holds all of it.
touch /etc/fstab
awk '$1 ~ /^#/ || NF < 2 { print; next }
	$2 == "/run" || $2 == "/tmp" || $2 == "/" || $2 ~ "^/home(/|$)" || $2 ~ "^/var(/|$)" { next }
	{ print }' /etc/fstab >/etc/fstab.banger
printf 'tmpfs\t/run\ttmpfs\tmode=0755,nosuid,nodev\t0\t0\ntmpfs\t/tmp\ttmpfs\tmode=1777,nosuid,nodev\t0\t0\n' >>/etc/fstab.banger
chmod 644 /etc/fstab.banger
mv /etc/fstab.banger /etc/fstab
if [ "$(readlink /etc/systemd/system/tmp.mount || :)" = /dev/null ]; then
	rm /etc/systemd/system/tmp.mount
fi

# Keys come to each machine by itself; sshd refuses them when others could write here.
mkdir -p /root/.ssh
touch /root/.ssh/authorized_keys
chown -R root:root /root/.ssh
chmod 700 /root /root/.ssh
chmod 600 /root/.ssh/authorized_keys
