package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestInside talks to one running VM in all the ways there are.
func TestInside(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "box", "--memory", "1GiB", "-e", "FROM_VM=yes")
	for _, test := range []struct {
		name string
		do   func(*testing.T, *home)
	}{
		{"Exec", testExec},
		{"ExecStreams", testExecStreams},
		{"ExecLarge", testExecLarge},
		{"ExecMany", testExecMany},
		{"ExecSignals", testExecSignals},
		{"ExecClientDies", testExecClientDies},
		{"Terminal", testTerminal},
		{"Copy", testCopy},
		{"Logs", testLogs},
		{"Modules", testModules},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.do(t, h.in(t))
		})
	}
}

func testExec(t *testing.T, h *home) {
	for _, row := range []struct {
		name, want string
		code       int
		args       []string
	}{
		{"arguments", "a b|c\n", 0, []string{"box", "--", "printf", "%s|%s\n", "a b", "c"}},
		{"without dashes", "x\n", 0, []string{"box", "echo", "x"}},
		{"exit code", "", 42, []string{"box", "--", "sh", "-c", "exit 42"}},
		{"environment", "yes,over\n", 0, []string{"-e", "X=over", "box", "--", "sh", "-c", "echo $FROM_VM,$X"}},
		{"folder", "/usr/lib\n", 0, []string{"-w", "/usr/lib", "box", "--", "pwd"}},
		{"user", "nobody /nonexistent\n", 0, []string{"-u", "nobody", "-w", "/", "box", "--", "sh", "-c", "echo $(id -un) $HOME"}},
		{"by id", "ok\n", 0, []string{h.vm("box").ID[:6], "--", "echo", "ok"}},
		{"timers as everywhere", "50000\n", 0, []string{"box", "--", "cat", "/proc/self/timerslack_ns"}},
		{"no input", "0\n", 0, []string{"box", "--", "sh", "-c", "wc -c"}},
		{"killed", "", 137, []string{"box", "--", "sh", "-c", "kill -9 $$"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if r := h.in(t).try(append([]string{"exec"}, row.args...)...); r.stdout != row.want || r.code != row.code {
				t.Errorf("got %q and exit status %d, want %q and %d\n%s", r.stdout, r.code, row.want, row.code, r.stderr)
			}
		})
	}
	h.fails(127, "no-such-program", "exec", "box", "--", "no-such-program")
	h.fails(126, "/etc/passwd", "exec", "box", "--", "/etc/passwd")
	h.fails(1, "user", "exec", "-u", "stranger", "box", "--", "true")
	h.fails(1, "/no/such/folder", "exec", "-w", "/no/such/folder", "box", "--", "true")
}

func testExecStreams(t *testing.T, h *home) {
	r := h.try("exec", "box", "--", "sh", "-c", "echo out; echo err >&2; echo out2")
	if r.stdout != "out\nout2\n" || r.stderr != "err\n" {
		t.Errorf("got %+v", r)
	}
	// The other side of a closed pipe: the command ends, and so do we.
	pipe := exec.CommandContext(t.Context(), "sh", "-c", filepath.Join(binDir, "banger")+" exec box -- yes | head -n 2")
	pipe.Env = h.command(t.Context()).Env
	if out, err := pipe.Output(); err != nil || string(out) != "y\ny\n" {
		t.Errorf("yes | head: %q, %v", out, err)
	}
}

