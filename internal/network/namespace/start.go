package namespace

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"banger/internal/network"
)

// startHolder starts the holder, where the process with the pid orphan is unless that is 0. Its
// socket listens before it does, so that connect can wait for it.
func startHolder(d network.Dir, command []string, rootless bool, orphan int) error {
	if err := os.Remove(d.HolderSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove dead holder's socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.HolderSocket(), Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for holder: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	if err := os.Chmod(d.HolderSocket(), 0o600); err != nil {
		return fmt.Errorf("protect holder's socket: %w", err)
	}
	socket, err := listener.File()
	if err != nil {
		return fmt.Errorf("share holder's socket: %w", err)
	}
	defer socket.Close()
	attr := namespaces(rootless)
	if orphan != 0 {
		command, attr = network.Enter(orphan, rootless, command), &syscall.SysProcAttr{Setsid: true}
	}
	holder := exec.Command(command[0], command[1:]...) //nolint:noctx // it outlives this process
	holder.Stdout, holder.Stderr = os.Stdout, os.Stderr
	holder.ExtraFiles = []*os.File{socket} // HolderSocketFD
	holder.SysProcAttr = attr
	if err := holder.Start(); err != nil {
		return fmt.Errorf("start holder: %w%s", err, namespaceHint(err))
	}
	go func() { _ = holder.Wait() }() // reaps it; its end is seen on the connection
	return nil
}

// namespaces asks for a new network namespace, and when rootless for a user namespace where the
// caller is root.
func namespaces(rootless bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNET}
	if rootless {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

func namespaceHint(err error) string {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		return " (this host does not let users make namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0" +
			" on Ubuntu, kernel.unprivileged_userns_clone=1 on Debian, or raise user.max_user_namespaces)"
	}
	return ""
}
