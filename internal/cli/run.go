package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

// removeTimeout bounds the removal of a machine after its run, which an interrupt does not end.
const removeTimeout = time.Minute

func (a *app) runCommand() *cobra.Command {
	var flags vmFlags
	var remove, detach bool
	var waitFor, entrypoint string
	cmd := &cobra.Command{
		Use:   "run [flags] [-- COMMAND...]",
		Short: "Make and start a machine, then run a command or a shell in it",
		Long: `Make and start a machine, then run COMMAND in it with this terminal, or a login shell when there is none.
The exit code is the command's. A missing image or kernel is made first.

An image from a registry brings defaults of its own, which are used as in a container: its environment, working
directory and user; its entrypoint stands before COMMAND, and without COMMAND its own command runs, unless that is
only a shell or an init. With -d nothing of it is started: the machine runs the image's init, if it has one.`,
		Example: `  banger run                                   # a shell in a new machine
  banger run --rm -- cat /etc/os-release       # the machine is gone afterwards
  banger run -d --name web --memory 2GiB       # leave it running
  tar c . | banger run --rm -- tar tv          # pipes work
  banger run --rm --image oci:python:3-slim    # what "docker run -it" runs`,
		Args: args(func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 && cmd.ArgsLenAtDash() != 0 {
				return fmt.Errorf("unexpected %q: the command goes behind --", given[0])
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, argv []string) error {
			want, err := flags.request(a, cmd)
			if err != nil {
				return err
			}
			in := api.Run{
				Machine: want, Wait: api.WaitFor(waitFor), Detach: detach, Argv: argv,
				BootTimeoutMS: a.config.BootTimeout.Milliseconds(),
			}
			in.Machine.AutoRemove = remove
			if cmd.Flags().Changed("entrypoint") {
				in.Entrypoint = &entrypoint
			}
			switch {
			case in.Wait != api.WaitRunning && in.Wait != api.WaitBooted:
				return badUsage(cmd, "--wait: %q is neither %s nor %s", waitFor, api.WaitRunning, api.WaitBooted)
			case detach && in.Entrypoint != nil:
				return badUsage(cmd, "-d starts no command: --entrypoint has nothing to do")
			case detach && len(argv) > 0:
				return badUsage(cmd, "-d leaves the machine running without a command; run one with: banger exec NAME -- COMMAND")
			case a.json && !detach:
				return badUsage(cmd, "--json needs -d: the output is the command's")
			}
			return a.run(cmd.Context(), in)
		},
	}
	flags.register(a, cmd)
	cmd.Flags().BoolVar(&remove, "rm", false, "remove the machine afterwards, whatever happens")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "leave the machine running and print its name")
	cmd.Flags().StringVar(&entrypoint, "entrypoint", "", "program to put before COMMAND instead of the image's entrypoint; \"\" for none")
	cmd.Flags().
		StringVar(&waitFor, "wait", string(api.WaitRunning), "what to wait for before the command: running (the agent answers) or booted (all services are up)")
	registerCompletion(
		cmd,
		"wait",
		cobra.FixedCompletions([]string{string(api.WaitRunning), string(api.WaitBooted)}, cobra.ShellCompDirectiveNoFileComp),
	)
	return cmd
}

// run makes a machine, starts it, and runs a command in it.
func (a *app) run(ctx context.Context, in api.Run) error {
	options := sessionOptions{stdin: !in.Detach, tty: !in.Detach && a.onTerminal()}
	in.Stdin, in.TTY = options.stdin, a.terminal(options)
	display := a.newDisplay()
	shown := sync.OnceFunc(display.close)
	defer shown()
	conn, err := a.client.Run(ctx, in)
	if err != nil {
		return err
	}
	defer conn.Close()
	vm, err := a.bringUp(ctx, conn, in, display)
	shown()
	switch {
	case err != nil:
	case in.Detach:
		return show(a, vm, nil, a.printName)
	default:
		err = a.converse(ctx, conn, options)
	}
	if !in.Machine.AutoRemove || in.Detach || vm.ID == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	removeErr := a.removeAfterRun(ctx, conn, vm.ID)
	if _, ended := errors.AsType[exitCode](err); ended && removeErr != nil {
		a.printError(removeErr) // the exit code stays the command's
		return err
	}
	return errors.Join(err, removeErr)
}

// bringUp shows the run's progress until its command has started, or the run has failed. On an
// error the returned VM has an ID if it exists.
func (a *app) bringUp(ctx context.Context, conn *api.FrameConn, in api.Run, d display) (api.Machine, error) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		frame, err := conn.Read()
		if ctx.Err() != nil {
			return api.Machine{}, context.Cause(ctx)
		}
		if err != nil {
			return api.Machine{}, brokenConnection(err)
		}
		switch frame.Type {
		case api.FrameProgress:
			var p api.Progress
			if err := json.Unmarshal(frame.Payload, &p); err != nil {
				return api.Machine{}, fmt.Errorf("read progress: %w", err)
			}
			d.show(p)
		case api.FrameExit:
			return api.Machine{}, a.exit(frame)
		case api.FrameStarted:
			var started api.RunStarted
			if err := json.Unmarshal(frame.Payload, &started); err != nil {
				return api.Machine{}, fmt.Errorf("read the run's start: %w", err)
			}
			d.close()
			if name := started.Machine.Name; len(started.Argv) == 0 && !in.Machine.AutoRemove && !in.Detach {
				fmt.Fprintf(a.Stderr, "machine %s; it goes on when you leave: banger shell %s, banger stop %s\n", name, name, name)
			}
			return started.Machine, nil
		}
	}
}

// removeAfterRun waits until the daemon has removed the machine, which it does after the command's
// end and before it closes the connection. A daemon that died, or was replaced by none, leaves that
// to the next one.
func (a *app) removeAfterRun(ctx context.Context, conn *api.FrameConn, id string) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for { // the daemon sends nothing more
		if _, err := conn.Read(); err != nil {
			break
		}
	}
	_, err := a.client.Machine(ctx, id) // which a daemon that makes way answers at once
	if err == nil {
		err = a.client.RemoveMachine(ctx, api.RemoveMachine{Machine: id, Force: true})
	}
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	return err
}
