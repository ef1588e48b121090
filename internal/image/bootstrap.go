package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/internal/hostinfo"
	"banger/internal/progress"
)

const (
	// stopGrace is how long mmdebstrap may clean up after itself before it is killed.
	stopGrace = 15 * time.Second

	tailLines     = 15
	tailLineBytes = 500
)

// bootstrap is a running mmdebstrap.
type bootstrap struct {
	ctx    context.Context
	cmd    *exec.Cmd
	tar    io.Reader
	output chan struct{} // closed when standard error was read to its end
	tail   []string      // last lines of it; read after output is closed
}

// startBootstrap starts mmdebstrap in a process group of its own; the end of ctx ends the whole
// group. wait must be called, after tar was read to its end or ctx ended.
func startBootstrap(ctx context.Context, args []string, work string, stage *progress.Stage) (*bootstrap, error) {
	tool, err := hostinfo.FindTool("mmdebstrap", "mmdebstrap")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = work
	cmd.Env = environment(os.Environ(), work)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return signalGroup(cmd, syscall.SIGTERM) } // it cleans up after itself
	tar, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	messages, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start mmdebstrap: %w", err)
	}
	b := &bootstrap{ctx: ctx, cmd: cmd, tar: tar, output: make(chan struct{})}
	go b.follow(messages, stage)
	go b.enforce()
	return b, nil
}

// enforce kills what is left of the group when it does not heed SIGTERM. Without it a process that
// ignores the signal would keep both pipes open, and their readers waiting, for ever.
func (b *bootstrap) enforce() {
	select {
	case <-b.output:
		return
	case <-b.ctx.Done():
	}
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-b.output:
	case <-grace.C:
		_ = signalGroup(b.cmd, syscall.SIGKILL) // it can only be gone by itself meanwhile
	}
}

func signalGroup(cmd *exec.Cmd, s syscall.Signal) error {
	err := syscall.Kill(-cmd.Process.Pid, s)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// environment is the host's, with what a reproducible build needs; apt and dpkg in Debian's C
// locale can be read by follow. The sbin folders are added for users that lack them.
func environment(host []string, work string) []string {
	env := []string{"TMPDIR=" + work, "LC_ALL=C.UTF-8", "SOURCE_DATE_EPOCH=" + strconv.Itoa(buildEpoch)}
	for _, kv := range host {
		switch name, value, _ := strings.Cut(kv, "="); name {
		case "TMPDIR", "LC_ALL", "SOURCE_DATE_EPOCH":
		case "PATH":
			env = append(env, "PATH="+value+":/usr/local/sbin:/usr/sbin:/sbin")
		default:
			env = append(env, kv)
		}
	}
	return env
}

// follow reads mmdebstrap's messages: the last ones are kept for an error, and progress is told.
func (b *bootstrap) follow(messages io.Reader, stage *progress.Stage) {
	defer close(b.output)
	lines := bufio.NewReader(messages)
	count := 0
	for {
		line, err := readLine(lines)
		if line != "" {
			b.tail = append(b.tail, line)
			b.tail = b.tail[max(0, len(b.tail)-tailLines):]
		}
		if name, ok := strings.CutPrefix(line, "Setting up "); ok {
			count++
			name, _, _ = strings.Cut(name, " ")
			stage.Detail(fmt.Sprintf("%d packages, %s", count, name))
		} else if step, ok := strings.CutPrefix(line, "I: "); ok && strings.HasSuffix(step, "...") {
			stage.Detail(strings.TrimSuffix(step, "...")) // the others are not steps but remarks
		}
		if err != nil {
			return
		}
	}
}

// readLine returns the next line, cut to tailLineBytes, without its end.
func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part[:min(len(part), tailLineBytes-len(line))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return strings.TrimSpace(string(line)), err
		}
	}
}

// wait waits for the end of the whole process group and reports how it ended.
func (b *bootstrap) wait() error {
	<-b.output // all writers of standard error are gone, at the latest stopGrace after the end of ctx
	if b.ctx.Err() != nil {
		// Before Wait, while the leader's pid can not be another's: what closed its pipes and lives
		// on.
		_ = signalGroup(b.cmd, syscall.SIGKILL)
	}
	err := b.cmd.Wait()
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if err != nil {
		return fmt.Errorf("run mmdebstrap: %w:\n%s", err, strings.Join(b.tail, "\n"))
	}
	return nil
}

// removeWork removes a work folder with whatever a killed build left in it. Files of subordinate
// ids are removed in a namespace that has these ids.
func removeWork(ctx context.Context, work string) error {
	err := os.RemoveAll(work)
	if err == nil || os.Getuid() == 0 {
		return err
	}
	tool, missing := hostinfo.FindTool("mmdebstrap", "mmdebstrap")
	if missing != nil {
		return err
	}
	entries, _ := filepath.Glob(filepath.Join(work, "*"))
	args := append([]string{"--unshare-helper", "/bin/rm", "-rf", "--"}, entries...)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if out, helper := exec.CommandContext(ctx, tool, args...).CombinedOutput(); helper != nil {
		return fmt.Errorf("remove build folder %s: %w: %.300s", work, helper, out)
	}
	return os.RemoveAll(work)
}
