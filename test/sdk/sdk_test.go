// Package sdk drives firecracker-qemu with the public, unmodified Firecracker Go SDK: a client
// which nobody here wrote. It is a module of its own, since the product must not depend on the SDK.
package sdk

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	"github.com/firecracker-microvm/firecracker-go-sdk/client/models"
	"github.com/firecracker-microvm/firecracker-go-sdk/vsock"
	"github.com/sirupsen/logrus"

	"banger/internal/qemu/qemutest"
)

// binary is built once, and has looked at KVM once, so that the SDK's time limits hold.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sdk-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "firecracker-qemu")
	build := exec.Command("go", "build", "-o", binary, "./cmd/firecracker-qemu")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	// The compiler's cache, which qemutest needs again, stays where it is.
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		panic(err)
	}
	os.Setenv("GOCACHE", strings.TrimSpace(string(cache)))
	os.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	probe := exec.Command(binary, "--probe-accel", os.Getenv("BANGER_TEST_VMLINUX"))
	if out, err := probe.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

type vm struct {
	*firecracker.Machine
	vsock string
	pid   int
}

// boot starts the test guest as any user of the SDK would.
func boot(t *testing.T) *vm {
	t.Helper()
	ctx, dir := testContext(t), t.TempDir()
	v := &vm{vsock: filepath.Join(dir, "vsock")}
	disk := newDisk(t, "first", 1<<20)
	config := firecracker.Config{
		SocketPath:      filepath.Join(dir, "api"),
		LogPath:         touch(t, dir, "log"),
		LogLevel:        "Info",
		MetricsPath:     touch(t, dir, "metrics"),
		KernelImagePath: qemutest.Kernel(t),
		InitrdPath:      qemutest.Initrd(t),
		KernelArgs:      qemutest.BootArgs,
		Drives: []models.Drive{{
			DriveID: firecracker.String("disk"), PathOnHost: &disk, IsRootDevice: firecracker.Bool(false), IsReadOnly: firecracker.Bool(false),
		}},
		VsockDevices: []firecracker.VsockDevice{{ID: "vsock", Path: v.vsock, CID: 3}},
		MachineCfg:   models.MachineConfiguration{VcpuCount: firecracker.Int64(1), MemSizeMib: firecracker.Int64(256)},
	}
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		console.Close()
		if text, err := os.ReadFile(console.Name()); err == nil && t.Failed() {
			t.Logf("%s", text)
		}
	})
	command := firecracker.VMCommandBuilder{}.WithBin(binary).WithSocketPath(config.SocketPath).WithStdout(console).WithStderr(console).Build(context.Background())
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	v.Machine, err = firecracker.NewMachine(ctx, config, firecracker.WithProcessRunner(command), firecracker.WithLogger(logrus.NewEntry(logger)))
	if err != nil {
		t.Fatal(err)
	}
	v.Handlers.FcInit = v.Handlers.FcInit.Append(firecracker.NewCreateBalloonHandler(0, true, 1))
	if err := v.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.StopVMM() })
	if v.pid, err = v.PID(); err != nil {
		t.Fatal(err)
	}
	return v
}

func touch(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newDisk(t *testing.T, content string, size int64) string {
	t.Helper()
	path := touch(t, t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// dial retries as the SDK does: until the guest's agent is there the VMM closes the connection.
func (v *vm) dial(t *testing.T, command string) net.Conn {
	t.Helper()
	conn, err := vsock.DialContext(testContext(t), v.vsock, qemutest.Port, vsock.WithRetryTimeout(50*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintln(conn, command); err != nil {
		t.Fatal(err)
	}
	return conn
}

func (v *vm) ask(t *testing.T, command string) string {
	t.Helper()
	got, err := io.ReadAll(v.dial(t, command))
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestLife(t *testing.T) {
	v := boot(t)
	ctx := testContext(t)
	if got := v.ask(t, "read /dev/vda 5"); got != "first" {
		t.Errorf("the drive holds %q", got)
	}
	info, err := v.DescribeInstanceInfo(ctx)
	if err != nil || *info.State != models.InstanceInfoStateRunning {
		t.Errorf("state is %+v, %v", info, err)
	}
	version, err := v.GetFirecrackerVersion(ctx)
	if err != nil || *info.VmmVersion != version {
		t.Errorf("version is %s, %v", version, err)
	}

	if err := v.PauseVM(ctx); err != nil {
		t.Fatal(err)
	}
	if info, err := v.DescribeInstanceInfo(ctx); err != nil || *info.State != models.InstanceInfoStatePaused {
		t.Errorf("state is %+v, %v", info, err)
	}
	if err := v.ResumeVM(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.UpdateGuestDrive(ctx, "disk", newDisk(t, "other", 2<<20)); err != nil {
		t.Fatal(err)
	}
	if got := v.ask(t, "read /dev/vda 5"); got != "other" {
		t.Errorf("the new drive holds %q", got)
	}
	if err := v.UpdateBalloon(ctx, 8); err != nil {
		t.Fatal(err)
	}
	if b, err := v.GetBalloonConfig(ctx); err != nil || *b.AmountMib != 8 {
		t.Errorf("balloon is %+v, %v", b, err)
	}
	if s, err := v.GetBalloonStats(ctx); err != nil || *s.TargetMib != 8 {
		t.Errorf("balloon statistics are %+v, %v", s, err)
	}
	if err := v.UpdateBalloonStats(ctx, 2); err != nil {
		t.Error(err)
	}
	if err := v.CreateSnapshot(ctx, "mem", "state"); err == nil || !strings.Contains(err.Error(), "not supported") {
		t.Errorf("snapshot: got %v, want not supported", err)
	}

	// Ctrl-Alt-Del makes the guest reset, which ends the VMM with status 0.
	if err := v.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(ctx); err != nil {
		t.Errorf("Wait after shutdown: %v", err)
	}
	v.gone(t, nil)
}

func TestSIGTERM(t *testing.T) {
	v := boot(t)
	v.ask(t, "exec")
	children := childrenOf(t, v.pid)
	if len(children) != 1 {
		t.Fatalf("the VMM's children are %v, want one QEMU", children)
	}
	if err := v.StopVMM(); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(testContext(t)); err == nil {
		t.Error("Wait after SIGTERM: want an error")
	}
	v.gone(t, children)
}

func childrenOf(t *testing.T, pid int) []string {
	t.Helper()
	var children []string
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		children = append(children, strings.Fields(string(text))...)
	}
	return children
}

// gone waits until neither the VMM nor its children live.
func (v *vm) gone(t *testing.T, children []string) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, pid := range append(children, fmt.Sprint(v.pid)) {
		for alive(pid) {
			select {
			case <-ctx.Done():
				t.Fatalf("process %s lives on", pid)
			case <-tick.C:
			}
		}
	}
}

func alive(pid string) bool {
	var n int
	fmt.Sscan(pid, &n)
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return syscall.Kill(n, 0) == nil && err == nil && !strings.Contains(string(stat), ") Z ")
}