// testExecLarge sends 1 GiB out and 256 MiB in; neither may make the daemon or the agent grow.
func testExecLarge(t *testing.T, h *home) {
	const out, in, most = 1 << 30, 256 << 20, 64 << 20
	before := h.daemon().RSSBytes
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	command := h.command(ctx, "exec", "box", "--", "head", "-c", fmt.Sprint(out), "/dev/zero")
	counted := &counter{}
	command.Stdout, command.Stderr = counted, os.Stderr
	began := time.Now()
	if err := command.Run(); err != nil || counted.n != out {
		t.Fatalf("%d bytes came out, %v; want %d", counted.n, err, out)
	}
	t.Logf("1 GiB out in %s", time.Since(began))

	source := io.LimitReader(zeros{}, in)
	want := sha256.New()
	if _, err := io.Copy(want, io.LimitReader(zeros{}, in)); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	r := h.run(ctx, source, "exec", "-i", "box", "--", "sha256sum")
	if got, _, _ := strings.Cut(r.stdout, " "); r.code != 0 || got != fmt.Sprintf("%x", want.Sum(nil)) {
		t.Errorf("sum of the input is %q\n%s", r.stdout, r.stderr)
	}
	t.Logf("256 MiB in in %s", time.Since(began))
	if after := h.daemon().RSSBytes; after > before+most {
		t.Errorf("the daemon grew from %d to %d bytes", before, after)
	}
	agent := strings.Fields(h.banger("exec", "box", "--", "sh", "-c", "grep -h VmHWM /proc/$(pidof banger-guest | cut -d' ' -f1)/status"))
	if len(agent) < 2 || len(agent[1]) > 5 { // kB: below 100 MB
		t.Errorf("the agent's memory peaked at %v", agent)
	}
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func testExecMany(t *testing.T, h *home) {
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			want := fmt.Sprintf("number %d\n", i)
			if r := h.try("exec", "box", "--", "sh", "-c", "sleep 1; echo number "+fmt.Sprint(i)); r.stdout != want || r.code != 0 {
				t.Errorf("got %+v, want %q", r, want)
			}
		})
	}
	group.Wait()
}

// testExecSignals sends a signal to a command that does not read the input which waits for it.
func testExecSignals(t *testing.T, h *home) {
	command := h.command(t.Context(), "exec", "-i", "box", "--", "sh", "-c", "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
	command.Stdin = zeros{}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(stdout, ready); err != nil {
		t.Fatal(err)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(stdout)
	if err != nil || string(rest) != "caught\n" {
		t.Errorf("the command said %q, %v", rest, err)
	}
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit status %d, want 9", code)
	}
}

// testExecClientDies: a command does not outlive its client.
func testExecClientDies(t *testing.T, h *home) {
	command := h.command(t.Context(), "exec", "box", "--", "sleep", "98765")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	sleeps := func() bool { return h.try("exec", "box", "--", "pgrep", "-f", "^sleep 98765").code == 0 }
	eventually(t, "the command runs", sleeps)
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	eventually(t, "the command is gone", func() bool { return !sleeps() })
}

// testTerminal uses tmux as the terminal of a user: prompt, size, resize, Ctrl-C, exit. It types as
// a person does, when the shell is ready: a terminal throws away what was typed ahead of a Ctrl-C.
func testTerminal(t *testing.T, h *home) {
	socket := filepath.Join(h.dir, "tmux.sock")
	tmux := func(args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), "tmux", append([]string{"-f", "/dev/null", "-S", socket}, args...)...)
		command.Env = append(h.command(t.Context()).Env, "SHELL=/bin/sh")
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	tmux("new-session", "-d", "-x", "100", "-y", "30", filepath.Join(binDir, "banger")+" shell box; echo status $?; read x")
	defer tmux("kill-server")
	defer func() {
		if t.Failed() {
			t.Logf("the terminal at the end:\n%s", tmux("capture-pane", "-p"))
		}
	}()
	shows := func(pattern string) {
		t.Helper()
		wanted := regexp.MustCompile(pattern)
		eventually(t, fmt.Sprintf("the terminal shows %q", pattern), func() bool { return wanted.MatchString(tmux("capture-pane", "-p")) })
	}
	const prompt = `root@box:~#\s*$`
	shows(prompt)
	tmux("send-keys", "stty size; echo $TERM", "Enter")
	shows(`\n30 100\n.*\n` + prompt)
	tmux("resize-window", "-x", "90", "-y", "20")
	eventually(t, "the machine's terminal has the new size", func() bool {
		return h.try("exec", "box", "--", "sh", "-c", "stty size </dev/pts/0").stdout == "20 90\n"
	})
	tmux("send-keys", "clear; stty size", "Enter")
	shows(`^20 90\n` + prompt)
	tmux("send-keys", "sh -c 'echo asleep; exec sleep 1000'; echo not reached", "Enter")
	shows(`\nasleep\n`)
	tmux("send-keys", "C-c")
	shows(`\n\^C\s+` + prompt)
	tmux("send-keys", "echo still here", "Enter")
	shows(`\nstill here\n` + prompt)
	tmux("send-keys", "exit 5", "Enter")
	shows(`\nstatus 5\n`)
}

