// Package e2e drives the real programs as a user does: banger's binaries, a home folder of its own
// for each test, and real VMs under firecracker-qemu. It takes the Debian archive, QEMU >= 8.2 and
// what scripts/setup.sh test installs.
//
// One image and one kernel are made once and shared: each test's home folder gets them as hard
// links. Every test ends with a leak check: no process, no mount, no file outside its home may be
// left.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// commandTimeout bounds one command of banger; a boot under emulation on a busy machine takes half
// a minute.
const commandTimeout = 4 * time.Minute

var (
	binDir string // holds the three programs
	golden string // a home folder that holds the image and the kernel, and no VM
)

// subnet is another one for each test run: root's homes share the host's routes, and two runs may
// go on at once.
var subnet = fmt.Sprintf("10.%d", 64+os.Getpid()%128)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "banger-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the ordinary user of TestUser runs the programs in it
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binDir, golden = filepath.Join(dir, "bin"), filepath.Join(dir, "golden")
	if kept := os.Getenv("BANGER_E2E_GOLDEN"); kept != "" {
		golden = kept // of an earlier run: saves a minute while one works on one test
	}
	if err := errors.Join(build(), makeGolden()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func build() error {
	for _, name := range []string{"banger", "banger-guest", "firecracker-qemu"} {
		if out, err := buildProgram(filepath.Join(binDir, name), name); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

func buildProgram(to, name string, flags ...string) ([]byte, error) {
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", to}, flags...)
	command := exec.Command("go", append(args, "banger/cmd/"+name)...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	return command.CombinedOutput()
}

// makeGolden makes the image and the kernel as a first user would: by creating a VM.
func makeGolden() error {
	h := &home{dir: golden}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for _, args := range [][]string{{"create", "--name", "first"}, {"rm", "first"}, {"daemon", "stop"}} {
		if r := h.run(ctx, nil, args...); r.code != 0 {
			return fmt.Errorf("make image and kernel: banger %s: exit status %d\n%s", strings.Join(args, " "), r.code, r.stderr)
		}
	}
	return nil
}

// home is one user's home folder, with a daemon that its commands start.
type home struct {
	t   *testing.T
	dir string
	env []string // on top of the least that a command needs
}

// newHome returns a home folder with the shared image and kernel. Its daemon and VMs are ended at
// the test's end, and anything that is left of them fails the test.
func newHome(t *testing.T, env ...string) *home {
	t.Helper()
	h := emptyHome(t, env...)
	if err := linkGolden(h.dir); err != nil {
		t.Fatalf("copy golden home: %v", err)
	}
	return h
}

// in is the same home for a subtest, whose failures are its own.
func (h *home) in(t *testing.T) *home {
	sub := *h
	sub.t = t
	return &sub
}

// emptyHome is a home folder of a machine that never ran banger.
func emptyHome(t *testing.T, env ...string) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "bh-") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	h := &home{t: t, dir: dir, env: env}
	t.Cleanup(h.end)
	return h
}

// linkGolden gives a home folder the shared image and kernel as hard links, and their records as a
// copy.
func linkGolden(to string) error {
	records, err := os.ReadFile(filepath.Join(golden, "state.db"))
	if err != nil {
		return err
	}
	bundles, err := filepath.Glob(filepath.Join(golden, "*", "[0-9a-f]*", "*"))
	if err != nil {
		return err
	}
	for _, path := range bundles {
		target := filepath.Join(to, strings.TrimPrefix(path, golden))
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o700), os.Link(path, target)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "state.db"), records, 0o600)
}

// end removes the VMs, stops the daemon and looks for what is left.
func (h *home) end() {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if h.t.Failed() {
		if log, err := os.ReadFile(filepath.Join(h.dir, "daemon.log")); err == nil {
			h.t.Logf("daemon.log:\n%s", log)
		}
	}
	var vms []api.Machine
	if r := h.run(ctx, nil, "ls", "--json"); r.code == 0 && json.Unmarshal([]byte(r.stdout), &vms) == nil && len(vms) > 0 {
		args := []string{"rm", "-f"}
		for _, vm := range vms {
			args = append(args, vm.ID)
		}
		if r := h.run(ctx, nil, args...); r.code != 0 {
			h.t.Errorf("remove machines: exit status %d\n%s", r.code, r.stderr)
		}
	}
	if r := h.run(ctx, nil, "daemon", "stop"); r.code != 0 {
		h.t.Errorf("stop daemon: exit status %d\n%s", r.code, r.stderr)
	}
	h.checkLeaks()
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Error(err)
	}
}

