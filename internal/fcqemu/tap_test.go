package fcqemu

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// makeTapEnv has the test's program make a tap of that name and become the program that its
// arguments name, in the same network.
const makeTapEnv = "FCQEMU_TEST_MAKE_TAP"

func makeTapAndExec(name string) error {
	tap, err := openTap(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetInt(int(tap.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return err
	}
	tap.Close()
	return syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
}

// A tap that is there is attached to, in a network of the test's own; the guest finds the card with
// its MAC and MTU.
func TestTap(t *testing.T) {
	p := newProgram(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, path, "--api-sock", "api")
	cmd.Env = []string{makeTapEnv + "=there"}
	p.launchCommand(t, newNetns(), cmd)
	p.ready(t)
	p.guestConfig(t)
	p.must(t, "PUT", "/network-interfaces/a", `{"iface_id":"a","host_dev_name":"there","guest_mac":"06:00:AC:10:00:02","mtu":1400}`)
	p.must(t, "PUT", "/network-interfaces/b", `{"iface_id":"b","host_dev_name":"new"}`)
	tests := []struct{ name, body, want string }{
		{"busy", `{"iface_id":"c","host_dev_name":"there"}`, "Open tap device failed: Error while creating ifreq structure: Device or resource busy (os error 16). Invalid TUN/TAP Backend provided by there."},
		{"not a tap", `{"iface_id":"c","host_dev_name":"lo"}`, "Invalid TUN/TAP Backend provided by lo."},
		{"name too long", `{"iface_id":"c","host_dev_name":"sixteen-letters-"}`, `Invalid interface name "sixteen-letters-"`},
		{"no name", `{"iface_id":"c"}`, "missing field `host_dev_name`"},
		{"same MAC", `{"iface_id":"c","host_dev_name":"other","guest_mac":"06:00:ac:10:00:02"}`, "The MAC address is already in use: 06:00:ac:10:00:02"},
		{"limiter", `{"iface_id":"c","host_dev_name":"other","rx_rate_limiter":{"ops":{"size":1,"refill_time":1}}}`, unbuilt},
		{"MTU", `{"iface_id":"c","host_dev_name":"other","mtu":67}`, "The MTU must be between"},
	}
	for _, tt := range tests {
		if got := p.refused(t, "PUT", "/network-interfaces/c", tt.body); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s\nwant %s", tt.name, got, tt.want)
		}
	}
	// The same id again is the same card.
	p.must(t, "PUT", "/network-interfaces/a", `{"iface_id":"a","host_dev_name":"there","guest_mac":"06:00:AC:10:00:03","mtu":1400}`)
	if got := len(p.config(t).NetworkInterfaces); got != 2 {
		t.Errorf("%d cards, want 2", got)
	}
	p.start(t)
	for file, want := range map[string]string{"eth0/address": "06:00:ac:10:00:03", "eth0/mtu": "1400", "eth1/type": "1"} {
		if got := p.ask(t, "cat /sys/class/net/"+file); got != want {
			t.Errorf("the guest's %s is %q, want %q", file, got, want)
		}
	}
	if _, err := net.InterfaceByName("there"); err == nil {
		t.Error("the tap is in the test's own network")
	}
}
