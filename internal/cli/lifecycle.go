package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) startCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "start NAME...",
		Short:             "Start machines and wait until they answer",
		Example:           "  banger start brave-otter calm-fox",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachVM(
				cmd,
				names,
				func(ctx context.Context, c *api.Client, name string, progress func(api.Progress)) (api.Machine, error) {
					return c.StartMachine(
						ctx,
						api.StartMachine{Machine: name, BootTimeoutMS: a.config.BootTimeout.Milliseconds()},
						progress,
					)
				},
			)
		},
	}
}

func (a *app) stopCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop NAME...",
		Short: "Shut machines down; nothing written is lost",
		Long: `Shut machines down: the disks are synced and the machine's init system ends its services.
A machine that does not end in time is killed.`,
		Example:           "  banger stop brave-otter\n  banger stop --timeout 10s brave-otter calm-fox",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachVM(
				cmd,
				names,
				func(ctx context.Context, c *api.Client, name string, progress func(api.Progress)) (api.Machine, error) {
					return c.StopMachine(ctx, api.StopMachine{Machine: name, TimeoutMS: a.stopTimeoutMS(timeout)}, progress)
				},
			)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "time for the machine's own shutdown (default from the settings)")
	return cmd
}

// stopTimeoutMS is the time that the user gives a machine's own shutdown.
func (a *app) stopTimeoutMS(flag time.Duration) int64 {
	if flag > 0 {
		return max(flag.Milliseconds(), 1) // 0 would be the daemon's own
	}
	return a.config.StopTimeout.Milliseconds()
}

func (a *app) restartCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:               "restart NAME...",
		Short:             "Stop machines, then start them",
		Example:           "  banger restart brave-otter",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachVM(
				cmd,
				names,
				func(ctx context.Context, c *api.Client, name string, progress func(api.Progress)) (api.Machine, error) {
					return c.RestartMachine(ctx, api.RestartMachine{
						Machine: name, TimeoutMS: a.stopTimeoutMS(timeout), BootTimeoutMS: a.config.BootTimeout.Milliseconds(),
					}, progress)
				},
			)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "time for the machine's own shutdown (default from the settings)")
	return cmd
}

func (a *app) killCommand() *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:               "kill NAME...",
		Short:             "End machines at once, as a power cut would",
		Example:           "  banger kill brave-otter\n  banger kill --signal TERM brave-otter",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachVM(cmd, names, func(ctx context.Context, c *api.Client, name string, _ func(api.Progress)) (api.Machine, error) {
				return c.KillMachine(ctx, api.KillMachine{Machine: name, Signal: signal})
			})
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "signal for the machine's VMM process")
	return cmd
}

func (a *app) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm NAME...",
		Short:             "Delete machines and their disks",
		Example:           "  banger rm brave-otter\n  banger rm -f brave-otter calm-fox",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachVM(cmd, names, func(ctx context.Context, c *api.Client, name string, _ func(api.Progress)) (api.Machine, error) {
				vm, err := c.Machine(ctx, name)
				if err != nil {
					return vm, err
				}
				return vm, c.RemoveMachine(ctx, api.RemoveMachine{Machine: vm.ID, Force: force})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also machines that run: they are killed first")
	return cmd
}
