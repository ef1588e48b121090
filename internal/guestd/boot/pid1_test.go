package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/nstest"
	"banger/internal/guestd/system"
)

const testFolder = "BANGER_TEST_FOLDER" // that of the first run, in the environment of the second

// asPID1 gives the second run a /run and a /proc of its own, and the agent that script is. What
// asks the kernel to remount all file systems read-only writes into a file.
func asPID1(t *testing.T, script string) {
	t.Helper()
	if os.Getpid() != 1 { // or the signals to all processes would be to this machine's
		t.Fatalf("PID %d in a namespace of its own", os.Getpid())
	}
	for _, dir := range []string{"/run", "/proc"} {
		if err := (mount{"tmpfs", dir, "tmpfs", 0, "mode=0755"}).do(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(os.Getenv(testFolder), "sysrq"), "/proc/sysrq-trigger"); err != nil {
		t.Fatal(err)
	}
	write(t, system.Binary, "#!/bin/sh\ncd "+os.Getenv(testFolder)+"\n"+script)
	if err := os.Chmod(system.Binary, 0o755); err != nil {
		t.Fatal(err)
	}
}

// An agent that dies is started again, what it leaves behind is reaped, and whoever asks by SIGTERM
// ends the machine: all processes first, also one that does not want to, then the disks' dirt, then
// a reset.
func TestServeAsInit(t *testing.T) {
	folder := t.TempDir()
	if !nstest.InUntil(t, syscall.CLONE_NEWPID, unix.SIGHUP, testFolder+"="+folder) {
		for name, want := range map[string]string{"agents": "agent\nagent\n", "terminated": "yes\n", "sysrq": "u"} {
			if got, err := os.ReadFile(filepath.Join(folder, name)); string(got) != want {
				t.Errorf("%s: %q, %v, want %q", name, got, err, want)
			}
		}
		return
	}
	// The first agent leaves an orphan and dies. The second one has a process that obeys, one that
	// does not, and asks.
	asPID1(t, `
		echo agent >> agents
		if [ "$(wc -l < agents)" = 1 ]; then (sh -c 'exit 7' &); exit 3; fi
		mkfifo ready
		exec 3<> ready
		sh -c 'trap "echo yes > terminated; exit" TERM; echo >&3; sleep 1000 & wait' &
		sh -c 'trap "" TERM; echo >&3; exec sleep 1000' &
		read obeys <&3
		read refuses <&3
		kill -TERM 1
		exec sleep 1000
	`)
	t.Fatal(serveAsInit(t.Context(), slog.New(slog.DiscardHandler)))
}

func TestServeAsInitErrors(t *testing.T) {
	if !nstest.In(t, syscall.CLONE_NEWPID) {
		return
	}
	asPID1(t, "exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serveAsInit(ctx, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ends: %v", err)
	}
	if err := os.Remove(system.Binary); err != nil {
		t.Fatal(err)
	}
	checkErr(t, serveAsInit(t.Context(), slog.New(slog.DiscardHandler)), "start agent: fork/exec "+system.Binary)
}

// reap tells of each child once, and knows when the last one has gone.
func TestReap(t *testing.T) {
	if !nstest.In(t, syscall.CLONE_NEWPID) {
		return
	}
	asPID1(t, "read line")
	none := func(pid int) { t.Errorf("reaped %d where nobody has ended", pid) }
	if reap(none) {
		t.Error("there are children before the first")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	pids := map[int]bool{}
	for range 3 {
		pid, err := syscall.ForkExec("/bin/cat", []string{"cat"}, &syscall.ProcAttr{Files: []uintptr{r.Fd(), 1, 2}})
		if err != nil {
			t.Fatal(err)
		}
		pids[pid] = true
	}
	r.Close()
	if !reap(none) {
		t.Error("nobody is left, while three wait for their input")
	}
	w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for left := true; left && ctx.Err() == nil; {
		left = reap(func(pid int) { delete(pids, pid) })
	}
	if len(pids) != 0 {
		t.Errorf("not reaped: %v", pids)
	}
}

// The agent gets a session, a PATH and nothing else of PID 1's environment.
func TestStartAgent(t *testing.T) {
	folder := t.TempDir()
	if !nstest.InUntil(t, syscall.CLONE_NEWPID, unix.SIGHUP, testFolder+"="+folder, "SECRET=of PID 1") {
		got, err := os.ReadFile(filepath.Join(folder, "agent"))
		want := "agent / PATH=" + system.DefaultPath
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("the agent is %q, %v, want %q", got, err, want)
		}
		record, err := system.ReadRecord(filepath.Join(folder, "boot.json"))
		if err != nil || record.Init != system.InitSystemd || len(record.Stages) != 1 {
			t.Errorf("the record is %+v, %v", record, err)
		}
		return
	}
	// Of two agents the later one asks for the end: by then PID 1 takes signals.
	asPID1(t, `
		if mkdir one; then
			cp /run/banger/boot.json .
			echo "$* $OLDPWD" $(env -u PWD -u OLDPWD env) > agent
			: > written
		else
			until [ -e written ]; do :; done
			kill -TERM 1
		fi
	`)
	s := &state{log: slog.New(slog.DiscardHandler), init: Init{Kind: system.InitSystemd}}
	s.record.Init = s.init.Kind
	s.record.Add("find disks", time.Second, 2*time.Second)
	if err := s.startAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	// An init that there is would be in this process from here on. Of the images that have none it
	// is this one, which starts an agent of its own.
	s.init.Kind = system.InitNone
	t.Fatal(s.startInit(t.Context()))
}

// A step that fails ends the boot: one line on the console that names the step, and a reset. What
// came before it is not undone, for nothing is left of it.
func TestRunStopsAtAStep(t *testing.T) {
	folder := t.TempDir()
	if !nstest.InUntil(t, syscall.CLONE_NEWPID, unix.SIGHUP, testFolder+"="+folder) {
		const want = "banger-guest: boot stopped: find disks: no drive with the ext4 label \"banger-image\" " +
			"(there is: no virtio drive at all)\n"
		if got, err := os.ReadFile(filepath.Join(folder, "console")); string(got) != want {
			t.Errorf("the console has %q, %v, want %q", got, err, want)
		}
		return
	}
	console, err := os.Create(filepath.Join(os.Getenv(testFolder), "console"))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getpid() != 1 { // or the reset would be this machine's
		t.Fatalf("PID %d in a namespace of its own", os.Getpid())
	}
	inInitramfs(t)
	kernelFilesystems = nil // those of inInitramfs, in which there is no drive
	os.Stderr = console
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody waits for drives
	Run(ctx, slog.New(slog.DiscardHandler))
}
