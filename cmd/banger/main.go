// Command banger is a development machine in one command: the CLI and, as `banger daemon run`, the
// daemon.
package main

import (
	"context"
	"os"

	"banger/internal/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), cli.Process{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
	}))
}
