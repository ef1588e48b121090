package nettest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	homefolder "banger/internal/home"
	"banger/internal/network"
	"banger/internal/network/holder"
	"banger/internal/network/keeper"
)

// KeeperPID finds the keeper by its lock (proc_locks(5) names the holder of a flock).
func (h *home) KeeperPID(t *testing.T) int {
	t.Helper()
	info, err := os.Stat(h.Dir().Lock())
	Check(t, err)
	locks, err := os.ReadFile("/proc/locks")
	Check(t, err)
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[1] == "FLOCK" && strings.HasSuffix(fields[5], inode) {
			pid, err := strconv.Atoi(fields[4])
			Check(t, err)
			return pid
		}
	}
	t.Fatal("no process holds the lock")
	return 0
}

// Kill ends a process and waits until its pid is gone from the lock or the table, within a
// deadline.
func Kill(t *testing.T, pid int, gone func() bool) {
	t.Helper()
	Check(t, syscall.Kill(pid, syscall.SIGKILL))
	Await(t, "end of the killed process", gone)
}

func Await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no %s", what)
		}
	}
}

func (h *home) NotHeld() bool {
	held, err := h.Running()
	return err == nil && !held
}

func (h *home) Alive(t *testing.T) bool {
	t.Helper()
	_, err := h.Status(t.Context())
	return err == nil
}

// AwaitUplink waits until the namespace has its way out: pasta says nothing when it is ready.
func (h *home) AwaitUplink(t *testing.T) {
	t.Helper()
	p := h.Endpoint("probe", 99, network.Policy{NAT: true})
	v := h.Boot(p)
	Await(t, "way out", func() bool {
		return strings.HasPrefix(v.DoWithin(ShortWait, "tcp", InternetAddress+":7", ""), "hello") &&
			v.DoWithin(ShortWait, "ask", InternetAddress+":53", "") == "answered" // not all ways are ready at once
	})
	v.end()
	Check(t, h.Detach(t.Context(), p.ID))
}

type home struct {
	*network.Client
	world *world
	path  homefolder.Dir
}

// keeperConfig travels to playKeeper in the environment.
type keeperConfig struct {
	Home       homefolder.Dir
	ResolvConf string
	Subnet     netip.Prefix
	Rootless   bool
}

// Home returns a running network.
func (w *world) Home(name string, subnet netip.Prefix, rootless bool) *home {
	w.t.Helper()
	path := homefolder.Dir(filepath.Join(w.Root, name))
	config, err := json.Marshal(keeperConfig{path, filepath.Join(w.Root, "resolv.conf"), subnet, rootless})
	Check(w.t, err)
	command := []string{"/usr/bin/env", roleVariable + "=keeper", homeVariable + "=" + string(config), "/proc/self/exe"}
	executable, err := os.Executable()
	Check(w.t, err)
	command[3] = executable
	h := &home{network.NewClient(path, rootless, command), w, path}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			log, _ := os.ReadFile(h.Dir().Log())
			w.t.Logf("log of %s:\n%s", name, log)
		}
		if err := h.Stop(context.Background()); err != nil {
			w.t.Error(err)
		}
	})
	return h
}

func playKeeper() error {
	var c keeperConfig
	if err := json.Unmarshal([]byte(os.Getenv(homeVariable)), &c); err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return keeper.Serve(context.Background(), keeper.Config{
		Home: c.Home, Subnet: c.Subnet, Rootless: c.Rootless, ResolvConf: c.ResolvConf,
		Holder: []string{"/usr/bin/env", roleVariable + "=holder", executable},
		Ready:  os.NewFile(network.ReadyFD, "ready"),
	}, log)
}

func playHolder() error {
	return holder.Run(context.Background(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

func (h *home) Endpoint(name string, n byte, policy network.Policy) network.Endpoint {
	a := network.Gateway(network.DefaultSubnet).As4()
	a[3] = n
	address := netip.AddrFrom4(a)
	return network.Endpoint{ID: "id-" + name, Name: name, Address: address, MAC: network.MAC(address), Policy: policy}
}

func (h *home) Boot(p network.Endpoint) *VM {
	t := h.world.t
	t.Helper()
	tap, err := h.Attach(t.Context(), p)
	Check(t, err)
	status, err := h.Status(t.Context())
	Check(t, err)
	config, _ := json.Marshal(VM{Endpoint: p, Tap: tap, Gateway: status.Gateway})
	executable, _ := os.Executable()
	folder := h.path.VM(p.ID)
	Check(t, os.MkdirAll(folder, 0o700))
	lock, err := os.Create(filepath.Join(folder, "lock"))
	Check(t, err)
	defer lock.Close()
	argv := h.Enter(status.HolderPID, []string{executable})
	command := exec.Command(argv[0], argv[1:]...)
	command.ExtraFiles = []*os.File{lock} // as a VMM has its VM's
	command.Env = append(os.Environ(), roleVariable+"=enter-vm", homeVariable+"="+string(config))
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, _ := command.StdinPipe()
	out, _ := command.StdoutPipe()
	Check(t, command.Start())
	v := &VM{t: t, Endpoint: p, Tap: tap, in: in, out: bufio.NewReader(out)}
	v.end = func() { in.Close(); command.Wait() }
	t.Cleanup(v.end)
	if got := v.Do("ready", "", ""); got != "ready" {
		t.Fatalf("boot %s: %s", p.Name, got)
	}
	return v
}
