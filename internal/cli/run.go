package cli

import (
	"context"
	"errors"
	"fmt"
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
			condition := api.WaitFor(waitFor)
			switch {
			case condition != api.WaitRunning && condition != api.WaitBooted:
				return badUsage(cmd, "--wait: %q is neither %s nor %s", waitFor, api.WaitRunning, api.WaitBooted)
			case detach && cmd.Flags().Changed("entrypoint"):
				return badUsage(cmd, "-d starts no command: --entrypoint has nothing to do")
			case detach && len(argv) > 0:
				return badUsage(cmd, "-d leaves the machine running without a command; run one with: banger exec NAME -- COMMAND")
			case a.json && !detach:
				return badUsage(cmd, "--json needs -d: the output is the command's")
			}
			want.AutoRemove, want.Lease = remove, remove && !detach
			command := func(image api.ImageDefaults) []string { return commandOf(image, argv, nil) }
			if cmd.Flags().Changed("entrypoint") {
				command = func(image api.ImageDefaults) []string { return commandOf(image, argv, &entrypoint) }
			}
			return a.run(cmd.Context(), want, condition, detach, command)
		},
	}
	flags.register(a, cmd)
	cmd.Flags().BoolVar(&remove, "rm", false, "remove the machine afterwards, whatever happens")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "leave the machine running and print its name")
	cmd.Flags().StringVar(&entrypoint, "entrypoint", "", "program to put before COMMAND instead of the image's entrypoint; \"\" for none")
	cmd.Flags().StringVar(&waitFor, "wait", string(api.WaitRunning), "what to wait for before the command: running (the agent answers) or booted (all services are up)")
	registerCompletion(cmd, "wait", cobra.FixedCompletions([]string{string(api.WaitRunning), string(api.WaitBooted)}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// run makes a machine, starts it, and runs in it what command makes of its image's defaults; nil is a shell.
func (a *app) run(ctx context.Context, want api.CreateVM, condition api.WaitFor, detach bool, command func(api.ImageDefaults) []string) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer client.CloseIdle()
	display := a.newDisplay()
	vm, err := a.bringUp(ctx, client, want, condition, display)
	display.close()
	if err == nil && detach {
		if a.json {
			return a.printJSON(vm)
		}
		_, err = fmt.Fprintln(a.Stdout, vm.Name)
		return err
	}
	var image api.Image
	if err == nil {
		image, err = client.Image(ctx, vm.ImageID)
	}
	if err == nil {
		argv := command(image.Defaults)
		if len(argv) == 0 && !want.AutoRemove {
			fmt.Fprintf(a.Stderr, "machine %s; it goes on when you leave: banger shell %s, banger stop %s\n", vm.Name, vm.Name, vm.Name)
		}
		err = a.session(ctx, client, vm.ID, api.Exec{Argv: argv}, sessionOptions{stdin: true, tty: a.onTerminal()})
	}
	if !want.AutoRemove || vm.ID == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return errors.Join(err, a.removeAfterRun(ctx, vm.ID))
}

// bringUp creates and starts the machine. On an error the returned VM has an ID if it exists and must be removed.
func (a *app) bringUp(ctx context.Context, client *api.Client, want api.CreateVM, condition api.WaitFor, d display) (api.VM, error) {
	vm, err := client.CreateVM(ctx, want, d.show)
	if err != nil {
		return vm, err
	}
	if want.Lease {
		if err := client.LeaseVM(ctx, vm.ID); err != nil {
			return vm, err
		}
	}
	started, err := client.StartVM(ctx, vm.ID, d.show)
	if err != nil {
		return vm, err
	}
	if condition == api.WaitBooted {
		d.show(api.Progress{Stage: "wait for boot", State: api.ProgressRunning})
		began := time.Now()
		_, err = client.WaitVM(ctx, vm.ID, condition)
		d.show(api.Progress{Stage: "wait for boot", State: api.ProgressDone, ElapsedMS: time.Since(began).Milliseconds()})
	}
	return started, err
}

// removeAfterRun connects anew: the daemon may have been replaced, or may have died, during a long run.
func (a *app) removeAfterRun(ctx context.Context, id string) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer client.CloseIdle()
	return client.RemoveVM(ctx, id, true)
}
