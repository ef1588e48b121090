package vm

import (
	"net/netip"
	"strconv"
	"strings"

	"banger/internal/firecracker"
	"banger/internal/network"
)

const (
	// diskLabel is the ext4 label by which the guest finds the VM's own disk.
	diskLabel = "banger-disk"
	// guestCID is the VM's vsock address; it may be the same in every VM, because each VMM has a
	// socket of its own.
	guestCID = 3
	// consoleBytesPerSecond bounds what a guest can write into its console log.
	consoleBytesPerSecond = 1 << 20
	// entropyBytes seed the guest's random generator at each start.
	entropyBytes = 64
)

// guestNetwork is what a guest is told of its network; the zero value is none.
type guestNetwork struct {
	tap     network.Tap
	address netip.Addr
	subnet  netip.Prefix
}

// args are the kernel arguments by which banger-guest sets the network. Never ip=, which the kernel
// would do too early.
func (n guestNetwork) args() []string {
	if n.tap.Name == "" {
		return nil
	}
	gateway := network.Gateway(n.subnet).String()
	args := []string{
		"banger.address=" + netip.PrefixFrom(n.address, n.subnet.Bits()).String(),
		"banger.gateway=" + gateway, "banger.dns=" + gateway,
		"banger.mtu=" + strconv.Itoa(n.tap.MTU), "banger.search=" + network.Domain,
	}
	if n.tap.Address6.IsValid() {
		args = append(args, "banger.address6="+n.tap.Address6.String())
	}
	if n.tap.Gateway6.IsValid() { // else the guest's programs need not try
		args = append(args, "banger.gateway6="+n.tap.Gateway6.String())
	}
	return args
}

// interfaces are the guest's network cards, one or none.
func (n guestNetwork) interfaces() []firecracker.NetworkInterface {
	if n.tap.Name == "" {
		return nil
	}
	return []firecracker.NetworkInterface{{IfaceID: "eth0", HostDevName: n.tap.Name, GuestMAC: network.MAC(n.address)}}
}

// kernelArgs is the kernel command line. Firecracker's default one is replaced, because it holds
// nomodule.
func kernelArgs(name string, more []string) string {
	return strings.Join(append([]string{
		"console=ttyS0", "quiet",
		"reboot=k",            // by the keyboard controller: the reset that every VMM sees
		"panic=-1",            // reset at once, so that a panic ends the VMM
		"i8042.noaux",         // no mouse to probe for
		"cryptomgr.notests",   // no self-tests of ciphers: seconds of one CPU under emulation
		"net.ifnames=0",       // eth0, whatever the bus
		"random.trust_cpu=on", // the daemon adds entropy of its own as soon as the agent answers
		"banger.hostname=" + name,
	}, more...), " ")
}

// bootPlan is everything the VMM is told before the start.
type bootPlan struct {
	machine firecracker.MachineConfig
	source  firecracker.BootSource
	drives  []firecracker.Drive
	nics    []firecracker.NetworkInterface
	vsock   firecracker.Vsock
	serial  firecracker.Serial
	balloon firecracker.Balloon
}

// bootFiles are the paths of what a VM has in common with others.
type bootFiles struct {
	rootfs, vmlinux, initrd string
	modules                 string // empty when the kernel bundle has none
	imageUUID               string // of the root filesystem, when it has not the label that banger gives
	inputs                  string // of a VM that builds an image, which has none below it: its disk is its root
}

// args are the kernel arguments by which banger-guest finds what does not look as usual.
func (f bootFiles) args() []string {
	var args []string
	if f.imageUUID != "" {
		args = append(args, "banger.image="+f.imageUUID)
	}
	if f.inputs != "" {
		args = append(args, "banger.root=own")
	}
	if f.modules == "" {
		args = append(args, "banger.modules=none")
	}
	return args
}

// planBoot says how a VM is booted from an image and a kernel bundle. The guest finds its drives by
// what is in them, so their order does not matter; none is a root device, because the initrd joins
// them.
func planBoot(name string, cpus, memoryMiB int, dir Dir, f bootFiles, n guestNetwork) bootPlan {
	shared := firecracker.Drive{DriveID: "image", PathOnHost: f.rootfs, IsReadOnly: true}
	if f.inputs != "" {
		shared = firecracker.Drive{DriveID: "inputs", PathOnHost: f.inputs, IsReadOnly: true}
	}
	drives := []firecracker.Drive{
		shared,
		{DriveID: "disk", PathOnHost: dir.Disk(), CacheType: firecracker.CacheWriteback},
	}
	if f.modules != "" {
		drives = append(drives, firecracker.Drive{DriveID: "modules", PathOnHost: f.modules, IsReadOnly: true})
	}
	args := kernelArgs(name, append(n.args(), f.args()...))
	limit := &firecracker.TokenBucket{Size: consoleBytesPerSecond, RefillTimeMS: 1000}
	return bootPlan{
		machine: firecracker.MachineConfig{VCPUCount: cpus, MemSizeMiB: memoryMiB},
		source:  firecracker.BootSource{KernelImagePath: f.vmlinux, InitrdPath: f.initrd, BootArgs: args},
		drives:  drives,
		nics:    n.interfaces(),
		vsock:   firecracker.Vsock{GuestCID: guestCID, UDSPath: dir.VsockSocket()},
		serial:  firecracker.Serial{SerialOutPath: dir.ConsoleLog(), RateLimiter: limit},
		balloon: firecracker.Balloon{DeflateOnOOM: true, FreePageReporting: true},
	}
}
