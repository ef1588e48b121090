package cli

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"banger/internal/host"
	"banger/internal/network"
	"banger/internal/network/holder"
	"banger/internal/network/keeper"
)

// netnsCommand holds the two processes of the network, which the daemon starts. See package
// network.
func (a *app) netnsCommand() *cobra.Command {
	cmd := group("netns", "The processes that hold the machines' network; the daemon starts them", "  banger netns keep",
		&cobra.Command{
			Use: "keep", Short: "Keep the network: uplink, DNS, control", Example: "  banger netns keep", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error {
				tools, err := host.FindTools()
				if err != nil {
					return err
				}
				signal.Ignore(syscall.SIGHUP, syscall.SIGINT) // they are meant for the command that the daemon served
				return keeper.Serve(cmd.Context(), keeper.Config{
					Home: a.config.Home, Subnet: a.config.Subnet, Rootless: os.Geteuid() != 0, ResolvConf: "/etc/resolv.conf",
					Holder: []string{tools.Self, "netns", "hold"}, Ready: os.NewFile(network.ReadyFD, "ready"),
				}, a.logger())
			},
		},
		&cobra.Command{
			Use: "hold", Short: "Hold the namespaces", Example: "  banger netns hold", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error {
				signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
				return holder.Run(cmd.Context(), a.logger())
			},
		},
	)
	cmd.Hidden = true
	return cmd
}

func (a *app) logger() *slog.Logger { return slog.New(slog.NewTextHandler(a.Stderr, nil)) }
