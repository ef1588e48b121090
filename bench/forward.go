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
	"os/exec"
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

// service answers in the VM, one connection after another, by the first byte of each: e sends it back, g sends forwardMiB, p takes all and says so.
const service = `$z="\0" x 65536; $s=IO::Socket::INET->new(Listen=>64,LocalAddr=>"127.0.0.1",LocalPort=>%d,ReuseAddr=>1) or die;
while($c=$s->accept){sysread $c,$b,1; if($b eq "e"){syswrite $c,"e"} elsif($b eq "g"){syswrite $c,$z for 1..%d} else {1 while sysread $c,$d,65536; syswrite $c,"k"} close $c}`

// measureForward compares `banger forward` with `ssh -L` into the same VM, to the same service.
func (b *bench) measureForward(ctx context.Context) (_ result, err error) {
	r := result{Note: fmt.Sprintf("%d MiB, and %d connections one after another, to a service of a VM: by banger forward, and by ssh -L to the VM's address", forwardMiB, forwardConns)}
	if os.Geteuid() != 0 {
		r.Note += "; ssh goes through a forward, because only root's host has a route to the VM"
	}
	vm, remove, err := b.bootAs(ctx, api.CreateVM{Network: api.NetworkUser}, api.WaitBooted)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	forward, err := b.client.AddForward(ctx, vm.ID, api.Forward{GuestPort: servicePort})
	if err != nil {
		return r, err
	}
	if err := b.runIn(ctx, vm.ID, nil, io.Discard, "setsid", "-f", "perl", "-MIO::Socket::INET", "-e", fmt.Sprintf(service, servicePort, forwardMiB<<4)); err != nil {
		return r, err
	}
	tunnel, end, err := b.sshTunnel(ctx, vm)
	if err != nil {
		return r, err
	}
	defer end()
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
			contenders = append(contenders, timed(work.name+", "+way.name, func(ctx context.Context) error { return work.do(ctx, way.address) }))
		}
		took, err := interleave(ctx, 1, b.streams, streamTimeout, contenders...)
		if err != nil {
			return r, err
		}
		r.Series = append(r.Series, took...)
		r.Ratios = append(r.Ratios, ratio{work.name + ": time by ssh's", took[0].Median / took[1].Median, 1. / 3})
	}
	return r, nil
}

// sshTunnel starts ssh -L to the service and returns its address.
func (b *bench) sshTunnel(ctx context.Context, vm api.VM) (address string, end func(), err error) {
	dir, err := os.MkdirTemp("", "bs-")
	if err != nil {
		return "", nil, err
	}
	key := filepath.Join(dir, "key")
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		return "", nil, errors.Join(fmt.Errorf("make key: %w: %s", err, out), os.RemoveAll(dir))
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	script := "mkdir -p -m 700 /root/.ssh && cat >>/root/.ssh/authorized_keys"
	if err := b.runIn(ctx, vm.ID, bytes.NewReader(public), io.Discard, "sh", "-c", script); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	host, port := vm.Address, "22"
	if os.Geteuid() != 0 {
		f, err := b.client.AddForward(ctx, vm.ID, api.Forward{GuestPort: 22})
		if err != nil {
			return "", nil, errors.Join(err, os.RemoveAll(dir))
		}
		host, port = f.Host.String(), fmt.Sprint(f.HostPort)
	}
	free, err := freePort(ctx)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	ssh := exec.CommandContext(ctx, "ssh", "-N", "-F", "/dev/null", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "ExitOnForwardFailure=yes", "-p", port, "-L", fmt.Sprintf("%s:127.0.0.1:%d", free, servicePort), "root@"+host)
	ssh.Stderr = os.Stderr
	if err := ssh.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	end = func() {
		_ = ssh.Process.Kill() // it may have ended
		_ = ssh.Wait()
		_ = os.RemoveAll(dir)
	}
	if err := await(ctx, free); err != nil {
		end()
		return "", nil, err
	}
	return free.String(), end, nil
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
