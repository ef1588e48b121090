// Command firecracker-qemu takes Firecracker's command line and REST API and runs the microVM under
// QEMU.
package main

import (
	"context"
	"os"

	"banger/internal/fcqemu"
)

// SIGTERM and SIGINT are not handled: they end the process with an error status, as they end
// Firecracker, and QEMU dies with it.
func main() {
	os.Exit(fcqemu.Run(context.Background(), fcqemu.Process{
		Args: os.Args[1:], Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
