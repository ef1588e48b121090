package nettest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"banger/internal/network/nft"
)

// InsideLinks lists the links of another process's namespace.
func InsideLinks(t *testing.T, pid int) string {
	t.Helper()
	ns, err := netns.GetFromPid(pid)
	Check(t, err)
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns)
	Check(t, err)
	defer handle.Close()
	links, err := handle.LinkList()
	Check(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func Forwards6(t *testing.T) string {
	t.Helper()
	value, err := os.ReadFile(nft.IP6.ForwardSwitch)
	Check(t, err)
	return strings.TrimSpace(string(value))
}

func HostLinks(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	Check(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func NFT(t *testing.T, script string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "/usr/sbin/nft", "-f", "-")
	command.Stdin = strings.NewReader(script + "\n")
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, output)
	}
	return string(output)
}
