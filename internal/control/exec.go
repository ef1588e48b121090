package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"banger/api"
	"banger/internal/guest"
)

// execStartTimeout is how long a guest may take to start a command; fifty at once under emulation
// take seconds.
const execStartTimeout = time.Minute

// Exec starts a command in a running machine. The start ends with ctx; the command goes on until it
// ends, is closed, or session ends.
func (c *Control) Exec(ctx, session context.Context, in api.Exec) (*guest.Exec, error) {
	agent, v, err := c.o.VMs.Agent(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	defaults, err := c.o.Images.Defaults(v.ImageID)
	if err != nil {
		return nil, err
	}
	return startCommand(session, ctx, agent, v.Name, execSpec(in, v.Env, defaults))
}

// startCommand starts a command that lives with ctx. The start itself also ends with the client's
// context, and with a deadline: a guest may be wedged.
func startCommand(ctx, client context.Context, agent *guest.Client, name string, spec guest.ExecSpec) (*guest.Exec, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	started := context.AfterFunc(client, func() { cancel(context.Canceled) })
	timer := time.AfterFunc(execStartTimeout, func() {
		cancel(api.Errorf(api.CodeTimeout, "the guest did not start the command within %s", execStartTimeout).
			WithRemedy(api.OpLogs.Remedy(api.Logs{Machine: name}, "look at its console")))
	})
	command, err := agent.Exec(ctx, spec)
	if started() && timer.Stop() && err == nil {
		return command, nil
	}
	if err == nil {
		command.Close()
		err = context.Cause(ctx)
	}
	cancel(nil)
	return nil, err
}

// execSpec is what the guest is asked to run: what the image says, below what the VM says, below
// what the caller says.
func execSpec(e api.Exec, vmEnv []string, image api.ImageDefaults) guest.ExecSpec {
	spec := guest.ExecSpec{
		Argv: e.Argv, Env: slices.Concat(image.Env, vmEnv, e.Env),
		Dir: cmp.Or(e.Dir, image.WorkDir), User: cmp.Or(e.User, image.User), NoStdin: !e.Stdin,
	}
	if e.TTY != nil {
		spec.Terminal = &guest.Terminal{Rows: e.TTY.Rows, Cols: e.TTY.Cols, Term: e.TTY.Term}
	}
	return spec
}
