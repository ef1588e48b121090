package network

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
)

// The keeper speaks to the holder over a unix socket: a holderReply as soon as it connects, then one for each
// holderRequest, all of them JSON.
type holderRequest struct {
	State   *state         `json:"state,omitempty"`  // to be made so
	DNS     netip.Addr     `json:"dns,omitzero"`     // the gateway's address, to share the sockets for DNS there
	Service netip.AddrPort `json:"service,omitzero"` // where to open a TCP socket, which comes with the reply
	Relay   bool           `json:"relay,omitempty"`  // to share the relay's files, see openRelay
	Stop    bool           `json:"stop,omitempty"`   // to end, and the namespaces with it
}

type holderReply struct {
	PID   int    `json:"pid"`
	IPv6  bool   `json:"ipv6,omitempty"`  // it can make that; a holder of an earlier build says nothing
	State *state `json:"state,omitempty"` // as last made, nil before the first
	Error string `json:"error,omitempty"`

	sockets []*os.File
}

// maxMessageBytes bounds a message; a state of maxPorts ports has about 300 KB.
const maxMessageBytes = 4 << 20

// HolderSocketFD is where Hold finds its listening socket, inherited from the keeper.
const HolderSocketFD = 3

// Hold is the process inside the namespaces: it sets up loopback and forwarding there, and serves one keeper after another
// on the socket at HolderSocketFD. It returns when a keeper tells it to stop, or ctx ends.
func Hold(ctx context.Context, log *slog.Logger) error {
	file := os.NewFile(HolderSocketFD, "holder socket")
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
	var holding holding
	defer func() {
		holding.dns.close()
		holding.relay.close()
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		end := context.AfterFunc(ctx, func() { conn.Close() })
		stop, err := holding.serveKeeper(ctx, conn.(*net.UnixConn))
		end()
		conn.Close()
		if stop {
			return nil
		}
		log.InfoContext(ctx, "keeper is gone, waiting for the next", "err", err)
	}
}

// holding is what the holder keeps for its keepers. What comes to the files while there is none waits there for the next.
type holding struct {
	last  *state    // nil before the first
	dns   heldFiles // none before they are asked for, as with relay
	relay heldFiles
}

// heldFiles are shared with one keeper after another.
type heldFiles []*os.File

func (files heldFiles) close() {
	for _, f := range files {
		f.Close()
	}
}

// share returns duplicates to be sent away, and opens the files the first time.
func (files *heldFiles) share(open func() (heldFiles, error)) (shared heldFiles, err error) {
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
func (h *holding) serveKeeper(ctx context.Context, conn *net.UnixConn) (stop bool, err error) {
	limited := &io.LimitedReader{R: conn}
	in := json.NewDecoder(limited)
	reply := holderReply{PID: os.Getpid(), IPv6: hasIPv6(), State: h.last}
	for {
		if err := writeReply(conn, reply); err != nil {
			return false, err
		}
		limited.N = maxMessageBytes
		var request holderRequest
		if err := in.Decode(&request); err != nil {
			return false, err
		}
		reply = holderReply{PID: os.Getpid()}
		switch {
		case request.Stop:
			return true, nil
		case request.DNS.IsValid():
			reply.sockets, err = h.dns.share(func() (heldFiles, error) { return dnsSockets(ctx, request.DNS) })
		case request.Service.IsValid():
			reply.sockets, err = serviceSocket(ctx, request.Service)
		case request.Relay:
			reply.sockets, err = h.relay.share(func() (heldFiles, error) { return openRelay(ctx) })
		case request.State != nil:
			if err = applyState(*request.State, h.last == nil); err == nil {
				h.last = request.State
			}
		}
		if err != nil {
			reply.Error = err.Error()
		}
	}
}

// writeReply sends a reply, and its sockets beside it (unix(7), SCM_RIGHTS), which it closes.
func writeReply(conn *net.UnixConn, reply holderReply) error {
	message, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	var rights []byte
	if len(reply.sockets) > 0 {
		fds := make([]int, len(reply.sockets))
		for i, f := range reply.sockets {
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
func dnsSockets(ctx context.Context, gateway netip.Addr) (heldFiles, error) {
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
	return heldFiles{udp, tcp}, nil
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

// applyState makes rules and links as the state has them; the first brings the rules, others change their sets. A tap's
// rules are there before the tap.
func applyState(s state, first bool) error {
	put := refillSets
	if first {
		put = applyRules
	}
	if err := put(planRules(s)); err != nil {
		return err
	}
	return applyLinks(s)
}
