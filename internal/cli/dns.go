package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/network"
	"banger/internal/network/uplink"
)

func (a *app) dnsCommand() *cobra.Command {
	var install, uninstall bool
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Have this host find machines as NAME.vm",
		Long: `Have this host find machines as NAME.vm, by asking the machines' name server for these names and no others. This takes
root's network, which the host has a route to, and systemd-resolved. Without it nothing on the host changes. Ordinary
users reach their machines by: banger ssh-config, banger forward`,
		Example: "  banger dns --install\n  banger dns --uninstall",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := network.NewClient(a.config.Home, os.Geteuid() != 0, nil)
			switch {
			case install && uninstall:
				return badUsage(cmd, "--install and --uninstall are opposites")
			case !install && !uninstall:
				return a.sayWhetherRouted(client)
			case uninstall:
				if err := uplink.UnrouteDNS(cmd.Context(), client); err != nil {
					return err
				}
				return a.sayWhetherRouted(client)
			case os.Geteuid() != 0:
				return api.Errorf(api.CodeUnsupported, "this host cannot reach an ordinary user's machines, so their addresses would be of no use to it").
					WithHint("for ssh, scp and editors: banger ssh-config --install; for a port: banger forward")
			}
			err := uplink.RouteDNS(cmd.Context(), client)
			if errors.Is(err, uplink.ErrNoResolved) {
				return api.Errorf(api.CodeUnsupported, "%w", err).
					WithHint("have this host's own resolver ask %s for the domain %s, or use: banger ssh-config --install", network.Gateway(a.config.Subnet), network.Domain)
			}
			if err != nil {
				return err
			}
			return a.sayWhetherRouted(client)
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "have systemd-resolved ask for NAME.vm")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "take it back")
	return cmd
}

func (a *app) sayWhetherRouted(client *network.Client) error {
	text := "this host does not ask for names of machines"
	if uplink.DNSRouted(client.Dir()) {
		text = fmt.Sprintf(
			"this host asks %s for NAME.%s while the machines' network runs",
			network.Gateway(a.config.Subnet),
			network.Domain,
		)
	}
	_, err := fmt.Fprintln(a.Stdout, text)
	return err
}
