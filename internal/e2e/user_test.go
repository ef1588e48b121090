package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// account is an ordinary user with a home folder. Its user is made by the test when it is missing,
// and stays: it owns nothing.
type account struct {
	t    *testing.T
	user string
	home string
}

func newAccount(t *testing.T, name string) account {
	t.Helper()
	a := account{t, name, emptyHome(t).dir}
	if _, err := user.Lookup(name); err != nil {
		a.must(exec.CommandContext(t.Context(), "useradd", "--create-home", "--shell", "/bin/bash", name))
	}
	a.own()
	return a
}

// own gives the home folder to the user, with what is in it.
func (a account) own() {
	a.t.Helper()
	a.must(exec.CommandContext(a.t.Context(), "chown", "-R", a.user, a.home))
}

func (a account) must(command *exec.Cmd) {
	a.t.Helper()
	if out, err := command.CombinedOutput(); err != nil {
		a.t.Fatalf("%v: %v\n%s", command.Args, err, out)
	}
}

// try runs banger as the user, with nothing of the tester's environment.
func (a account) try(args ...string) (string, error) {
	words := append([]string{
		"-u", a.user, "--", "env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + a.home, "BANGER_HOME=" + a.home, "TERM=xterm", filepath.Join(binDir, "banger"),
	}, args...)
	out, err := exec.CommandContext(a.t.Context(), "runuser", words...).CombinedOutput()
	return string(out), err
}

func (a account) banger(args ...string) string {
	a.t.Helper()
	out, err := a.try(args...)
	if err != nil {
		a.t.Fatalf("banger %s as %s: %v\n%s", strings.Join(args, " "), a.user, err, out)
	}
	return out
}

// reaches fails the test unless the command's success in the VM is as wanted.
func (a account) reaches(want bool, vm, command string) {
	a.t.Helper()
	if out, err := a.try("exec", vm, "--", "sh", "-c", command); (err == nil) != want {
		a.t.Errorf("%s's %s: %s: %v, want success %t\n%s", a.user, vm, command, err, want, out)
	}
}

// TestOrdinaryUsers has two users without any rights use banger at once. The first builds the
// image, on a machine that never ran banger for that user.
func TestOrdinaryUsers(t *testing.T) {
	hostPort := newWorld(t)
	one, two := newAccount(t, "banger-e2e"), newAccount(t, "banger-e2e-2")
	out := one.banger("run", "--rm", "-q", "--name", "mine", "--", "sh", "-c", "id -un; getent hosts mine.vm >/dev/null && ping -q -c 1 -W 10 172.30.0.1 >/dev/null && hostname -f")
	if !strings.HasSuffix(out, "root\nmine.vm\n") {
		t.Errorf("run says %q", out)
	}
	if out := one.banger("image", "ls"); !strings.Contains(out, "debian:trixie") {
		t.Errorf("image ls says %q", out)
	}
	one.banger("daemon", "stop")
	for _, part := range []string{"images", "kernels", "state.db"} {
		two.must(exec.CommandContext(t.Context(), "cp", "-r", filepath.Join(one.home, part), two.home))
	}
	two.own()

	port := hostService(t)
	one.banger("run", "-d", "-q", "--name", "ant", "--host-service", port)
	one.banger("run", "-d", "-q", "--name", "bee")
	two.banger("run", "-d", "-q", "--name", "ant")
	world := fetch + worldAddress + "/hello"
	t.Run("Rules", func(t *testing.T) {
		one, two := one.in(t), two.in(t)
		one.reaches(true, "ant", world)
		two.reaches(true, "ant", world)
		one.reaches(true, "ant", "ping -c 1 -W 10 bee.vm")
		one.reaches(true, "ant", "ping -6 -c 1 -W 10 bee.vm")
		one.reaches(true, "ant", fetchWorld)
		one.reaches(true, "ant", askWorld)
		two.reaches(false, "ant", "ping -c 1 -W 2 172.30.0.3") // one's bee
		two.reaches(false, "ant", "getent hosts bee.vm")
		for _, forbidden := range []string{net.JoinHostPort(hostAddress, hostPort), net.JoinHostPort(hostAddress6, hostPort), "172.30.0.1:" + hostPort, "169.254.169.254"} {
			one.reaches(false, "ant", "curl -g -s --max-time 3 'http://"+forbidden+"'")
		}
		// Somebody else's address, and somebody else's MAC.
		one.reaches(false, "ant", "ip addr add 172.30.99.99/16 dev eth0; ping -4 -c 1 -W 2 -I 172.30.99.99 bee.vm; r=$?; ip addr del 172.30.99.99/16 dev eth0; ip neigh flush dev eth0; exit $r")
		one.reaches(false, "bee", "ip link set eth0 down; ip link set eth0 address 02:00:ac:1e:63:63; ip link set eth0 up; ping -c 1 -W 2 172.30.0.1; r=$?; ip link set eth0 down; ip link set eth0 address 02:00:ac:1e:00:03; ip link set eth0 up; exit $r")
		one.reaches(true, "bee", "ping -c 1 -W 10 172.30.0.1")
	})
	t.Run("SSH", func(t *testing.T) {
		out, err := one.in(t).try("ssh", "ant", "--", "id -un; curl -sS --max-time 5 http://172.30.0.1:"+port+"; exit 7")
		if err == nil || err.Error() != "exit status 7" || out != "root\nhello 127.0.0.1\n" {
			t.Errorf("ssh: %v\n%s", err, out)
		}
	})
	t.Run("UplinkKilled", func(t *testing.T) { testUplinkKilled(t, one.in(t)) })
	one.banger("rm", "-f", "ant", "bee")
	two.in(t).reaches(true, "ant", world) // its network is its own
	two.banger("rm", "-f", "ant")
	one.banger("daemon", "stop")
	two.banger("daemon", "stop")
}

// in is the same account for a subtest.
func (a account) in(t *testing.T) account {
	a.t = t
	return a
}

// testUplinkKilled ends the user's pasta: machines still reach each other, and soon the world again
// by more than TCP.
func testUplinkKilled(t *testing.T, one account) {
	note, err := os.ReadFile(filepath.Join(one.home, "net", "pasta.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid, holder int
	if _, err := fmt.Sscanf(string(note), "%d %d", &pid, &holder); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.reaches(true, "ant", "ping -c 1 -W 10 bee.vm")
	eventually(t, "the world again", func() bool { _, err := one.try("exec", "ant", "--", "sh", "-c", askWorld); return err == nil })
}