// checkLeaks fails the test when a process of this home folder lives, a mount lies in it, or a VM's
// folder is left.
func (h *home) checkLeaks() {
	deadline := time.Now().Add(10 * time.Second) // the kernel takes its time to free a killed VM's memory
	var left []string
	for {
		if left = h.processes(); len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			h.t.Errorf("processes are left:\n%s", strings.Join(left, "\n"))
			break
		}
		<-time.After(20 * time.Millisecond) // polls until the deadline: /proc has no events
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || bytes.Contains(mounts, []byte(h.dir)) {
		h.t.Errorf("mounts are left in %s: %v\n%s", h.dir, err, mounts)
	}
	entries, err := os.ReadDir(filepath.Join(h.dir, "vms"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Error(err)
	}
	for _, entry := range entries {
		h.t.Errorf("a machine's folder is left: %s", entry.Name())
	}
}

// hostProcess is a process of a home folder.
type hostProcess struct {
	pid  int
	args string
}

// processes describes the processes of this home folder.
func (h *home) processes() []string {
	var found []string
	for _, p := range h.processList() {
		found = append(found, fmt.Sprint(p.pid, " ", p.args))
	}
	return found
}

// processList lists the processes that have this home folder in their arguments or environment.
func (h *home) processList() []hostProcess {
	var found []hostProcess
	folders, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, folder := range folders {
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, _ := os.ReadFile(folder + "/cmdline") // it may have ended
		env, _ := os.ReadFile(folder + "/environ")
		if bytes.Contains(args, []byte(h.dir)) || bytes.Contains(env, []byte("BANGER_HOME="+h.dir+"\x00")) {
			found = append(found, hostProcess{pid, strings.ReplaceAll(string(args), "\x00", " ")})
		}
	}
	return found
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// command prepares banger with this home folder and nothing of the tester's own environment.
func (h *home) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(binDir, "banger"), args...)
	command.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "BANGER_HOME=" + h.dir, "XDG_CACHE_HOME=" + filepath.Join(filepath.Dir(golden), "cache"), "TERM=xterm",
		"BANGER_SUBNET=" + subnet + ".0.0/16",
	}, h.env...)
	command.WaitDelay = 10 * time.Second
	return command
}

func (h *home) run(ctx context.Context, stdin io.Reader, args ...string) result {
	command := h.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = stdin, &stdout, &stderr
	err := command.Run()
	if err != nil && command.ProcessState == nil {
		return result{stderr: err.Error(), code: -1}
	}
	return result{stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
}

// banger runs a command that must succeed and returns its standard output.
func (h *home) banger(args ...string) string {
	h.t.Helper()
	r := h.try(args...)
	if r.code != 0 {
		h.t.Fatalf("banger %s: exit status %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// try runs a command that may fail.
func (h *home) try(args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), commandTimeout)
	defer cancel()
	return h.run(ctx, nil, args...)
}

// fails runs a command that must fail with that exit code and those words on standard error.
func (h *home) fails(code int, words string, args ...string) {
	h.t.Helper()
	r := h.try(args...)
	if r.code != code || !strings.Contains(r.stderr, words) {
		h.t.Errorf("banger %s: exit status %d, standard error:\n%s\nwant exit status %d and %q", strings.Join(args, " "), r.code, r.stderr, code, words)
	}
}

// vm returns a VM as the API shows it.
func (h *home) vm(name string) api.Machine {
	h.t.Helper()
	var vms []api.Machine
	if err := json.Unmarshal([]byte(h.banger("inspect", name)), &vms); err != nil || len(vms) != 1 {
		h.t.Fatalf("inspect %s: %v, %d machines", name, err, len(vms))
	}
	return vms[0]
}

// wantState fails the test unless the VM has that state, and the words in its reason.
func (h *home) wantState(name string, state api.State, reason string) {
	h.t.Helper()
	if v := h.vm(name); v.State != state || !strings.Contains(v.Reason, reason) {
		h.t.Errorf("machine %s is %s (%s), want %s (%s)", name, v.State, v.Reason, state, reason)
	}
}

// daemon returns what the daemon says of itself, or fails the test when none runs.
func (h *home) daemon() api.DaemonStatus {
	h.t.Helper()
	var status api.DaemonStatus
	if err := json.Unmarshal([]byte(h.banger("daemon", "status", "--json")), &status); err != nil {
		h.t.Fatal(err)
	}
	return status
}
