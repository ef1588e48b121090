package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"connectrpc.com/connect"

	agentv1 "banger/proto/agent/v1"
)

// dialTimeout is how long a socket of the guest itself may take to accept; a full backlog makes it wait.
const dialTimeout = 10 * time.Second

type dialStream = connect.BidiStream[agentv1.DialRequest, agentv1.DialResponse]

// Dial connects to a socket of the guest and carries its data both ways until both directions have ended.
func (s *Server) Dial(ctx context.Context, stream *dialStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the first request is not open"))
	}
	conn, err := dialSocket(ctx, open)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := stream.Send(&agentv1.DialResponse{Response: &agentv1.DialResponse_Opened{Opened: &agentv1.DialOpened{}}}); err != nil {
		return err
	}
	input := make(chan error, 1)
	go func() { // ends with the stream, at the latest when this call returns
		err := fromHost(stream, conn)
		if err != nil {
			conn.Close() // ends toHost
		}
		input <- err
	}()
	if err := toHost(stream, conn); err != nil {
		return connect.NewError(connect.CodeAborted, err)
	}
	select {
	case err := <-input:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dialSocket connects to the address, or to whichever of the guest's own addresses has a listener.
func dialSocket(ctx context.Context, open *agentv1.DialOpen) (net.Conn, error) {
	if open.Network != "tcp" && open.Network != "udp" || open.Port < 1 || open.Port > 1<<16-1 {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("no socket %q port %d", open.Network, open.Port))
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addresses, err := ownAddresses(open.Address)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	var conn net.Conn
	for _, address := range addresses {
		conn, err = new(net.Dialer).DialContext(ctx, open.Network, net.JoinHostPort(address.String(), strconv.Itoa(int(open.Port))))
		if err == nil {
			return conn, nil
		}
	}
	return nil, connect.NewError(connect.CodeFailedPrecondition, err) // of the last one: all are refused alike
}

// ownAddresses lists where a service of the guest may listen, the likeliest first.
func ownAddresses(wanted string) ([]netip.Addr, error) {
	if wanted != "" {
		address, err := netip.ParseAddr(wanted)
		return []netip.Addr{address}, err
	}
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return addresses, nil // loopback answers for most
	}
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && !prefix.Addr().IsLoopback() && !prefix.Addr().IsLinkLocalUnicast() {
			addresses = append(addresses, prefix.Addr())
		}
	}
	return addresses, nil
}

// fromHost writes to the connection what the host sends; nil says that the host has sent all.
func fromHost(stream *dialStream, conn net.Conn) error {
	for {
		request, err := stream.Receive()
		if err != nil {
			return err
		}
		switch r := request.Request.(type) {
		case *agentv1.DialRequest_Data:
			if _, err := conn.Write(r.Data); err != nil && !unreachableDatagram(conn, err) {
				return err
			}
		case *agentv1.DialRequest_End:
			if half, ok := conn.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return nil
		}
	}
}

// toHost sends what the connection gives; nil says that it has ended well.
func toHost(stream *dialStream, conn net.Conn) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for {
		n, err := conn.Read(*buf)
		if n > 0 {
			if err := stream.Send(&agentv1.DialResponse{Response: &agentv1.DialResponse_Data{Data: (*buf)[:n]}}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return stream.Send(&agentv1.DialResponse{Response: &agentv1.DialResponse_End{End: &agentv1.DialEnd{}}})
		case err != nil && !unreachableDatagram(conn, err):
			return err
		}
	}
}

// unreachableDatagram reports whether an error only says that nobody took an earlier datagram: its service may come yet.
func unreachableDatagram(conn net.Conn, err error) bool {
	_, datagrams := conn.(*net.UDPConn)
	return datagrams && errors.Is(err, syscall.ECONNREFUSED)
}
