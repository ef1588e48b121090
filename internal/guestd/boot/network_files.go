package boot

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/guestd/smallfile"
)

// writeResolvConf writes /etc/resolv.conf anew at each boot. A symlink into the files of systemd-resolved or
// resolvconf becomes a plain file: names resolve before these run, resolved reads its servers from it, and resolvconf
// leaves it alone.
func (n Network) writeResolvConf(etc string) error {
	if len(n.Nameservers) == 0 {
		return nil
	}
	err := smallfile.Update(filepath.Join(etc, "resolv.conf"), 0o644, func([]byte) []byte { return n.resolvConf() })
	if err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	return nil
}

func (n Network) resolvConf() []byte {
	var out strings.Builder
	out.WriteString("# Written by banger at each start of the VM.\n")
	for _, server := range n.Nameservers {
		fmt.Fprintf(&out, "nameserver %s\n", server)
	}
	if n.Search != "" {
		fmt.Fprintf(&out, "search %s\n", n.Search)
	}
	return []byte(out.String())
}

// managerFile is what one network manager reads below /run.
type managerFile struct{ path, content string }

// managerFiles tell the network managers that an image may hold that the card is configured, each in its own way. They
// last as long as the boot.
//   - systemd-networkd (also under netplan) gets the same configuration, for its wait-online never ends when it manages
//     no card; it keeps what is there. The name sorts before those of netplan and cloud-init.
//   - systemd-resolved reads /etc/resolv.conf; when it is installed later and makes a symlink of that, this is left.
//   - NetworkManager leaves card and resolv.conf alone.
//   - ifupdown, and the ifup of busybox, take the card for one they have configured: no DHCP client starts, which
//     would wait for a minute and then take the address away.
func (n Network) managerFiles(card string) []managerFile {
	files := []managerFile{
		{"systemd/network/00-banger.network", lines(n.networkd(card)...)},
		{"NetworkManager/conf.d/00-banger.conf", lines("[main]", "dns=none", "", "[keyfile]", "unmanaged-devices=interface-name:"+card)},
		{"network/ifstate", lines(card + "=" + card)},
		{"network/ifstate." + card, lines(card)},
		{"ifstate", lines(card + "=" + card)},
	}
	if len(n.Nameservers) > 0 {
		resolved := append([]string{"[Resolve]"}, n.systemdDNS()...)
		files = append(files, managerFile{"systemd/resolved.conf.d/00-banger.conf", lines(resolved...)})
	}
	return files
}

// networkd is the configuration for systemd-networkd, in lines.
func (n Network) networkd(card string) []string {
	linkLocal := "no"
	if n.Address6.IsValid() {
		linkLocal = "ipv6" // neighbours are asked from it
	}
	out := []string{
		"[Match]", "Name=" + card, "",
		"[Network]", "Address=" + n.Address.String(), "KeepConfiguration=yes", "LinkLocalAddressing=" + linkLocal, "IPv6AcceptRA=no",
	}
	for _, gateway := range []netip.Addr{n.Gateway, n.Gateway6} {
		if gateway.IsValid() {
			out = append(out, "Gateway="+gateway.String())
		}
	}
	out = append(out, n.systemdDNS()...)
	if n.Address6.IsValid() {
		out = append(out, "", "[Address]", "Address="+n.Address6.String(), "DuplicateAddressDetection=none")
	}
	if n.MTU != 0 {
		out = append(out, "", "[Link]", fmt.Sprintf("MTUBytes=%d", n.MTU))
	}
	return out
}

// systemdDNS are the lines that networkd and resolved have in common.
func (n Network) systemdDNS() []string {
	var out []string
	for _, server := range n.Nameservers {
		out = append(out, "DNS="+server.String())
	}
	if n.Search != "" {
		out = append(out, "Domains="+n.Search)
	}
	return out
}

func lines(all ...string) string { return strings.Join(all, "\n") + "\n" }

func (n Network) writeManagerFiles(run, card string) error {
	for _, f := range n.managerFiles(card) {
		path := filepath.Join(run, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		if err := os.WriteFile(path, []byte(f.content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// ownNames are the names of a VM in /etc/hosts, the full one first, which makes it the answer of hostname -f.
func ownNames(hostname, search string) string {
	short, _, full := strings.Cut(hostname, ".")
	switch {
	case full:
		return hostname + " " + short
	case search != "":
		return hostname + "." + search + " " + hostname
	}
	return hostname
}

// ownHosts are the lines of a VM for itself in /etc/hosts: at its addresses, or without a network at 127.0.1.1, which Debian
// keeps for that.
func (n Network) ownHosts(hostname string) []string {
	addresses := []string{"127.0.1.1"}
	if n.Address.IsValid() {
		addresses = []string{n.Address.Addr().String()}
	}
	if n.Address6.IsValid() {
		addresses = append(addresses, n.Address6.Addr().String())
	}
	for i, a := range addresses {
		addresses[i] = a + "\t" + ownNames(hostname, n.Search)
	}
	return addresses
}
