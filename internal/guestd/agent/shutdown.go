package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
)

const (
	answerPause = 200 * time.Millisecond // lets the answer out before the VM begins to end
	askEvery    = time.Second            // an init that is still starting drops the first signal
	askLimit    = 2 * time.Minute        // then the VM is reset all the same
)

// Shutdown ends the VM by a reset, under Firecracker the only end there is. A second call changes
// nothing unless it is forced.
func (s *Server) Shutdown(_ context.Context, r *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	unix.Sync()
	if r.Force {
		time.AfterFunc(answerPause, s.resetNow)
		return &agentv1.ShutdownResponse{}, nil
	}
	ask, err := s.rebootRequest(s.config.Record.Init, s.config.Root)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending { // only once somebody can be asked: a call that failed must not make the next one succeed
		s.ending = true
		go s.reboot(ask)
	}
	return &agentv1.ShutdownResponse{}, nil
}

// reboot asks until the init ends this process.
func (s *Server) reboot(ask func() error) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	<-time.After(answerPause)
	for limit := time.Now().Add(askLimit); time.Now().Before(limit); <-tick.C {
		if err := ask(); err != nil {
			s.config.Log.Error("ask init to reboot", "err", err)
		}
	}
	s.resetNow()
}

func (s *Server) resetNow() {
	if err := s.reset(); err != nil {
		s.config.Log.Error("reset machine", "err", err)
	}
}

// rebootRequest gives the way to ask each kind of init. Asking twice is harmless for all of them.
func rebootRequest(kind, root string) (func() error, error) {
	const systemdReboot = syscall.Signal(34 + 5) // SIGRTMIN+5 of systemd(1), counted from the C library's SIGRTMIN
	switch kind {
	case system.InitSystemd:
		return func() error { return unix.Kill(1, systemdReboot) }, nil
	case system.InitNone, system.InitBusybox:
		return func() error { return unix.Kill(1, unix.SIGTERM) }, nil
	}
	for _, dir := range filepath.SplitList(system.DefaultPath) {
		path := filepath.Join(dir, "reboot")
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			continue
		}
		return func() error { return exec.Command(path).Run() }, nil //nolint:noctx // it ends the VM, whatever ends before
	}
	return nil, fmt.Errorf("ask init to reboot: the image has no reboot command: stop the machine by force")
}
