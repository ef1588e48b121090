package fcqemu

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// binary builds firecracker-qemu once per test run, with the race detector when the tests have it.
var binary = sync.OnceValues(func() (string, error) {
	args := []string{"build", "-o", filepath.Join(buildDir, "firecracker-qemu")}
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			args = append(args, "-race")
		}
	}
	if out, err := exec.Command("go", append(args, "banger/cmd/firecracker-qemu")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build firecracker-qemu: %w: %s", err, out)
	}
	return filepath.Join(buildDir, "firecracker-qemu"), nil
})

var buildDir string

func TestMain(m *testing.M) {
	if name := os.Getenv(makeTapEnv); name != "" {
		panic(makeTapAndExec(name))
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "fcqemu-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(buildDir)
		os.Exit(code)
	}))
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until polls with a deadline. It calls ok at least once.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// text collects output.
type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *text) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *text) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// program is one run of firecracker-qemu in a folder of its own.
type program struct {
	dir            string
	cmd            *exec.Cmd
	stdout, stderr text
	exited         chan struct{}
	client         *http.Client
}

// newNetns has a program see a network of its own. An ordinary user needs a user namespace for it.
func newNetns() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

func run(t *testing.T, attr *syscall.SysProcAttr, args ...string) *program {
	t.Helper()
	p := newProgram(t)
	p.launch(t, attr, args...)
	return p
}

// launch starts the program under TCG. At the end of the test neither it nor any process it started
// may be left, and no data race may have been seen.
func (p *program) launch(t *testing.T, attr *syscall.SysProcAttr, args ...string) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p.launchCommand(t, attr, exec.Command(path, args...))
}

// launchCommand is launch for a command that becomes the program.
func (p *program) launchCommand(t *testing.T, attr *syscall.SysProcAttr, cmd *exec.Cmd) {
	t.Helper()
	p.cmd = cmd
	p.cmd.Dir, p.cmd.SysProcAttr = p.dir, attr
	p.cmd.Env = append(append(os.Environ(), cmd.Env...), "FIRECRACKER_QEMU_ACCEL=tcg", p.marker())
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = 10 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		p.client.CloseIdleConnections()
		p.gone(t)
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			t.Error("firecracker-qemu has a data race")
		}
		if t.Failed() {
			t.Logf("%s\n%s", &p.stdout, &p.stderr)
		}
	})
}

func newProgram(t *testing.T) *program {
	t.Helper()
	// t.TempDir's paths are too long for sockets.
	dir, err := os.MkdirTemp("", "fc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &program{dir: dir, exited: make(chan struct{})}
	p.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.path("api"))
	}}}
	return p
}

// serve runs the program with its API, and returns when that answers.
func serve(t *testing.T, attr *syscall.SysProcAttr, args ...string) *program {
	t.Helper()
	p := run(t, attr, append([]string{"--api-sock", "api"}, args...)...)
	p.ready(t)
	return p
}

// ready waits as clients do: until somebody listens, which is a moment after the file is there, and
// then for an answer.
func (p *program) ready(t *testing.T) {
	t.Helper()
	until(t, "wait for the API's socket", func() bool {
		select {
		case <-p.exited:
			t.Fatalf("firecracker-qemu ended: %s %s", &p.stdout, &p.stderr)
		default:
		}
		conn, err := net.Dial("unix", p.path("api"))
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	p.must(t, "GET", "/", "")
}

func (p *program) path(name string) string { return filepath.Join(p.dir, name) }

// marker is in the environment of the program and of what it starts.
func (p *program) marker() string { return "FCQEMU_TEST=" + p.dir }

// processes are those that carry the marker. Zombies have no environment.
func (p *program) processes() []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range files {
		environ, err := os.ReadFile(path)
		if err == nil && bytes.Contains(append(environ, 0), []byte(p.marker()+"\x00")) {
			found = append(found, filepath.Base(filepath.Dir(path)))
		}
	}
	return found
}

// gone waits until no process is left.
func (p *program) gone(t *testing.T) {
	t.Helper()
	until(t, "wait for the end of QEMU", func() bool { return len(p.processes()) == 0 })
}

// qemuPID is the one child's.
func (p *program) qemuPID(t *testing.T) int {
	t.Helper()
	for _, found := range p.processes() {
		var pid int
		if fmt.Sscan(found, &pid); pid != p.cmd.Process.Pid {
			return pid
		}
	}
	t.Fatal("there is no QEMU")
	return 0
}

// exit waits for the end and returns the exit code, -1 after a signal.
func (p *program) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-testContext(t).Done():
		t.Fatal("firecracker-qemu does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// request returns status and body.
func (p *program) request(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(testContext(t), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := p.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(got)
}

// must makes a request that succeeds.
func (p *program) must(t *testing.T, method, path, body string) string {
	t.Helper()
	status, got := p.request(t, method, path, body)
	if status != http.StatusOK && status != http.StatusNoContent {
		t.Fatalf("%s %s %s: got %d %s", method, path, body, status, got)
	}
	return got
}

// refused makes a request that gets 400 and returns its fault_message.
func (p *program) refused(t *testing.T, method, path, body string) string {
	t.Helper()
	status, got := p.request(t, method, path, body)
	var fault map[string]string
	if err := json.Unmarshal([]byte(got), &fault); err != nil || len(fault) != 1 || status != http.StatusBadRequest {
		t.Fatalf("%s %s %s: got %d %s, want 400 with a fault_message alone", method, path, body, status, got)
	}
	return fault["fault_message"]
}
