package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/qemu/qemutest"
	"banger/internal/vsockmux"
)

func TestMain(m *testing.M) {
	if plan := os.Getenv("QEMU_TEST_OWNER"); plan != "" {
		ownAndWait(plan)
	}
	if act := os.Getenv(fakeAct); act != "" {
		os.Exit(playQEMU(act, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// console is the guest's output, shown when the test fails.
type console struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(b)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

func testPlan(t testing.TB) Plan {
	t.Helper()
	khz, err := measureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return Plan{
		Accel: TCG, TSCKHz: khz, VCPUs: 1, MemoryMiB: 256,
		Kernel: qemutest.Kernel(t), Initrd: qemutest.Initrd(t), BootArgs: qemutest.BootArgs,
	}
}

// boot runs the test guest and returns it with a session to it.
func boot(t testing.TB, plan Plan) (*Machine, *vsockmux.Session) {
	t.Helper()
	ctx := testContext(t)
	out := &console{}
	m, err := Start(ctx, DefaultBinary, plan, nil, vsockmux.PortName, Stdio{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		if t.Failed() {
			t.Log(out)
		}
	})
	if err := m.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	session, err := vsockmux.Host(ctx, m.Vsock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return m, session
}

func dialGuest(t testing.TB, s *vsockmux.Session, command string) net.Conn {
	t.Helper()
	conn, err := s.Dial(testContext(t), qemutest.Port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintln(conn, command); err != nil {
		t.Fatal(err)
	}
	return conn
}

func ask(t testing.TB, s *vsockmux.Session, command string) string {
	t.Helper()
	conn := dialGuest(t, s, command)
	got, err := io.ReadAll(conn)
	conn.Close()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return string(got)
}

func disk(t testing.TB, content string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk, with comma")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// One VM shows all that a machine can do; booting takes seconds.
func TestMachine(t *testing.T) {
	plan := testPlan(t)
	first := disk(t, "first", 1<<20)
	plan.Drives = []Drive{{ID: "a", Path: first}, {ID: "b", Path: disk(t, "second", 1<<20), ReadOnly: true}}
	plan.Entropy = &Entropy{MaxBytes: 1 << 16, PeriodMs: 100}
	plan.Balloon = &Balloon{DeflateOnOOM: true}
	m, s := boot(t, plan)
	ctx := testContext(t)

	t.Run("drives", func(t *testing.T) {
		if a, b := ask(t, s, "read /dev/vda 5"), ask(t, s, "read /dev/vdb 6"); a != "first" || b != "second" {
			t.Errorf("drives hold %q and %q", a, b)
		}
		if got := ask(t, s, "write /dev/vda FIRST"); got != "done" {
			t.Error(got)
		}
		if got, _ := os.ReadFile(first); !bytes.HasPrefix(got, []byte("FIRST")) {
			t.Error("what the guest wrote and synced is not in the file")
		}
		if got := ask(t, s, "write /dev/vdb x"); !strings.Contains(got, "error") {
			t.Errorf("writing to a read-only drive: got %q", got)
		}
	})
	t.Run("replace drive", func(t *testing.T) {
		for i, size := range []int64{2 << 20, 3 << 20} {
			path := disk(t, fmt.Sprint("new", i), size)
			if err := m.ReplaceDrive(ctx, Drive{ID: "a", Path: path}, size); err != nil {
				t.Fatal(err)
			}
			// The guest's driver hears of it by an interrupt.
			wait(ctx, t, func() bool { return ask(t, s, "size /dev/vda") == fmt.Sprint(size) })
			if got, want := ask(t, s, "read /dev/vda 4"), fmt.Sprint("new", i); got != want {
				t.Errorf("content is %q, want %q", got, want)
			}
		}
		if err := m.ReplaceDrive(ctx, Drive{ID: "a", Path: "/nonexistent"}, 1); err == nil {
			t.Error("a file that does not exist was accepted")
		}
	})
	t.Run("limits", func(t *testing.T) {
		if err := m.SetDriveLimits(ctx, "a", Limits{
			BytesPerSecond: 1 << 30, BytesBurst: 2 << 30,
			OpsPerSecond: 1000,
		}); err != nil {
			t.Error(err)
		}
		if err := m.SetDriveLimits(ctx, "a", Limits{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("balloon", func(t *testing.T) {
		if err := m.SetBalloon(ctx, 200); err != nil {
			t.Fatal(err)
		}
		if err := m.PollBalloon(ctx, 1); err != nil {
			t.Fatal(err)
		}
		wait(ctx, t, func() bool {
			left, err := m.BalloonRemaining(ctx)
			return err == nil && left == 200<<20
		})
		wait(ctx, t, func() bool {
			stats, err := m.BalloonStats(ctx)
			return err == nil && stats["stat-total-memory"] > 0
		})
	})
	t.Run("pause", func(t *testing.T) {
		conn := dialGuest(t, s, "echo")
		if err := errors.Join(m.Pause(ctx), m.Pause(ctx)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "ping")
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a paused guest answered: %d, %v", n, err)
		}
		conn.SetReadDeadline(time.Time{})
		if err := errors.Join(m.Continue(ctx), m.Continue(ctx)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Error(err)
		}
	})
	t.Run("guest dials", func(t *testing.T) {
		s.Handle(func(r *vsockmux.Request) {
			if r.Port != 1234 {
				r.Refuse()
				return
			}
			if conn, err := r.Accept(); err == nil {
				got, _ := io.ReadAll(conn)
				fmt.Fprintf(conn, "you said %s", got)
				conn.Close()
			}
		})
		if got := ask(t, s, "dial 1234"); got != "you said hello" {
			t.Error(got)
		}
		if got := ask(t, s, "dial 1"); !strings.Contains(got, "refused") {
			t.Error(got)
		}
	})
	t.Run("clock", func(t *testing.T) {
		uptime := func() (seconds float64) {
			fmt.Sscan(ask(t, s, "read /proc/uptime 8"), &seconds)
			return seconds
		}
		start, before := time.Now(), uptime()
		for time.Since(start) < time.Second {
			ask(t, s, "exec")
		}
		guest, host := uptime()-before, time.Since(start).Seconds()
		if ratio := guest / host; ratio < 0.8 || ratio > 1.2 {
			t.Errorf("the guest's clock runs at %.2f of the host's: the measured TSC rate is wrong", ratio)
		}
	})
	t.Run("power off", func(t *testing.T) {
		dialGuest(t, s, "poweroff")
		if err := m.Err(); err != nil {
			t.Error(err)
		}
	})
}

// wait polls until ok, with the context's deadline.
func wait(ctx context.Context, t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-tick.C:
		}
	}
}

func TestGuestEnds(t *testing.T) {
	for _, command := range []string{"reboot", "panic"} {
		t.Run(command, func(t *testing.T) {
			m, s := boot(t, testPlan(t))
			dialGuest(t, s, command)
			if err := m.Err(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("ctrl-alt-del", func(t *testing.T) {
		m, _ := boot(t, testPlan(t))
		if err := m.CtrlAltDel(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if err := m.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestStartFails(t *testing.T) {
	tests := []struct {
		name, binary string
		change       func(*Plan)
		want         string
	}{
		{"no such QEMU", "/nonexistent", func(*Plan) {}, "no such file"},
		{"no kernel", DefaultBinary, func(p *Plan) { p.Kernel = "/nonexistent" }, "/nonexistent"},
		{"no drive", DefaultBinary, func(p *Plan) { p.Drives = []Drive{{ID: "a", Path: "/nonexistent"}} }, "No such file"},
		{"too many devices", DefaultBinary, func(p *Plan) { p.Drives = make([]Drive, MaxDevices+1) }, "places for 24"},
		{"more memory than there is", DefaultBinary, func(p *Plan) { p.MemoryMiB = 1 << 40 }, "qemu ended"},
		{"not QEMU", "/bin/true", func(*Plan) {}, "exit status 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan := Plan{Accel: TCG, TSCKHz: 1, VCPUs: 1, MemoryMiB: 128, Kernel: qemutest.Kernel(t)}
			tt.change(&plan)
			m, err := Start(testContext(t), tt.binary, plan, nil, "", Stdio{})
			if err == nil {
				m.Kill()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		plan := Plan{Accel: TCG, TSCKHz: 1, VCPUs: 1, MemoryMiB: 128, Kernel: qemutest.Kernel(t)}
		if _, err := Start(ctx, DefaultBinary, plan, nil, "", Stdio{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
}

func TestQEMUKilled(t *testing.T) {
	plan := Plan{Accel: TCG, TSCKHz: 1, VCPUs: 1, MemoryMiB: 128, Kernel: qemutest.Kernel(t)}
	m, err := Start(testContext(t), DefaultBinary, plan, nil, "", Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	syscall.Kill(m.PID(), syscall.SIGKILL)
	if err := m.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v, want an error that says killed", err)
	}
	if err := m.Pause(testContext(t)); !errors.Is(err, ErrMonitorClosed) {
		t.Errorf("command to a dead QEMU: got %v, want ErrMonitorClosed", err)
	}
}

// ownAndWait is the body of the child in TestDiesWithOwner.
func ownAndWait(kernel string) {
	plan := Plan{Accel: TCG, TSCKHz: 1, VCPUs: 1, MemoryMiB: 128, Kernel: kernel}
	m, err := Start(context.Background(), DefaultBinary, plan, nil, "", Stdio{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(m.PID())
	select {}
}

func TestDiesWithOwner(t *testing.T) {
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), "QEMU_TEST_OWNER="+qemutest.Kernel(t))
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	owner.Process.Kill()
	owner.Wait()
	wait(testContext(t), t, func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(state), ") Z ")
	})
}

// A port that was opened again is not closed: who hears of the old news would give up the new
// session.
func TestPortClosed(t *testing.T) {
	m := &Machine{closed: make(chan struct{}, 1)}
	tests := []struct {
		events string // o opened, c closed
		want   bool
	}{{"", false}, {"o", false}, {"oc", true}, {"occ", true}, {"oco", false}, {"ococ", true}}
	for _, tt := range tests {
		for _, e := range tt.events {
			m.event(Event{Name: "VSERPORT_CHANGE", Data: fmt.Appendf(nil, `{"open":%t,"id":"vsockport"}`, e == 'o')})
		}
		got := false
		select {
		case <-m.PortClosed():
			got = true
		default:
		}
		if got != tt.want {
			t.Errorf("%q: closed is %t, want %t", tt.events, got, tt.want)
		}
	}
}
