package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/plan"
)

// holderTimeout bounds a request to the holder; a thousand ports take it some seconds.
const holderTimeout = 30 * time.Second

// holder is the keeper's end of the holder. It is safe for concurrent use.
type holder struct {
	pid    int
	ipv6   bool        // it can make that
	found  *plan.State // what it had been told before, nil when it is new
	joined bool        // it is new, in a namespace that another one has left

	mu     sync.Mutex // one request at a time
	conn   *socketConn
	out    *json.Encoder
	in     *json.Decoder
	broken bool // a request was cut short, so replies no longer match
}

// openHolder finds the home's holder, or starts one: command run inside new namespaces, or those of a dead one, with its socket as descriptor
// HolderSocketFD. The holder outlives this process.
func openHolder(ctx context.Context, d network.Dir, command []string, rootless bool) (*holder, error) {
	h, err := dialHolder(ctx, d)
	if err == nil {
		return h, nil
	}
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, err
	}
	survivor := findSurvivor(d)
	if err := startHolder(d, command, rootless, survivor); err != nil {
		return nil, err
	}
	if h, err = dialHolder(ctx, d); err == nil {
		h.joined = survivor != 0
	}
	return h, err
}

func dialHolder(ctx context.Context, d network.Dir) (*holder, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", d.HolderSocket())
	if err != nil {
		return nil, fmt.Errorf("find holder: %w", err)
	}
	sc := &socketConn{UnixConn: conn.(*net.UnixConn)}
	h := &holder{conn: sc, out: json.NewEncoder(sc), in: json.NewDecoder(sc)}
	hello, _, err := h.receive(time.Now().Add(holderTimeout))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greet holder: %w", err), conn.Close())
	}
	h.pid, h.ipv6, h.found = hello.PID, hello.IPv6, hello.State
	return h, nil
}

// startHolder starts the holder, where the process with the pid survivor is unless that is 0; its socket listens before it does, so that dialHolder can wait for it.
func startHolder(d network.Dir, command []string, rootless bool, survivor int) error {
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
	if survivor != 0 {
		command, attr = network.Enter(survivor, rootless, command), &syscall.SysProcAttr{Setsid: true}
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

// namespaces asks for a new network namespace, and when rootless for a user namespace where the caller is root.
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

// apply has the holder make links and rules so.
func (h *holder) apply(s plan.State) error {
	_, err := h.ask(plan.Request{State: &s})
	return err
}

// dnsSockets returns sockets that listen inside, for UDP and TCP.
func (h *holder) dnsSockets(gateway netip.Addr) (net.PacketConn, net.Listener, error) {
	files, err := h.ask(plan.Request{DNS: gateway})
	if err != nil {
		return nil, nil, err
	}
	defer closeAll(files)
	if len(files) != 2 {
		return nil, nil, fmt.Errorf("take DNS sockets: got %d, want 2", len(files))
	}
	packets, err := net.FilePacketConn(files[0])
	if err != nil {
		return nil, nil, fmt.Errorf("take DNS socket: %w", err)
	}
	streams, err := net.FileListener(files[1])
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("take DNS socket: %w", err), packets.Close())
	}
	return packets, streams, nil
}

// serviceSocket returns a socket that listens inside.
func (h *holder) serviceSocket(at netip.AddrPort) (net.Listener, error) {
	files, err := h.ask(plan.Request{Service: at})
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if len(files) != 1 { // a holder of an earlier build knows no services
		return nil, errors.New("the network is of an earlier build, which has none; stop all VMs once to replace it")
	}
	return net.FileListener(files[0])
}

// relayFiles returns what relay.New needs.
func (h *holder) relayFiles() ([]*os.File, error) {
	return h.ask(plan.Request{Relay: true})
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// stop ends the holder and waits for that. Its namespaces go when the last process inside has gone.
func (h *holder) stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.conn.Close()
	_ = h.conn.SetDeadline(time.Now().Add(holderTimeout))
	if err := h.out.Encode(plan.Request{Stop: true}); err != nil {
		return nil //nolint:nilerr // it has ended
	}
	var reply plan.Reply
	if err := h.in.Decode(&reply); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("stop holder: %w", err)
	}
	return nil
}

// ask makes a request and returns the files that come with the answer.
func (h *holder) ask(request plan.Request) ([]*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken {
		return nil, errors.New("ask holder: an earlier request was cut short")
	}
	deadline := time.Now().Add(holderTimeout)
	_ = h.conn.SetWriteDeadline(deadline)
	if err := h.out.Encode(request); err != nil {
		h.broken = true
		return nil, fmt.Errorf("ask holder: %w", err)
	}
	reply, files, err := h.receive(deadline)
	if err != nil {
		h.broken = true
		return nil, fmt.Errorf("ask holder: %w", err)
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	return files, nil
}

// receive reads a reply. h.mu is held, or h not yet shared.
func (h *holder) receive(deadline time.Time) (reply plan.Reply, files []*os.File, err error) {
	_ = h.conn.SetReadDeadline(deadline)
	err = h.in.Decode(&reply)
	files, h.conn.files = h.conn.files, nil
	return reply, files, err
}

// socketConn reads a stream and keeps the descriptors that come with it.
type socketConn struct {
	*net.UnixConn
	files []*os.File
}

// Read reads like any stream.
func (c *socketConn) Read(p []byte) (int, error) {
	rights := make([]byte, unix.CmsgSpace(4*4))
	n, got, _, _, err := c.ReadMsgUnix(p, rights)
	if got > 0 {
		messages, parseErr := unix.ParseSocketControlMessage(rights[:got])
		err = errors.Join(err, parseErr)
		for _, m := range messages {
			fds, parseErr := unix.ParseUnixRights(&m)
			err = errors.Join(err, parseErr)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				_ = unix.SetNonblock(fd, true) // else a read of it could not be ended
				c.files = append(c.files, os.NewFile(uintptr(fd), "inside"))
			}
		}
	}
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}
