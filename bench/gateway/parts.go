package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"banger/internal/home"
	"banger/internal/network"
	"banger/internal/network/holder"
	"banger/internal/network/keeper"
)

const (
	cloneNetwork    = syscall.CLONE_NEWNET
	internetPort    = ":7000"
	transferTimeout = 30 * time.Second
	blockBytes      = 256 << 10
)

// keep is the keeper of banger's network; its arguments are the home folder, resolv.conf, this
// program, and whether the network is an ordinary user's.
func keep(ctx context.Context) error {
	rootless, err := strconv.ParseBool(os.Args[4])
	if err != nil {
		return err
	}
	return keeper.Serve(ctx, keeper.Config{
		Home: home.Dir(os.Args[1]), ResolvConf: os.Args[2], Subnet: network.DefaultSubnet, Rootless: rootless,
		Holder: []string{"/usr/bin/env", roleVariable + "=holder", os.Args[3]}, Ready: os.NewFile(network.ReadyFD, "ready"),
	}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

func hold(ctx context.Context) error {
	return holder.Run(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// answer does what each line of the input says, until it ends.
func answer(do map[string]func(words []string) error) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if err := do[words[0]](words[1:]); err != nil {
			fmt.Println("error:", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println("ok")
	}
	return in.Err()
}

// beInternet serves bytes: "get N" has it send so many, "put N" take them.
func beInternet(ctx context.Context) error {
	return answer(map[string]func([]string) error{"serve": func([]string) error {
		if err := addAddress("wan0", internetAddress+"/24"); err != nil {
			return err
		}
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", internetAddress+internetPort)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go serveBytes(conn)
			}
		}()
		return nil
	}})
}

func serveBytes(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	var what string
	var n int64
	if _, err := fmt.Sscan(line, &what, &n); err != nil {
		return
	}
	if what == "get" {
		_ = send(conn, n) // the guest misses what it does not get
		return
	}
	if drain(io.LimitReader(r, n), n) == nil {
		fmt.Fprintln(conn, "k")
	}
}

// send writes n zeros; splicing files would measure something else.
func send(to io.Writer, n int64) error {
	block := make([]byte, min(n, blockBytes))
	for n > 0 {
		some := min(n, int64(len(block)))
		if _, err := to.Write(block[:some]); err != nil {
			return err
		}
		n -= some
	}
	return nil
}

// drain reads n bytes and the end, by blocks as large as those of send: io.Discard's are so small
// that the reader would be what is measured.
func drain(from io.Reader, n int64) error {
	block := make([]byte, min(n+1, blockBytes))
	for got := int64(0); ; {
		some, err := from.Read(block)
		got += int64(some)
		switch {
		case errors.Is(err, io.EOF) && got == n:
			return nil
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", got, n, err)
		}
	}
}

// beGuest moves bytes: "get N", "put N"; opens so many connections, one after the other: "open N";
// "join MAC ADDRESS/BITS GATEWAY MTU" configures eth0 first.
func beGuest(ctx context.Context) error {
	return answer(map[string]func([]string) error{
		"join": func(words []string) error { return join(words[0], words[1], words[2], words[3]) },
		"get":  func(words []string) error { return transfer(ctx, "get", words[0]) },
		"put":  func(words []string) error { return transfer(ctx, "put", words[0]) },
		"open": func(words []string) error { return open(ctx, words[0]) },
	})
}

func join(mac, address, gateway, mtu string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	var bytes int
	if _, err := fmt.Sscan(mtu, &bytes); err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(link, hardware); err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(link, bytes); err != nil {
		return err
	}
	if err := addAddress("eth0", address); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
}

func open(ctx context.Context, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for range n {
		if err := transfer(ctx, "get", "1"); err != nil {
			return err
		}
	}
	return nil
}

func transfer(ctx context.Context, what, count string) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp4", internetAddress+internetPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(transferTimeout)); err != nil {
		return err
	}
	var n int64
	if _, err := fmt.Sscan(count, &n); err != nil {
		return err
	}
	fmt.Fprintln(conn, what, n)
	if what == "put" {
		if err := send(conn, n); err != nil {
			return err
		}
		_, err := bufio.NewReader(conn).ReadString('\n')
		return err
	}
	return drain(conn, n)
}
