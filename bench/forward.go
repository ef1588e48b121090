package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"banger/api"
)

const (
	forwardMiB    = 64
	forwardConns  = 50
	servicePort   = 7000
	tunnelTimeout = 30 * time.Second
)

// service answers in the VM, one connection after another, by the first byte of each: e sends it
// back, g sends forwardMiB, p takes all and says so. It calls the kernel directly: an object of
// IO::Socket takes longer to make under emulation than a connection.
const service = `use Socket; $z="\0" x 65536; socket S,PF_INET,SOCK_STREAM,0 and setsockopt S,SOL_SOCKET,SO_REUSEADDR,1 and bind S,sockaddr_in(%d,INADDR_LOOPBACK) and listen S,64 or die;
while(accept C,S){sysread C,$b,1; if($b eq "e"){syswrite C,"e"} elsif($b eq "g"){syswrite C,$z for 1..%d} else {1 while sysread C,$d,65536; syswrite C,"k"} close C}`

// measureForward compares `banger forward` with `ssh -L` into the same VM, to the same service.
func (b *bench) measureForward(ctx context.Context) (_ result, err error) {
	r := result{
		Note: fmt.Sprintf(
			"%d MiB, and %d connections one after another, to a service of a machine: by banger forward, and by ssh -L to the machine's address",
			forwardMiB,
			forwardConns,
		),
	}
	if os.Geteuid() != 0 {
		r.Note += "; ssh goes through a forward, because only root's host has a route to the machine"
	}
	vm, remove, err := b.bootAs(ctx, api.CreateMachine{Network: api.NetworkUser}, api.WaitBooted)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	forward, err := b.client.AddForward(ctx, api.AddForward{Machine: vm.ID, GuestPort: servicePort})
	if err != nil {
		return r, err
	}
	program := fmt.Sprintf(service, servicePort, forwardMiB<<4)
	if err := b.runIn(ctx, vm.ID, nil, io.Discard, "setsid", "-f", "perl", "-e", program); err != nil {
		return r, err
	}
	var parts processes
	defer parts.end()
	tunnel, err := b.sshTunnel(ctx, &parts, vm)
	if err != nil {
		return r, err
	}
	if err := b.waitIdle(ctx, vm.ID); err != nil {
		return r, err
	}
	ways := []struct{ name, address string }{{"banger forward", forward.Listen()}, {"ssh -L", tunnel}}
	works := []struct {
		name string
		do   func(context.Context, string) error
	}{{"out", fetch}, {"in", push}, {"connections", connectMany}}
	for _, work := range works {
		var contenders []contender
		for _, way := range ways {
			contenders = append(
				contenders,
				timed(work.name+", "+way.name, func(ctx context.Context) error { return work.do(ctx, way.address) }),
			)
		}
		took, err := interleave(ctx, 1, b.streams, streamTimeout, contenders...)
		if err != nil {
			return r, err
		}
		r.Series = append(r.Series, took...)
		r.Ratios = append(r.Ratios, ratio{work.name + ": time by ssh's", took[0].Median / took[1].Median, 1. / 3})
	}
	err = b.addNative(ctx, &r)
	return r, err
}

// sshTunnel starts ssh -L to the service and returns its address.
func (b *bench) sshTunnel(ctx context.Context, parts *processes, vm api.Machine) (address string, err error) {
	dir, err := os.MkdirTemp("", "bs-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }() // ssh has read the key
	key := filepath.Join(dir, "key")
	if err := makeKey(ctx, key); err != nil {
		return "", err
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		return "", err
	}
	script := "mkdir -p -m 700 /root/.ssh && cat >>/root/.ssh/authorized_keys"
	if err := b.runIn(ctx, vm.ID, bytes.NewReader(public), io.Discard, "sh", "-c", script); err != nil {
		return "", err
	}
	var server netip.AddrPort
	if os.Geteuid() == 0 {
		address, err := netip.ParseAddr(vm.Address)
		if err != nil {
			return "", err
		}
		server = netip.AddrPortFrom(address, 22)
	} else {
		f, err := b.client.AddForward(ctx, api.AddForward{Machine: vm.ID, GuestPort: 22})
		if err != nil {
			return "", err
		}
		server = netip.AddrPortFrom(f.Host, f.HostPort)
	}
	at, err := parts.startTunnel(ctx, key, server, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), servicePort))
	return at.String(), err
}

func freePort(ctx context.Context) (netip.AddrPort, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	return l.Addr().(*net.TCPAddr).AddrPort(), l.Close()
}

// await returns when the address answers.
func await(ctx context.Context, address netip.AddrPort) error {
	ctx, cancel := context.WithTimeoutCause(ctx, tunnelTimeout, errors.New("ssh did not open its port"))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ask(ctx, address.String()) != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// converse opens a connection and hands it to do; the deadline of ctx holds for both.
func converse(ctx context.Context, address string, do func(*net.TCPConn) error) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	return do(conn.(*net.TCPConn))
}

func fetch(ctx context.Context, address string) error {
	return converse(ctx, address, func(conn *net.TCPConn) error {
		if _, err := conn.Write([]byte("g")); err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, conn)
		if err == nil && n != forwardMiB<<20 {
			err = fmt.Errorf("%d bytes came", n)
		}
		return err
	})
}

func push(ctx context.Context, address string) error {
	return converse(ctx, address, func(conn *net.TCPConn) error {
		_, err := conn.Write([]byte("p"))
		if err == nil {
			_, err = io.Copy(conn, io.LimitReader(zeros{}, forwardMiB<<20))
		}
		if err == nil {
			err = conn.CloseWrite()
		}
		if err != nil {
			return err
		}
		return expect(conn, 'k')
	})
}

func connectMany(ctx context.Context, address string) error {
	for range forwardConns {
		if err := ask(ctx, address); err != nil {
			return err
		}
	}
	return nil
}

// ask makes one connection for one byte.
func ask(ctx context.Context, address string) error {
	return converse(ctx, address, func(conn *net.TCPConn) error {
		if _, err := conn.Write([]byte("e")); err != nil {
			return err
		}
		return expect(conn, 'e')
	})
}

func expect(r io.Reader, want byte) error {
	var got [1]byte
	if _, err := io.ReadFull(r, got[:]); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if got[0] != want {
		return fmt.Errorf("the answer is %q", got)
	}
	return nil
}
