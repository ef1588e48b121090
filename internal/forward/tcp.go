package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"banger/internal/accept"
)

// chunks are the buffers of data on its way to a guest.
var chunks = sync.Pool{New: func() any { b := make([]byte, chunkBytes); return &b }}

func (f *Forward) listenTCP() error {
	listener, err := new(net.ListenConfig).Listen(f.ctx, "tcp", f.Listen())
	if err != nil {
		return err
	}
	f.HostPort, f.stop = chosenPort(listener.Addr()), listener.Close
	f.conns.Go(func() { f.accept(listener) })
	return nil
}

func (f *Forward) accept(listener net.Listener) {
	slots := make(chan struct{}, maxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-f.ctx.Done():
			return
		}
		conn, err := accept.Next(f.ctx, listener, func(err error) { f.log.Warn("accept", "error", err) })
		if err != nil {
			if f.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				f.log.Error("the port is served no more", "error", err)
			}
			return
		}
		f.conns.Go(func() {
			defer func() { <-slots }()
			f.carry(conn.(*net.TCPConn))
		})
	}
}

// carry serves one connection. Each direction ends on its own; when one breaks, both ends see a
// reset.
func (f *Forward) carry(local *net.TCPConn) {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	remote, err := f.dial(ctx)
	if err != nil {
		f.log.Debug("connect", "error", err)
		_ = local.SetLinger(0) // a reset, as a port without a listener gives
		local.Close()
		return
	}
	broken := func() {
		_ = local.SetLinger(0)
		local.Close()
		remote.Close()
	}
	stop := context.AfterFunc(ctx, broken)
	var directions sync.WaitGroup
	directions.Go(func() {
		if toGuest(remote, local) != nil {
			cancel()
		}
	})
	directions.Go(func() {
		if err := toHost(local, remote); err != nil {
			f.log.Debug("connection", "error", err) // such as that nothing listens there
			cancel()
		}
	})
	directions.Wait()
	if stop() {
		local.Close()
		remote.Close()
	}
}

func toGuest(remote Conn, local *net.TCPConn) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for {
		n, err := local.Read(*buf)
		if n > 0 {
			if err := remote.Send((*buf)[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return remote.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

func toHost(local *net.TCPConn, remote Conn) error {
	for {
		data, err := remote.Recv()
		if errors.Is(err, io.EOF) {
			return local.CloseWrite()
		}
		if err != nil {
			return err
		}
		if _, err := local.Write(data); err != nil {
			return err
		}
	}
}
