// Package system is what the two processes of banger-guest, boot and agent, must agree on: where
// the boot leaves its record and this program, which kinds of init there are, and how the machine
// is reset. It stands below both, so that neither knows the other.
package system

import (
	"time"

	"golang.org/x/sys/unix"
)

// Paths that the boot leaves behind.
const (
	RunDir     = "/run/banger"            // survives the hand-over: systemd keeps a /run which it finds mounted
	Binary     = RunDir + "/banger-guest" // this program, once the initramfs is gone
	RecordPath = RunDir + "/boot.json"    // the Record of this boot
)

// DefaultPath is the PATH of processes for which the image says nothing.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Kinds of init, by what is to be asked of them later.
const (
	InitSystemd  = "systemd"
	InitOpenRC   = "openrc" // under openrc-init, or under busybox or sysvinit
	InitSysvinit = "sysvinit"
	InitBusybox  = "busybox"
	InitOther    = "other"
	InitNone     = "none" // banger-guest stays PID 1
)

// Uptime is the time since the kernel started, 0 when the kernel does not say.
func Uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// Reset syncs the disks and resets the machine at once. It returns only when the kernel refuses.
func Reset() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
