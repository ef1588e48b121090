package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// timerSlack is how late the agent's threads may wake from a sleep. While there is work a
	// thread of Go's runtime looks after the others every 20 µs: in an emulated guest, where work
	// takes milliseconds, most of the agent's switches and a third of all timer interrupts were
	// that.
	timerSlack = time.Millisecond
	// usualSlack is the kernel's own, for the processes that the agent starts.
	usualSlack = 50 * time.Microsecond
)

// SlackTimers gives timerSlack to all threads of this process; those that they start inherit it.
// The processes of Exec have the kernel's. Only speed is lost where it fails.
func SlackTimers() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, task := range tasks {
		file := filepath.Join("/proc", task.Name(), "timerslack_ns")
		if err := os.WriteFile(file, strconv.AppendInt(nil, timerSlack.Nanoseconds(), 10), 0); err != nil {
			return fmt.Errorf("set timer slack: %w", err)
		}
	}
	return nil
}

// withUsualSlack runs start on a thread with the kernel's slack, which a child inherits at fork.
func withUsualSlack(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := setSlack(usualSlack); err != nil {
		return err
	}
	err := start()
	if back := setSlack(timerSlack); err == nil {
		return back
	}
	return err
}

// setSlack is for the calling thread alone.
func setSlack(d time.Duration) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d.Nanoseconds()), 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	return nil
}
