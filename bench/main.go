// Command bench measures banger beside the least that could do the same work, in one run: a cold
// `banger run` beside a bare QEMU, a warm exec beside fork+exec over a raw serial port, and so on;
// a file each. Contenders take turns, so that what else the host does hits all of them alike.
//
// It prints a table, and writes every sample to bench/results.json. A target that is missed is
// shown and fails nothing: only what could not be measured is an error. It runs firecracker-qemu
// also where Firecracker works, because that is what a bare QEMU can be compared with.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
