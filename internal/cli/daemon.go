package cli

import (
	"context"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/daemon"
	"banger/internal/host"
)

func (a *app) daemonCommand() *cobra.Command {
	cmd := group("daemon", "The process behind the commands; it starts by itself", "  banger daemon status\n  banger daemon stop",
		a.daemonRunCommand(), a.daemonStatusCommand(), a.daemonStopCommand())
	cmd.Long = `The daemon starts by itself at the first command and is replaced when another build of banger is run.
Machines outlive it: they go on when it ends, and the next one finds them.`
	return cmd
}

func (a *app) daemonRunCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "run",
		Short:   "Be the daemon, in the foreground",
		Example: "  banger daemon run",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tools, err := host.FindTools()
			if err != nil {
				return err
			}
			signal.Ignore(syscall.SIGHUP) // the terminal of the command that started it may go
			return daemon.Run(cmd.Context(), daemon.Options{Config: a.config, Settings: a.settings, Tools: tools, Log: a.logger()})
		},
	}
}

func (a *app) daemonStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Say whether the daemon runs",
		Example: "  banger daemon status --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := a.running(cmd.Context())
			return show(a, status, err, func(status api.DaemonStatus) error {
				rows := [][]string{
					{"pid", strconv.Itoa(status.PID)},
					{"version", status.Version},
					{"home", status.Home},
					{"socket", status.Socket},
					{"up", seconds(time.Duration(status.UptimeMS) * time.Millisecond)},
					{"memory", size(status.RSSBytes)},
					{"machines", fmt.Sprintf("%d, %d running", status.Machines, status.RunningMachines)},
				}
				if status.Draining {
					rows = append(rows, []string{"being replaced", "waits for " + strings.Join(status.Left, ", ")})
				}
				return a.table(rows)
			})
		},
	}
}

// running asks the daemon that runs, whichever build it is of, and starts none.
func (a *app) running(ctx context.Context) (api.DaemonStatus, error) {
	plain := api.NewClient(a.config.Home.Socket())
	defer plain.CloseIdle()
	status, err := askStatus(ctx, plain)
	if nobodyListens(err) {
		return status, api.Errorf(api.CodeUnavailable, "no daemon runs for %s", a.config.Home).
			WithHint("any command starts it, such as: banger ls")
	}
	return status, err
}

func (a *app) daemonStopCommand() *cobra.Command {
	var purge, drain bool
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "End the daemon; running machines go on",
		Long: `End the daemon; running machines go on. Commands that are under way end with it, and so do the machines of "run --rm";
with --drain it waits for changes, and lets sessions go on until they end. With --purge-network all that there is of the machines' network goes first,
also what killed processes left on this host: namespace, link, route and rules. Machines that use it must be stopped.`,
		Example: "  banger daemon stop\n  banger daemon stop --drain\n  banger daemon stop --purge-network",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if purge { // it takes a daemon to know who uses the network
				return a.client.StopDaemon(cmd.Context(), api.StopDaemon{PurgeNetwork: true, Drain: drain})
			}
			plain := api.NewClient(a.config.Home.Socket())
			defer plain.CloseIdle()
			err := plain.StopDaemon(cmd.Context(), api.StopDaemon{Drain: drain})
			if nobodyListens(err) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&drain, "drain", false, "wait for what is under way")
	cmd.Flags().BoolVar(&purge, "purge-network", false, "also take down the machines' network")
	return cmd
}
