package boot

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"banger/internal/guestd/system"
)

// Init is the image's own init.
type Init struct {
	Path string // inside the root; empty for InitNone
	Kind string
}

// initPaths are tried in order: the kernel's own list, then where systemd lives in an image without
// systemd-sysv.
var initPaths = []string{"/sbin/init", "/etc/init", "/bin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"}

// findInit looks for an executable init in root.
func findInit(root string) Init {
	for _, path := range initPaths {
		real, err := inRoot(root, path)
		if err != nil {
			continue
		}
		info, err := os.Stat(real)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		return Init{Path: path, Kind: initKind(real, func(p string) bool { _, err := inRoot(root, p); return err == nil })}
	}
	return Init{Kind: system.InitNone}
}

// initKind names the init from the file behind its symlinks and from what else the image has.
func initKind(real string, has func(path string) bool) string {
	name := filepath.Base(real)
	switch {
	case strings.HasPrefix(name, "systemd"):
		return system.InitSystemd
	case has("/sbin/openrc") || has("/usr/bin/openrc"):
		return system.InitOpenRC
	case strings.HasPrefix(name, "busybox"):
		return system.InitBusybox
	case has("/etc/inittab") && has("/etc/init.d"):
		return system.InitSysvinit
	default:
		return system.InitOther
	}
}

// startAgent starts this program again as the agent, in a session of its own.
func (s *state) startAgent(context.Context) error {
	if err := s.record.Write(system.RecordPath); err != nil {
		return fmt.Errorf("write boot record: %w", err)
	}
	if s.init.Kind == system.InitNone {
		return nil // PID 1 keeps the agent running itself
	}
	_, err := startAgent()
	return err
}

func startAgent() (pid int, err error) {
	cmd := exec.Command(system.Binary, "agent") //nolint:noctx // lives as long as the VM
	cmd.Env = []string{"PATH=" + system.DefaultPath}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return cmd.Process.Pid, nil
}

func (s *state) startInit(ctx context.Context) error {
	if s.init.Kind == system.InitNone {
		return serveAsInit(ctx, s.log)
	}
	env := []string{"PATH=" + system.DefaultPath, "TERM=linux", "HOME=/"}
	if err := syscall.Exec(s.init.Path, []string{s.init.Path}, env); err != nil {
		return fmt.Errorf("exec %s: %w", s.init.Path, err)
	}
	return nil
}
