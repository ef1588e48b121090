package netcfg

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/guestd/smallfile"
)

const maxResolvConfBytes = 4 << 10 // three name servers and a domain

// writeResolvConf writes /etc/resolv.conf: anew at each boot, later only while it is still what was
// written here, for a VPN's or a resolver's own that came in its place is wanted there. Without
// name servers it is left alone.
//
// At boot a symlink into the files of systemd-resolved or resolvconf becomes a plain file: names
// resolve before these run, resolved reads its servers from it, and resolvconf leaves it alone.
func (c Config) writeResolvConf(at Folders) error {
	if len(c.Nameservers) == 0 {
		return nil
	}
	copied := filepath.Join(at.Run, "banger/resolv.conf") // of what was written last, in this boot
	last, err := smallfile.Read(copied, maxResolvConfBytes)
	booting := errors.Is(err, os.ErrNotExist)
	if err != nil && !booting {
		return fmt.Errorf("read resolv.conf of this boot: %w", err)
	}
	path := filepath.Join(at.Etc, "resolv.conf")
	fresh := c.resolvConf()
	if !booting && !holds(path, last) && !holds(path, fresh) {
		return nil
	}
	same := func([]byte) []byte { return fresh }
	if err := smallfile.Update(path, 0o644, same); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return smallfile.Update(copied, 0o644, same)
}

// holds reports whether there is a file, no symlink, with that content.
func holds(path string, content []byte) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	now, err := smallfile.Read(path, int64(len(content)))
	return err == nil && bytes.Equal(now, content)
}

func (c Config) resolvConf() []byte {
	var out strings.Builder
	out.WriteString("# Written by banger at each start of the machine.\n")
	for _, server := range c.Nameservers {
		fmt.Fprintf(&out, "nameserver %s\n", server)
	}
	if c.Search != "" {
		fmt.Fprintf(&out, "search %s\n", c.Search)
	}
	return []byte(out.String())
}

// managerFile is what one network manager reads below /run.
type managerFile struct{ path, content string }

// managerFiles tell the network managers that an image may hold that the card is configured, each
// in its own way. They last as long as the boot.
//   - systemd-networkd (also under netplan) gets the same configuration, for its wait-online never ends when it manages
//     no card; it keeps what is there. The name sorts before those of netplan and cloud-init.
//   - systemd-resolved reads /etc/resolv.conf; when it is installed later and makes a symlink of that, this is left.
//   - NetworkManager leaves card and resolv.conf alone.
//   - ifupdown, and the ifup of busybox, take the card for one they have configured: no DHCP client starts, which
//     would wait for a minute and then take the address away.
func (c Config) managerFiles(card string) []managerFile {
	unmanaged := lines("[main]", "dns=none", "", "[keyfile]", "unmanaged-devices=interface-name:"+card)
	files := []managerFile{
		{"systemd/network/00-banger.network", lines(c.networkd(card)...)},
		{"NetworkManager/conf.d/00-banger.conf", unmanaged},
		{"network/ifstate", lines(card + "=" + card)},
		{"network/ifstate." + card, lines(card)},
		{"ifstate", lines(card + "=" + card)},
	}
	if len(c.Nameservers) > 0 {
		resolved := append([]string{"[Resolve]"}, c.systemdDNS()...)
		files = append(files, managerFile{"systemd/resolved.conf.d/00-banger.conf", lines(resolved...)})
	}
	return files
}

// networkd is the configuration for systemd-networkd, in lines.
func (c Config) networkd(card string) []string {
	linkLocal := "no"
	if c.Address6.IsValid() {
		linkLocal = "ipv6" // neighbours are asked from it
	}
	out := []string{
		"[Match]", "Name=" + card, "",
		"[Network]", "KeepConfiguration=yes", "LinkLocalAddressing=" + linkLocal, "IPv6AcceptRA=no",
	}
	if c.Address.IsValid() {
		out = append(out, "Address="+c.Address.String())
	}
	for _, gateway := range []netip.Addr{c.Gateway, c.Gateway6} {
		if gateway.IsValid() {
			out = append(out, "Gateway="+gateway.String())
		}
	}
	out = append(out, c.systemdDNS()...)
	if c.Address6.IsValid() {
		out = append(out, "", "[Address]", "Address="+c.Address6.String(), "DuplicateAddressDetection=none")
	}
	if c.MTU != 0 {
		out = append(out, "", "[Link]", fmt.Sprintf("MTUBytes=%d", c.MTU))
	}
	return out
}

// systemdDNS are the lines that networkd and resolved have in common.
func (c Config) systemdDNS() []string {
	var out []string
	for _, server := range c.Nameservers {
		out = append(out, "DNS="+server.String())
	}
	if c.Search != "" {
		out = append(out, "Domains="+c.Search)
	}
	return out
}

func lines(all ...string) string { return strings.Join(all, "\n") + "\n" }

func (c Config) writeManagerFiles(run, card string) error {
	for _, f := range c.managerFiles(card) {
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
