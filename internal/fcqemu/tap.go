package fcqemu

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openTap attaches to a tap device by name, and makes it when it is missing and the user may.
func openTap(name string) (*os.File, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("Invalid interface name %.50q", name)
	}
	// QEMU wants a descriptor that the runtime's poller does not have.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("Couldn't open /dev/net/tun: %s", osError(err))
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf(
			"Error while creating ifreq structure: %s. Invalid TUN/TAP Backend provided by %s. Check our documentation on setting up the network devices.",
			osError(err),
			name,
		)
	}
	return os.NewFile(uintptr(fd), name), nil
}
