package relay_test

import (
	"os"
	"strings"
	"testing"

	"banger/internal/network"
	"banger/internal/network/nettest"
)

// TestRelay: a guest sees of a connection what it would see without the relay.
func TestRelay(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) { testRelay(t, rootless) })
	}
}

func testRelay(t *testing.T, rootless bool) {
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, rootless)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	h.AwaitUplink(t)
	for _, internet := range []string{nettest.InternetAddress, "[" + nettest.InternetAddress6 + "]"} {
		one.Want("echoed", "echo", internet+":7")
		one.Want("twice", "same", internet+":10")
		for port, want := range map[string]string{":9": "connection refused", ":8": "connection reset"} {
			if got := one.Do("tcp", internet+port, "x"); !strings.Contains(got, want) {
				t.Errorf("%s%s: got %q, want %s", internet, port, got, want)
			}
		}
		// Connections that a VM may have no more end at both ends.
		cuts := []func() error{
			func() error { return h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{}) },
			func() error { return h.Detach(t.Context(), one.Endpoint.ID) },
		}
		for _, cut := range cuts {
			nettest.Check(t, h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{NAT: true}))
			one.Want("hello", "keep", internet+":7")
			if !connected(t) {
				t.Fatal("the host has no connection to the internet")
			}
			nettest.Check(t, cut())
			nettest.Await(t, "end of the connection", func() bool { return !connected(t) })
		}
		one = h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	}
	// nobody has the address
	if got := one.Do("tcp", "198.51.100.77:7", ""); !strings.Contains(got, "connection refused") {
		t.Errorf("a host that is not there: %s", got)
	}
}

// connected reports whether the host has a connection to port 7 of the internet (proc_net_tcp(5)).
func connected(t *testing.T) bool {
	t.Helper()
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(file)
		nettest.Check(t, err)
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); strings.HasSuffix(fields[2], ":0007") && fields[3] == "01" {
				return true
			}
		}
	}
	return false
}

// A service of the host's is reached by the VM that it was published to, and by no other, until
// that is taken back.
func TestHostServices(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) {
			w := nettest.NewWorld(t)
			h := w.Home("a", network.DefaultSubnet, rootless)
			nettest.Check(t, h.Ensure(t.Context()))
			one := h.Boot(h.Endpoint("one", 2, network.Policy{HostServices: []int{7, 9}}))
			two := h.Boot(h.Endpoint("two", 3, network.Policy{NAT: true, HostServices: []int{9}}))
			const service, dead, unpublished = "172.30.0.1:7", "172.30.0.1:9", "172.30.0.1:11"
			rules := func() {
				t.Helper()
				one.Want("hello 127.0.0.1", "tcp", service)
				one.Want("error", "tcp", dead) // nobody listens there
				one.Want("error", "tcp", unpublished)
				two.Want("error", "tcp", service)
			}
			rules()
			one.Want("hello", "keep", service)
			if got := one.Do("again", "", ""); got != "again" {
				t.Errorf("a connection that stands says %q", got)
			}
			nettest.Check(t, h.SetPolicy(t.Context(), two.Endpoint.ID, network.Policy{HostServices: []int{7, 9}}))
			two.Want("hello", "tcp", service)
			nettest.Check(t, h.SetPolicy(t.Context(), two.Endpoint.ID, network.Policy{HostServices: []int{9}}))
			rules()
			if got := one.Do("again", "", ""); got != "again" {
				t.Errorf("after another's change, a connection that stands says %q", got)
			}
			pid := h.KeeperPID(t)
			nettest.Kill(t, pid, func() bool { held, err := h.Running(); return err == nil && !held })
			one.Want("error", "tcp", service)
			nettest.Check(t, h.Ensure(t.Context()))
			rules()
			one.Want("hello", "keep", service)
			nettest.Check(t, h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{HostServices: []int{9}}))
			one.Want("error", "again", "")
			one.Want("error", "tcp", service)
			if err := h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{HostServices: []int{53}}); err == nil {
				t.Error("the name server's port was published")
			}
		})
	}
}