func testCopy(t *testing.T, h *home) {
	src := filepath.Join(h.dir, "src")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(src, "sub"), 0o750),
		os.WriteFile(filepath.Join(src, "file"), []byte("content"), 0o640),
		os.WriteFile(filepath.Join(src, "sub", "tool"), []byte("#!/bin/sh\necho tool\n"), 0o755),
		os.Symlink("file", filepath.Join(src, "link")),
		os.Chtimes(filepath.Join(src, "file"), time.Unix(1e9, 0), time.Unix(1e9, 0)),
	); err != nil {
		t.Fatal(err)
	}
	h.banger("cp", src, "box:/srv")
	if out := h.banger("exec", "box", "--", "sh", "-c", "cd /srv/src && stat -c '%n %a %Y' file && readlink link && sub/tool"); out != "file 640 1000000000\nfile\ntool\n" {
		t.Errorf("in the machine: %q", out)
	}
	back := filepath.Join(h.dir, "back")
	h.banger("cp", "box:/srv/src", back)
	info, err := os.Lstat(filepath.Join(back, "file"))
	if err != nil || info.Mode().Perm() != 0o640 || info.ModTime().Unix() != 1e9 {
		t.Errorf("back here: %v, %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(back, "link")); err != nil || to != "file" {
		t.Errorf("the link points to %q, %v", to, err)
	}
	archive := h.banger("cp", "box:/srv/src", "-")
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	if r := h.run(ctx, strings.NewReader(archive), "cp", "-", "box:/tmp"); r.code != 0 {
		t.Errorf("cp - box:/tmp: %+v", r)
	}
	if out := h.banger("exec", "box", "--", "cat", "/tmp/src/file"); out != "content" {
		t.Errorf("from the stream: %q", out)
	}
	h.fails(1, "/no/such", "cp", "box:/no/such", h.dir)
	h.fails(1, "no/such", "cp", filepath.Join(h.dir, "no/such"), "box:/tmp")
}

func testLogs(t *testing.T, h *home) {
	h.banger("exec", "box", "--", "sh", "-c", "echo written to the console > /dev/console")
	eventually(t, "the console's log", func() bool { return strings.Contains(h.banger("logs", "box"), "written to the console") })
	follow := h.command(t.Context(), "logs", "-f", "box")
	var seen bytes.Buffer
	follow.Stdout = &seen
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	h.banger("stop", "box")
	if err := follow.Wait(); err != nil {
		t.Errorf("logs -f ended with %v", err)
	}
	if !strings.Contains(seen.String(), "written to the console") {
		t.Errorf("logs -f showed %q", seen.String())
	}
	h.banger("start", "box")
}

func testModules(t *testing.T, h *home) {
	h.banger("exec", "box", "--", "sh", "-c", "modprobe veth && modprobe br_netfilter && grep -q ^veth /proc/modules")
	// The modules drive and the image are read-only, the rest is the VM's own.
	h.fails(1, "", "exec", "box", "--", "sh", "-c", "touch /lib/modules/x")
	h.banger("exec", "box", "--", "sh", "-c", "mkdir -p /var/lib/docker && touch /etc/x /root/x /home/x /var/lib/docker/x")
}
