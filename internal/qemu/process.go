package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stderrTail is how much of QEMU's stderr is kept for the error that says why it died.
const stderrTail = 4 << 10

// outputDelay is how long output is awaited after QEMU's end, should something else hold its pipes
// open.
const outputDelay = 2 * time.Second

// process is a child that dies with this process, whichever way that ends.
type process struct {
	cmd    *exec.Cmd
	stderr *tail
	done   chan struct{} // closed when it has been waited for
	err    error         // of Wait; read after done
}

// startProcess forks from a thread which it keeps: the kernel sends PDEATHSIG when the parent's
// thread ends, not its process.
func startProcess(binary string, args []string, stdin io.Reader, stdout io.Writer, files []*os.File) (*process, error) {
	cmd := exec.Command(binary, args...) //nolint:noctx // its owner ends it, see kill
	p := &process{cmd: cmd, stderr: &tail{}, done: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, p.stderr
	p.cmd.ExtraFiles = files
	p.cmd.WaitDelay = outputDelay
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, after the child.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	return p, nil
}

// kill ends it and waits.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails when it has ended
	<-p.done
}

// deathError says how it ended, with what it said last.
func (p *process) deathError() error {
	<-p.done
	cause := p.err
	if cause == nil {
		cause = errors.New("exit status 0")
	}
	if said := strings.TrimSpace(p.stderr.String()); said != "" {
		return fmt.Errorf("qemu ended: %w: %s", cause, said)
	}
	return fmt.Errorf("qemu ended: %w", cause)
}

// tail keeps the last stderrTail bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if extra := len(t.buf) - stderrTail; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
