// Package holder is the process inside the network's namespaces (see package network): it keeps
// them alive, and makes links and rules of the state that a keeper tells it.
package holder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/accept"
	"banger/internal/network"
	"banger/internal/network/nft"
	"banger/internal/network/plan"
)

// SocketFD is where Run finds its listening socket, inherited from the keeper.
const SocketFD = 3

// Run is the process inside the namespaces: it sets up loopback and forwarding there, and serves
// one keeper after another on the socket at SocketFD. It returns when a keeper tells it to stop, or
// ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	file := os.NewFile(SocketFD, "holder socket")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("use holder's socket: %w", err)
	}
	file.Close()
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	if err := prepareNamespace(); err != nil {
		return err
	}
	return serve(ctx, listener, log)
}

// serve serves one keeper after another.
func serve(ctx context.Context, listener net.Listener, log *slog.Logger) error {
	var s server
	defer func() {
		s.dns.close()
		s.relay.close()
	}()
	for {
		conn, err := accept.Next(ctx, listener, func(err error) { log.WarnContext(ctx, "take a keeper", "err", err) })
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		end := context.AfterFunc(ctx, func() { conn.Close() })
		stop, err := s.serveKeeper(ctx, conn.(*net.UnixConn))
		end()
		conn.Close()
		if stop {
			return nil
		}
		log.InfoContext(ctx, "keeper is gone, waiting for the next", "err", err)
	}
}

// server is what the holder keeps for its keepers. What comes to the files while there is none
// waits there for the next.
type server struct {
	last  *plan.State // nil before the first
	dns   sharedFiles // none before they are asked for, as with relay
	relay sharedFiles
}

// sharedFiles are shared with one keeper after another.
type sharedFiles []*os.File

func (files sharedFiles) close() {
	for _, f := range files {
		f.Close()
	}
}

// share returns duplicates to be sent away, and opens the files the first time.
func (files *sharedFiles) share(open func() (sharedFiles, error)) (shared sharedFiles, err error) {
	if *files == nil {
		if *files, err = open(); err != nil {
			return nil, err
		}
	}
	for _, f := range *files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			shared.close()
			return nil, fmt.Errorf("share %s: %w", f.Name(), err)
		}
		shared = append(shared, os.NewFile(uintptr(fd), f.Name()))
	}
	return shared, nil
}

// serveKeeper answers one keeper until it goes or says stop.
func (s *server) serveKeeper(ctx context.Context, conn *net.UnixConn) (stop bool, err error) {
	limited := &io.LimitedReader{R: conn}
	in := json.NewDecoder(limited)
	reply := plan.Reply{PID: os.Getpid(), IPv6: nft.HasIPv6(), State: s.last}
	var files []*os.File
	for {
		if err := writeReply(conn, reply, files); err != nil {
			return false, err
		}
		limited.N = network.MaxMessageBytes
		var request plan.Request
		if err := in.Decode(&request); err != nil {
			return false, err
		}
		reply, files = plan.Reply{PID: os.Getpid()}, nil
		switch {
		case request.Stop:
			return true, nil
		case request.DNS.IsValid():
			files, err = s.dns.share(func() (sharedFiles, error) { return dnsSockets(ctx, request.DNS) })
		case request.Service.IsValid():
			files, err = serviceSocket(ctx, request.Service)
		case request.Relay:
			files, err = s.relay.share(func() (sharedFiles, error) { return openRelay(ctx) })
		case request.State != nil:
			if err = applyState(*request.State, s.last == nil); err == nil {
				s.last = request.State
			}
		}
		if err != nil {
			reply.Error = err.Error()
		}
	}
}

// writeReply sends a reply, and files beside it, which it closes.
func writeReply(conn *net.UnixConn, reply plan.Reply, files []*os.File) error {
	message, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			defer f.Close()
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(message, rights, nil)
	if err == nil && n < len(message) {
		_, err = conn.Write(message[n:])
	}
	return err
}

// dnsSockets opens port 53 on the gateway's address, UDP and TCP.
func dnsSockets(ctx context.Context, gateway netip.Addr) (sharedFiles, error) {
	at := netip.AddrPortFrom(gateway, 53).String()
	var listening net.ListenConfig
	packets, err := listening.ListenPacket(ctx, "udp4", at)
	if err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	defer packets.Close()
	streams, err := listening.Listen(ctx, "tcp4", at)
	if err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	defer streams.Close()
	udp, err := packets.(*net.UDPConn).File()
	if err != nil {
		return nil, fmt.Errorf("share DNS socket: %w", err)
	}
	tcp, err := streams.(*net.TCPListener).File()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("share DNS socket: %w", err), udp.Close())
	}
	return sharedFiles{udp, tcp}, nil
}

// serviceSocket opens a TCP socket for one of the host's services.
func serviceSocket(ctx context.Context, at netip.AddrPort) ([]*os.File, error) {
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp4", at.String())
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("share socket: %w", err)
	}
	return []*os.File{file}, nil
}

// applyState makes rules and links as the state has them; the first brings the rules, others change
// their sets. A tap's rules are there before the tap.
func applyState(s plan.State, first bool) error {
	put := nft.Refill
	if first {
		put = nft.Apply
	}
	if err := put(plan.Rules(s)); err != nil {
		return err
	}
	return applyLinks(s)
}
