package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"

	"banger/internal/home"
	"banger/internal/network"
)

const (
	hostAddress     = "198.51.100.2"
	internetAddress = "198.51.100.1"
	startTimeout    = 20 * time.Second
)

// world is the host of its own with the internet beside it, and banger's network in it.
type world struct {
	root     string          // folder for files
	network  *network.Client // an ordinary user's
	asRoot   *network.Client
	internet *peer
}

func newWorld(ctx context.Context) (_ *world, err error) {
	w := &world{}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.root, err = os.MkdirTemp("", "bg"); err != nil {
		return nil, err
	}
	if err := raise("lo"); err != nil {
		return nil, err
	}
	if w.internet, err = startPeer(ctx, "internet", nil); err != nil {
		return nil, err
	}
	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: "wan0", MTU: 65535},
		PeerName:      "wan0",
		PeerMTU:       65535,
		PeerNamespace: netlink.NsPid(w.internet.pid()),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("join the internet: %w", err)
	}
	way := &netlink.Route{Gw: net.ParseIP(internetAddress)}
	if err := errors.Join(addAddress("wan0", hostAddress+"/24"), netlink.RouteAdd(way)); err != nil {
		return nil, err
	}
	if err := w.internet.ask("serve"); err != nil {
		return nil, err
	}
	if err := os.WriteFile(w.resolvConf(), []byte("nameserver "+upstreamAddress+"\n"), 0o600); err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	client := func(name string, rootless bool) *network.Client {
		path := filepath.Join(w.root, name)
		role := roleVariable + "=keeper"
		return network.NewClient(
			home.Dir(path),
			rootless,
			[]string{"/usr/bin/env", role, executable, path, w.resolvConf(), executable, strconv.FormatBool(rootless)},
		)
	}
	w.network, w.asRoot = client("home", true), client("root", false)
	return w, nil
}

func (w *world) resolvConf() string { return filepath.Join(w.root, "resolv.conf") }

func (w *world) close() {
	for _, client := range []*network.Client{w.network, w.asRoot} {
		if client == nil {
			continue
		}
		if err := client.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "stop network:", err)
		}
	}
	if w.internet != nil {
		w.internet.end()
	}
	os.RemoveAll(w.root)
}

// port is the nth machine's place on banger's network.
func port(n int) network.Endpoint {
	a := network.Gateway(network.DefaultSubnet).As4()
	a[2], a[3] = byte(n/250), byte(2+n%250)
	address := netip.AddrFrom4(a)
	return network.Endpoint{
		ID:      fmt.Sprint("vm", n),
		Name:    fmt.Sprint("vm", n),
		Address: address,
		MAC:     network.MAC(address),
		Policy:  network.Policy{NAT: true},
	}
}

// peer is a process that plays a part and answers each line with a line.
type peer struct {
	command *exec.Cmd
	in      interface{ Close() error }
	lines   *bufio.ReadWriter
}

// startPeer starts a part, in a network namespace of its own unless with says otherwise.
func startPeer(ctx context.Context, role string, with func(*exec.Cmd)) (*peer, error) {
	command := self(ctx, role)
	if with == nil {
		with = func(c *exec.Cmd) { c.SysProcAttr.Cloneflags = cloneNetwork }
	}
	with(command)
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return &peer{command, in, bufio.NewReadWriter(bufio.NewReader(out), bufio.NewWriter(in))}, nil
}

func (p *peer) pid() int { return p.command.Process.Pid }

// errRefused is the answer of a peer that could not do what it was asked for.
var errRefused = errors.New("the peer could not")

// ask sends a line; the answer must be "ok".
func (p *peer) ask(line string) error {
	fmt.Fprintln(p.lines, line)
	if err := p.lines.Flush(); err != nil {
		return err
	}
	answer, err := p.lines.ReadString('\n')
	if err != nil {
		return fmt.Errorf("ask for %q: %w", line, err)
	}
	if answer != "ok\n" {
		return fmt.Errorf("ask for %q: %w: %s", line, errRefused, answer)
	}
	return nil
}

func (p *peer) end() {
	p.in.Close()
	_ = p.command.Wait() // it ends with its input
}

// await asks until it works.
func (p *peer) await(ctx context.Context, line string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.ask(line)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

func addAddress(name, prefix string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	address, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("add %s: %w", prefix, err)
	}
	return netlink.LinkSetUp(link)
}
