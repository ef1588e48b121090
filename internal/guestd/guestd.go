// Package guestd is banger-guest: the init and the agent of every VM, one static program in the
// initramfs.
//
// As PID 1 it boots the VM (package boot), which starts it a second time as the agent (package
// agent).
package guestd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"banger/internal/guestd/agent"
	"banger/internal/guestd/boot"
	"banger/internal/guestd/system"
)

// Process is what the program is given: arguments, number and where errors go.
type Process struct {
	Args   []string // without the program's name
	PID    int
	Build  string // version of this program
	Stderr io.Writer
}

// Run is the whole program, and gives its exit code.
func Run(ctx context.Context, p Process) int {
	// Go code on one CPU at a time: what runs here moves bytes and waits, and to wake a second
	// virtual CPU costs more than it brings. Measured under emulation, one CPU halves the time of
	// the smallest call.
	runtime.GOMAXPROCS(1)
	log := slog.New(slog.NewTextHandler(p.Stderr, nil)).With("program", "banger-guest")
	if p.PID == 1 {
		boot.Run(ctx, log)
	}
	if err := run(ctx, p, log); err != nil {
		fmt.Fprintf(p.Stderr, "banger-guest: %v\n", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, p Process, log *slog.Logger) error {
	switch {
	case len(p.Args) == 1 && p.Args[0] == "agent":
		return runAgent(ctx, p.Build, log)
	case len(p.Args) == 1 && p.Args[0] == "version":
		_, err := fmt.Fprintln(p.Stderr, p.Build)
		return err
	}
	return errors.New("this program boots a banger machine as its /init; by hand it only knows: version")
}

func runAgent(ctx context.Context, build string, log *slog.Logger) error {
	record, err := system.ReadRecord(system.RecordPath)
	if err != nil {
		return fmt.Errorf("read boot record: %w", err)
	}
	server := agent.New(agent.Config{Build: build, Record: record, Root: "/", Log: log})
	defer server.Close()
	if err := server.Protect(); err != nil {
		return err
	}
	if err := agent.SlackTimers(); err != nil {
		log.Debug("slack timers", "err", err)
	}
	return server.ServeHost(ctx)
}
