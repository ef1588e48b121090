package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"banger/internal/network"
)

const (
	transferMiB = 512  // what one transfer carries
	connections = 1000 // of one sample, one after the other
)

// measureTransfers moves bytes between a namespace and the internet, and opens connections, by
// banger's gateway, by pasta alone and by slirp4netns.
func (w *world) measureTransfers(ctx context.Context, n counts) ([]Samples, error) {
	contenders := []struct {
		name  string
		start func(context.Context) (guest *peer, end func(), err error)
	}{
		{"gateway", func(ctx context.Context) (*peer, func(), error) { return joinGateway(ctx, w.network) }},
		{"gateway as root", func(ctx context.Context) (*peer, func(), error) { return joinGateway(ctx, w.asRoot) }},
		{"pasta alone", func(ctx context.Context) (*peer, func(), error) {
			return uplinkAlone(ctx, "pasta", "--foreground", "--quiet", "--config-net", "--no-map-gw", "--ipv4-only", "--mtu", "65520",
				"-t", "none", "-u", "none", "-T", "none", "-U", "none")
		}},
		{"slirp4netns", func(ctx context.Context) (*peer, func(), error) {
			return uplinkAlone(ctx, "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--target-type=netns", "tap0")
		}},
	}
	var guests []*peer
	for _, c := range contenders {
		guest, end, err := c.start(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		defer end()
		if err := guest.await(ctx, "get 1"); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		guests = append(guests, guest)
	}
	works := []struct{ name, line string }{
		{
			"get",
			fmt.Sprint("get ", transferMiB<<20),
		}, {"put", fmt.Sprint("put ", transferMiB<<20)}, {"open", fmt.Sprint("open ", connections)},
	}
	all := make([]Samples, len(works)*len(contenders))
	for turn := range n.transfers + 1 { // the first does not count
		for i, c := range contenders {
			for j, work := range works {
				began := time.Now()
				err := guests[i].ask(work.line)
				samples := &all[j*len(contenders)+i]
				samples.Name = c.name + ", " + work.name
				switch {
				case errors.Is(err, errRefused):
					samples.Broken++
				case err != nil:
					return nil, fmt.Errorf("%s: %w", c.name, err)
				case turn > 0:
					samples.add(time.Since(began))
				}
			}
		}
	}
	return all, nil
}

func (s *Samples) add(took time.Duration) { s.Millis = append(s.Millis, took.Seconds()*1000) }

// joinGateway starts a guest on banger's network. A veth pair stands in for the tap, which a VMM
// would have to serve: the rules know ports by the interface's name.
func joinGateway(ctx context.Context, client *network.Client) (*peer, func(), error) {
	if err := client.Ensure(ctx); err != nil {
		return nil, nil, err
	}
	p := port(0)
	tap, err := client.Attach(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	guest, err := startPeer(ctx, "guest", nil)
	if err != nil {
		return nil, nil, err
	}
	end := func() {
		guest.end()
		_ = client.Detach(context.Background(), p.ID) // the world ends the network
	}
	if err := replaceTap(status.HolderPID, tap.Name, tap.MTU, guest.pid()); err != nil {
		end()
		return nil, nil, err
	}
	err = guest.ask(fmt.Sprintf("join %s %s/%d %s %d", p.MAC, p.Address, status.Subnet.Bits(), status.Gateway, tap.MTU))
	if err != nil {
		end()
		return nil, nil, err
	}
	return guest, end, nil
}

// replaceTap puts a veth pair to the guest's namespace in place of a tap.
func replaceTap(holder int, tap string, mtu, guest int) error {
	ns, err := netns.GetFromPid(holder)
	if err != nil {
		return fmt.Errorf("find the network's namespace: %w", err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("enter the network's namespace: %w", err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(tap)
	if err != nil {
		return fmt.Errorf("find tap: %w", err)
	}
	if err := inside.LinkDel(link); err != nil {
		return fmt.Errorf("delete tap: %w", err)
	}
	bridge, err := inside.LinkByName("br0")
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{
			Name:        tap,
			MTU:         mtu,
			MasterIndex: bridge.Attrs().Index,
		}, PeerName: "eth0", PeerMTU: uint32(mtu), PeerNamespace: netlink.NsPid(guest),
	}
	if err := inside.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth pair: %w", err)
	}
	return inside.LinkSetUp(pair)
}

// uplinkAlone starts a guest in a user namespace of its own, as pasta and slirp4netns join it, and
// the program.
func uplinkAlone(ctx context.Context, program string, args ...string) (*peer, func(), error) {
	guest, err := startPeer(ctx, "guest", func(c *exec.Cmd) { c.SysProcAttr = userNamespace() })
	if err != nil {
		return nil, nil, err
	}
	pid := strconv.Itoa(guest.pid())
	if program == "slirp4netns" { // its process comes before the name of the interface
		last := len(args) - 1
		args = []string{args[0], args[1], args[2], pid, args[last]}
	} else {
		args = append(args, pid)
	}
	var stderr bytes.Buffer
	uplink := exec.CommandContext(ctx, program, args...)
	uplink.Stderr = &stderr
	if err := uplink.Start(); err != nil {
		guest.end()
		return nil, nil, err
	}
	return guest, func() {
		_ = uplink.Process.Kill() // it may have ended
		_ = uplink.Wait()
		guest.end()
	}, nil
}
