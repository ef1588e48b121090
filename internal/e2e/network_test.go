package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"

	"banger/api"
)

// The world of these tests is a web server in a namespace of its own, on addresses kept for
// documentation (RFC 5737 and 3849).
const (
	worldAddress = "198.51.100.2"
	hostAddress  = "198.51.100.1" // the host's own, which guests must not reach

	worldAddress6 = "2001:db8:e2e::2"
	hostAddress6  = "2001:db8:e2e::1"
)

// newWorld makes the world and a service on the host, and returns the service's port. Both end with
// the test.
func newWorld(t *testing.T) (hostPort string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes a world for the host to reach; CI runs this as root")
	}
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "hello"), []byte("hello from the world\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	const world, link = "banger-e2e", "be2e0"
	for _, left := range [][]string{{"netns", "del", world}, {"link", "del", link}} { // by a run that was killed
		_ = exec.Command("ip", left...).Run()
	}
	ip("netns", "add", world)
	t.Cleanup(func() { ip("netns", "del", world) })
	ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", world)
	t.Cleanup(func() { ip("link", "del", link) })
	ip("addr", "add", hostAddress+"/24", "dev", link)
	ip("addr", "add", hostAddress6+"/64", "dev", link, "nodad")
	ip("link", "set", link, "up")
	// after the one that the host may have
	ip("route", "add", "default", "via", worldAddress6, "dev", link, "metric", "99999")
	ip("-n", world, "addr", "add", worldAddress+"/24", "dev", "eth0")
	ip("-n", world, "addr", "add", worldAddress6+"/64", "dev", "eth0", "nodad")
	ip("-n", world, "link", "set", "eth0", "up")
	ip("-n", world, "link", "set", "lo", "up")
	serve := exec.Command("ip", "netns", "exec", world, "busybox", "httpd", "-f", "-p", "80", "-h", dir)
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = serve.Process.Kill(), serve.Wait() })
	echo(t, world)
	server := &http.Server{Handler: http.NotFoundHandler()}
	t.Cleanup(func() { server.Close() })
	hostPort = "0"
	for _, address := range []string{hostAddress, hostAddress6} {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, hostPort))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = server.Serve(listener) }()
		if _, hostPort, err = net.SplitHostPort(listener.Addr().String()); err != nil {
			t.Fatal(err)
		}
	}
	return hostPort
}

// echo returns datagrams to who sent them, from port 7 of the world.
func echo(t *testing.T, world string) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netns.GetFromName(world)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp4", worldAddress+":7")
	if err := errors.Join(err, netns.Set(here)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close() })
	go func() {
		datagram := make([]byte, 1500)
		for {
			n, from, err := packets.ReadFrom(datagram)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(datagram[:n], from)
		}
	}()
}

// guest runs a shell command in a VM and returns what it says and whether it worked.
func (h *home) guest(vm, command string) (string, bool) {
	h.t.Helper()
	r := h.try("exec", vm, "--", "sh", "-c", command)
	return r.stdout, r.code == 0
}

const (
	fetch      = "curl -sS --max-time 20 http://"
	askWorld   = "bash -c 'exec 3<>/dev/udp/" + worldAddress + "/7; echo >&3; read -t 5 -u 3'"
	fetchWorld = "curl -6 -g -sS --max-time 20 'http://[" + worldAddress6 + "]/hello'"
)

// reaches fails the test unless the command's success is as wanted.
func (h *home) reaches(want bool, vm, command string) {
	h.t.Helper()
	if out, ok := h.guest(vm, command); ok != want {
		h.t.Errorf("in %s: %s: worked %t, want %t\n%s", vm, command, ok, want, out)
	}
}

