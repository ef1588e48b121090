package control

import (
	"context"
	"errors"
	"strings"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/progress"
)

// Run makes a machine, starts it and runs a command in it. started is called once with the machine
// and its command, which is nil with Detach; it returns when the command has ended. ctx is the
// client: when it ends before, the run is undone as far as creating and starting undo themselves,
// and with AutoRemove the machine is gone when Run returns.
func (c *Control) Run(ctx context.Context, in api.Run, started func(api.RunStarted, *guest.Exec) error) error {
	if err := checkRun(in); err != nil {
		return err
	}
	// Until the command runs, this is a change like any other: a daemon that is being replaced
	// waits for it.
	leave, err := c.Gate.Enter(strings.TrimSpace("run " + in.Machine.Name))
	if err != nil {
		return err
	}
	defer leave()
	in.Machine.Lease = in.Machine.AutoRemove && !in.Detach
	v, err := c.CreateMachine(ctx, in.Machine)
	if err != nil {
		return err
	}
	if !in.Machine.Lease {
		return c.runIn(ctx, v, in, leave, started)
	}
	release, err := c.holdLease(ctx, v.ID)
	if err != nil {
		return errors.Join(err, c.o.VMs.Remove(ctx, v.ID, true))
	}
	err = c.runIn(ctx, v, in, leave, started)
	return errors.Join(err, release())
}

func checkRun(in api.Run) error {
	switch {
	case in.Wait != "" && in.Wait != api.WaitRunning && in.Wait != api.WaitBooted:
		return api.Errorf(api.CodeInvalid, "cannot wait for %q before a command", in.Wait).
			WithHint("one of %s, %s", api.WaitRunning, api.WaitBooted)
	case in.Detach && (len(in.Argv) > 0 || in.Entrypoint != nil):
		return api.Errorf(api.CodeInvalid, "a run that is detached starts no command")
	case in.Machine.Lease:
		return api.Errorf(api.CodeInvalid, "a run leases its machine by itself").WithHint("ask for auto_remove")
	}
	return nil
}

// holdLease ties a machine to ctx. release ends that, removes the machine, and returns when it is
// gone.
func (c *Control) holdLease(ctx context.Context, id string) (release func() error, err error) {
	ctx, end := context.WithCancel(ctx)
	held, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.LeaseMachine(ctx, api.MachineRef{Machine: id}, func() { close(held) }) }()
	select {
	case <-held:
		return func() error {
			end()
			return <-ended
		}, nil
	case err := <-ended:
		end()
		return nil, err
	}
}

// runIn starts a machine that was just made, and its command.
func (c *Control) runIn(
	ctx context.Context, v api.Machine, in api.Run, leave func(), started func(api.RunStarted, *guest.Exec) error,
) error {
	v, err := c.StartMachine(ctx, api.StartMachine{Machine: v.ID, BootTimeoutMS: in.BootTimeoutMS})
	if err != nil {
		return err
	}
	if in.Wait == api.WaitBooted {
		if err := c.awaitBoot(ctx, v.ID); err != nil {
			return err
		}
	}
	if in.Detach {
		return started(api.RunStarted{Machine: v}, nil)
	}
	defaults, err := c.o.Images.Defaults(v.ImageID)
	if err != nil {
		return err
	}
	argv := commandOf(defaults, in.Argv, in.Entrypoint)
	command, err := c.Exec(ctx, ctx, api.Exec{
		Machine: v.ID, Argv: argv, Env: in.Env, Dir: in.Dir, User: in.User, TTY: in.TTY, Stdin: in.Stdin,
	})
	if err != nil {
		return err
	}
	defer command.Close()
	leave()
	return started(api.RunStarted{Machine: v, Argv: argv}, command)
}

func (c *Control) awaitBoot(ctx context.Context, id string) (err error) {
	stage := progress.Start(ctx, "wait for boot")
	defer func() { stage.End(err) }()
	_, err = c.WaitMachine(ctx, api.WaitMachine{Machine: id, For: api.WaitBooted})
	return err
}
