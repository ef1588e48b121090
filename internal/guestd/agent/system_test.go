package agent

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"banger/internal/guestd/nstest"
	agentv1 "banger/proto/agent/v1"
)

// os-release is looked for where os-release(5) says, /etc first.
func TestDistribution(t *testing.T) {
	root := t.TempDir()
	if got := distribution(root); got != "" {
		t.Errorf("without a file: %q", got)
	}
	for _, step := range []struct{ path, content, want string }{
		{"usr/lib", "PRETTY_NAME=Vendor", "Vendor"},
		{"etc", "PRETTY_NAME=Admin", "Admin"},
		{"etc", "ID=nameless", ""},
	} {
		if err := errors.Join(os.MkdirAll(root+"/"+step.path, 0o755),
			os.WriteFile(root+"/"+step.path+"/os-release", []byte(step.content), 0o644)); err != nil {
			t.Fatal(err)
		}
		if got := distribution(root); got != step.want {
			t.Errorf("%s with %q: got %q, want %q", step.path, step.content, got, step.want)
		}
	}
}

// What this machine's kernel says is taken as it is meant.
func TestStats(t *testing.T) {
	server, agent := serveAgent(t, "/")
	s, err := agent.Stats(t.Context(), &agentv1.StatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if int(s.Cpus) < runtime.NumCPU() || s.CpuTotalMs < s.CpuBusyMs || s.CpuTotalMs == 0 {
		t.Errorf("CPUs: %v", s)
	}
	if s.MemoryTotalBytes <= s.MemoryAvailableBytes || s.DiskTotalBytes < s.DiskAvailableBytes || s.Processes == 0 {
		t.Errorf("memory, disk, processes: %v", s)
	}
	server.config.Root = "/no/such"
	if _, err := agent.Stats(t.Context(), &agentv1.StatsRequest{}); !contains(err, "read size of root: no such file") {
		t.Errorf("a root that is not there: %v", err)
	}
	if _, err := agent.Sync(t.Context(), &agentv1.SyncRequest{}); err != nil {
		t.Error(err)
	}
}

func TestSystemRefuses(t *testing.T) {
	_, agent := serveAgent(t, "/")
	for _, ns := range []int64{0, -1} {
		_, err := agent.SetTime(t.Context(), &agentv1.SetTimeRequest{UnixNanoseconds: ns})
		checkCode(t, "set time", err, connect.CodeInvalidArgument, "not after 1970")
	}
	for _, size := range []int{0, agentv1.MaxEntropyBytes + 1} {
		_, err := agent.AddEntropy(t.Context(), &agentv1.AddEntropyRequest{Data: make([]byte, size)})
		checkCode(t, "add entropy", err, connect.CodeInvalidArgument, "want 1 to 4096 bytes")
	}
}

// A process that may not set the clock or feed the kernel is told so. Root of a user namespace of
// its own is one.
func TestSystemErrors(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWUSER) {
		return
	}
	_, agent := serveAgent(t, "/")
	_, err := agent.SetTime(t.Context(), &agentv1.SetTimeRequest{UnixNanoseconds: time.Now().UnixNano()})
	if !contains(err, "set time: operation not permitted") {
		t.Errorf("set time: %v", err)
	}
	_, err = agent.AddEntropy(t.Context(), &agentv1.AddEntropyRequest{Data: []byte("x")})
	if !contains(err, "add entropy: operation not permitted") && !contains(err, "permission denied") {
		t.Errorf("add entropy: %v", err)
	}
}

// All threads may wake late, and what is started from them may not.
func TestSlackTimers(t *testing.T) {
	if !nstest.In(t, 0) { // it lasts as long as the process
		return
	}
	if err := SlackTimers(); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, file := range []string{"/proc/self/timerslack_ns", "/proc/thread-self/timerslack_ns"} {
		b, err := os.ReadFile(file)
		if got := strings.TrimSpace(string(b)); err == nil && got != slackText(timerSlack) {
			t.Errorf("%s is %s, want %s", file, got, slackText(timerSlack))
		}
	}
	failed := errors.New("no such program")
	if err := withUsualSlack(func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("a start that failed: %v", err)
	}
}