// TestNetwork looks at the rules from inside real guests, once for each way in which a VM comes to
// run.
func TestNetwork(t *testing.T) {
	hostPort := newWorld(t)
	h := newHome(t)
	h.banger("run", "-d", "--name", "ant")
	h.banger("run", "-d", "--name", "bee")
	h.banger("run", "-d", "--name", "owl", "--isolated")
	h.banger("run", "-d", "--name", "hermit", "--net", "none")
	rules := func(t *testing.T) {
		h := h.in(t)
		h.reaches(true, "ant", fetch+worldAddress+"/hello")
		h.reaches(false, "ant", "curl -s --max-time 3 http://"+net.JoinHostPort(hostAddress, hostPort))
		h.reaches(false, "ant", "curl -s --max-time 3 http://169.254.169.254/")
		h.reaches(true, "ant", "ping -c 1 -W 10 bee.vm")
		h.reaches(false, "ant", "ping -c 1 -W 2 owl.vm")
		h.reaches(false, "owl", "ping -c 1 -W 2 ant.vm")
		h.reaches(true, "owl", fetch+worldAddress+"/hello")
		h.reaches(true, "ant", fetchWorld)
		h.reaches(true, "ant", askWorld)
		h.reaches(false, "ant", "curl -6 -g -s --max-time 3 http://["+hostAddress6+"]:"+hostPort)
		h.reaches(true, "ant", "ping -6 -c 1 -W 10 bee.vm")
		h.reaches(true, "ant", "ping -c 1 -W 10 "+h.vm("bee").Address6)
		h.reaches(false, "ant", "ping -6 -c 1 -W 2 owl.vm")
		h.reaches(false, "owl", "ping -6 -c 1 -W 2 ant.vm")
		h.reaches(true, "owl", fetchWorld)
		h.reaches(false, "ant", "a=fd62:616e:6765::99; ip addr add $a/96 dev eth0 nodad; ping -c 1 -W 2 -I $a "+h.vm("bee").Address6+"; r=$?; ip addr del $a/96 dev eth0; ip -6 neigh flush dev eth0; exit $r")
		// Somebody else's address. The guest asks for its neighbour from there too, in vain, and
		// would give up a second later what waits for that neighbour by then: it is made to forget.
		h.reaches(false, "ant", "a="+subnet+".99.99; ip addr add $a/16 dev eth0; ping -4 -c 1 -W 2 -I $a bee.vm; r=$?; ip addr del $a/16 dev eth0; ip neigh flush dev eth0; exit $r")
		if out, _ := h.guest("ant", "hostname -f"); out != "ant.vm\n" {
			t.Errorf("hostname -f says %q", out)
		}
		for _, address := range []string{h.vm("bee").Address, h.vm("bee").Address6} {
			if out, _ := h.guest("ant", "getent hosts "+address); !strings.Contains(out, "bee.vm") {
				t.Errorf("the name of bee's address %s is %q", address, out)
			}
		}
		h.reaches(false, "hermit", "test -e /sys/class/net/eth0")
	}
	t.Run("Run", rules)
	t.Run("NAT", func(t *testing.T) {
		h := h.in(t)
		h.banger("nat", "ant", "off")
		h.reaches(false, "ant", "curl -s --max-time 3 http://"+worldAddress+"/hello")
		h.reaches(false, "ant", strings.Replace(fetchWorld, "20", "3", 1))
		h.reaches(true, "ant", "ping -c 1 -W 10 bee.vm")
		h.banger("restart", "ant")
		h.reaches(false, "ant", "curl -s --max-time 3 http://"+worldAddress+"/hello")
		h.banger("nat", "ant", "on")
		h.reaches(true, "ant", fetch+worldAddress+"/hello")
		h.fails(1, "has no network", "nat", "hermit", "off")
	})
	t.Run("Restarted", func(t *testing.T) {
		before := h.in(t).vm("bee").Address
		h.in(t).banger("restart", "bee")
		if after := h.in(t).vm("bee").Address; after != before || before == "" {
			t.Errorf("bee has the address %s, had %s", after, before)
		}
		rules(t)
	})
	t.Run("Adopted", func(t *testing.T) {
		h := h.in(t)
		if err := syscall.Kill(h.daemon().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.banger("ls")
		rules(t)
	})
	t.Run("KeeperKilled", func(t *testing.T) {
		h := h.in(t)
		keeper := h.process("netns keep")
		if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.reaches(true, "ant", "ping -c 1 -W 10 "+h.vm("bee").Address) // the bridge needs nobody
		h.reaches(true, "ant", "ping -c 1 -W 10 "+h.vm("bee").Address6)
		eventually(t, "another keeper", func() bool { pid := h.process("netns keep"); return pid != 0 && pid != keeper })
		eventually(t, "names again", func() bool { _, ok := h.guest("ant", "getent hosts bee.vm"); return ok })
		rules(t)
	})
	t.Run("HolderKilled", func(t *testing.T) {
		h := h.in(t)
		holder := h.process("netns hold")
		if err := syscall.Kill(holder, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.reaches(true, "ant", "ping -c 1 -W 10 "+h.vm("bee").Address)
		eventually(t, "another holder", func() bool { pid := h.process("netns hold"); return pid != 0 && pid != holder })
		eventually(t, "names again", func() bool { _, ok := h.guest("ant", "getent hosts bee.vm"); return ok })
		rules(t)
	})
}

// process returns the pid of this home's process that has those words in its command line, or 0.
func (h *home) process(words string) int {
	for _, p := range h.processList() {
		if strings.Contains(p.args, words) {
			return p.pid
		}
	}
	return 0
}

// TestManyAddresses makes many VMs at once: each has an address of its own.
func TestManyAddresses(t *testing.T) {
	h := newHome(t)
	h.banger("ls") // starts the daemon
	client := api.NewClient(filepath.Join(h.dir, "daemon.sock"))
	defer client.CloseIdle()
	const many = 40
	made := make(chan error, many)
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	for range many {
		go func() {
			_, err := client.CreateMachine(ctx, api.CreateMachine{DiskMiB: 64}, nil)
			made <- err
		}()
	}
	for range many {
		if err := <-made; err != nil {
			t.Error(err)
		}
	}
	vms, err := client.Machines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, v := range vms {
		seen[v.Address] = true
	}
	if len(vms) != many || len(seen) != many || seen[""] {
		t.Errorf("%d machines have %d addresses, want %d of both", len(vms), len(seen), many)
	}
}
