// Command banger-guest is the init and the agent of a banger VM: see internal/guestd.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"banger/internal/guestd"
)

// build is the program's version, set by the linker: -X main.build=...
var build = "devel"

func main() {
	ctx := context.Background()
	if os.Getpid() != 1 { // PID 1 has its own way with signals
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
		defer stop()
	}
	process := guestd.Process{Args: os.Args[1:], PID: os.Getpid(), Build: build, Stderr: os.Stderr}
	os.Exit(guestd.Run(ctx, process))
}
