package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) waitCommand() *cobra.Command {
	var condition string
	var timeout time.Duration
	conditions := []string{string(api.WaitRunning), string(api.WaitBooted), string(api.WaitStopped)}
	cmd := &cobra.Command{
		Use:   "wait NAME",
		Short: "Wait until a machine runs, has booted, listens on a port or has stopped",
		Example: `  banger wait web --for booted
  banger wait web --for port:8080
  banger wait web --for stopped --timeout 10m`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(
					ctx,
					timeout,
					api.Errorf(api.CodeTimeout, "%s was not %s within %s", given[0], condition, timeout),
				)
				defer cancel()
			}
			vm, err := a.wait(ctx, api.WaitMachine{Machine: given[0], For: api.WaitFor(condition)})
			if ctx.Err() != nil && cmd.Context().Err() == nil {
				return context.Cause(ctx)
			}
			return show(a, vm, err, func(api.Machine) error { return nil })
		},
	}
	cmd.Flags().
		StringVar(&condition, "for", string(api.WaitRunning), "running (the agent answers), booted (all services are up), port:N (something listens on that TCP port in it) or stopped")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time (default: never)")
	registerCompletion(cmd, "for", cobra.FixedCompletions(conditions, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// wait asks again when the daemon was replaced meanwhile.
func (a *app) wait(ctx context.Context, in api.WaitMachine) (api.Machine, error) {
	for {
		vm, err := a.client.WaitMachine(ctx, in)
		if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.CodeReplaced {
			continue
		}
		return vm, err
	}
}
