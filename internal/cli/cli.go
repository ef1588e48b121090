// Package cli is the command line: one subcommand a file, each a thin layer over the daemon's API.
// Standard streams, arguments and the environment enter as a value, so tests run whole commands in
// their own process.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

// Exit codes besides those of the commands run in a VM.
const (
	exitFailure = 1
	exitUsage   = 2
)

// Process is what a command gets from the process it runs in.
type Process struct {
	Args           []string // without the program's name
	Stdin          *os.File
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// app is one run of the CLI.
type app struct {
	Process
	config   config.Config
	settings []api.Setting
	client   *api.Client // see newClient
	json     bool
	quiet    bool

	patience   time.Duration // with a daemon that makes way; see handoverPatience
	daemonTurn chan struct{} // full while a request sees to it that there is a daemon

	mu       sync.Mutex // guards onSignal
	onSignal func(os.Signal)
}

// exitCode is an error that only carries the exit code of a command in a VM.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Run runs one command line and returns the process's exit code.
func Run(ctx context.Context, p Process) int {
	a := &app{Process: p, patience: handoverPatience, daemonTurn: make(chan struct{}, 1)}
	defer func() {
		if a.client != nil {
			a.client.CloseIdle()
		}
	}()
	ctx, stop := a.handleSignals(ctx)
	defer stop()
	root := a.root()
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) || api.CodeOf(err) == api.CodeCanceled && ctx.Err() != nil {
		if s, ok := errors.AsType[signalError](context.Cause(ctx)); ok {
			return 128 + s.number()
		}
	}
	a.printError(err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailure
}

// printError shows what went wrong and what to do about it.
func (a *app) printError(err error) {
	fmt.Fprintf(a.Stderr, "banger: %v\n", err)
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return
	}
	for _, line := range advice(e) {
		fmt.Fprintf(a.Stderr, "  %s\n", line)
	}
}

// signalError is the cause of a context that a signal ended.
type signalError struct{ os.Signal }

func (s signalError) Error() string { return "interrupted by " + s.String() }

// Is makes it a cancellation: net/http, for one, returns the cause in place of context.Canceled.
func (s signalError) Is(target error) bool { return target == context.Canceled }

// number is the signal's number; every signal of Linux has one.
func (s signalError) number() int {
	number, _ := s.Signal.(syscall.Signal)
	return int(number)
}

// handleSignals returns a context that an interrupt ends, unless a session forwards signals
// meanwhile.
func (a *app) handleSignals(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			a.mu.Lock()
			handle := a.onSignal
			a.mu.Unlock()
			if handle == nil {
				cancel(signalError{s})
				continue
			}
			handle(s)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(nil)
	}
}

// forwardSignals gives signals to handle instead of ending the command, until the returned function
// is called.
func (a *app) forwardSignals(handle func(os.Signal)) (restore func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onSignal = handle
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.onSignal = nil
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "banger",
		Short: "A development machine in one command",
		Long: `banger runs real Linux microVMs, each with its own kernel, disk and processes,
without root and, where there is no KVM, without that too.`,
		Example: `  banger run                        # a new machine and a shell in it
  banger run --rm -- uname -a       # one command in a machine that is gone afterwards
  banger ls`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{api.Errorf(api.CodeInvalid, "unknown command %q", args[0]).WithHint("see: banger --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			a.config, a.settings, err = config.Load(a.Getenv)
			if err == nil {
				a.client = a.newClient()
			}
			return err
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{api.Errorf(api.CodeInvalid, "%w", err).WithHint("see: %s --help", cmd.CommandPath())}
	})
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print the API's own JSON")
	root.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false, "do not show progress")
	root.AddGroup(
		&cobra.Group{ID: groupMachines, Title: "Machines:"},
		&cobra.Group{ID: groupInside, Title: "Inside a machine:"},
		&cobra.Group{ID: groupHost, Title: "This host:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		groupMachines: {
			a.runCommand(), a.createCommand(), a.startCommand(), a.stopCommand(), a.restartCommand(),
			a.killCommand(), a.rmCommand(), a.lsCommand(), a.inspectCommand(), a.waitCommand(),
			a.natCommand(), a.forwardCommand(), a.openCommand(), a.hostServiceCommand(),
		},
		groupInside: {
			a.execCommand(), a.shellCommand(), a.sshCommand(), a.sshProxyCommand(), a.cpCommand(),
			a.logsCommand(), a.statsCommand(), a.portsCommand(),
		},
		groupHost: {
			a.imageCommand(), a.kernelCommand(), a.doctorCommand(), a.daemonCommand(), a.sshConfigCommand(),
			a.dnsCommand(), a.netnsCommand(), a.configCommand(), a.versionCommand(),
		},
	} {
		for _, command := range commands {
			command.GroupID = group
			root.AddCommand(command)
		}
	}
	return root
}

const (
	groupMachines = "machines"
	groupInside   = "inside"
	groupHost     = "host"
)

// args makes cobra's argument check report bad usage, with the command's own usage line.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := check(cmd, given); err != nil {
			return usageError{api.Errorf(api.CodeInvalid, "%w", err).WithHint("usage: %s", cmd.UseLine())}
		}
		return nil
	}
}

// group makes a command that only holds others.
func group(use, short, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example,
		Args: func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 {
				return badUsage(cmd, "unknown command %q", given[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// badUsage is a usage error with a hint to the command's help.
func badUsage(cmd *cobra.Command, format string, args ...any) error {
	return usageError{api.Errorf(api.CodeInvalid, format, args...).WithHint("see: %s --help", cmd.CommandPath())}
}
