# shellcheck shell=sh
# Kernel modules: that the drive with them is usable, and that those load at boot which containers need.
set -eu
modules='overlay br_netfilter nf_tables nft_compat nft_chain_nat xt_conntrack xt_addrtype xt_MASQUERADE veth'

for module in overlay br_netfilter nf_tables veth; do
	modprobe "$module"
done
mkdir -p /etc/modules-load.d /etc/sysctl.d
{
	echo '# Containers need these; autoloading is not to be had for all of them.'
	for module in $modules; do
		! modprobe -n -q "$module" || echo "$module"
	done
} >/etc/modules-load.d/banger.conf
cat >/etc/sysctl.d/60-banger.conf <<'SYSCTL'
# A bridge of containers forwards, and its packets pass the firewall.
net.ipv4.ip_forward = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
SYSCTL
