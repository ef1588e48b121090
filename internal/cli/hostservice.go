package cli

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) hostServiceCommand() *cobra.Command {
	cmd := group("host-service", "Let a machine reach ports of this host's loopback",
		"  banger host-service add web 5432\n  banger host-service rm web 5432\n  banger host-service ls",
		a.hostServiceChange("add", "Let a machine reach ports of this host's loopback, at once", func(have, ports []int) []int {
			for _, port := range ports {
				if !slices.Contains(have, port) {
					have = append(have, port)
				}
			}
			return have
		}),
		a.hostServiceChange("rm", "Let a machine reach ports no more; its connections to them end", func(have, ports []int) []int {
			return slices.DeleteFunc(have, func(port int) bool { return slices.Contains(ports, port) })
		}),
		a.hostServiceListCommand())
	cmd.Long = `A machine reaches no service of this host. One that listens on this host's loopback can be let in, for this machine
alone: the machine finds it at its gateway's address (banger inspect says which), and the service sees a connection
from this host.`
	return cmd
}

func (a *app) hostServiceChange(verb, short string, change func(have, ports []int) []int) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " NAME PORT...",
		Short:             short,
		Example:           fmt.Sprintf("  banger host-service %s web 5432", verb),
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			var ports []int
			for _, text := range given[1:] {
				port, err := strconv.ParseUint(text, 10, 16)
				if err != nil || port == 0 {
					return badUsage(cmd, "%q is no TCP port", text)
				}
				ports = append(ports, int(port))
			}
			vm, err := a.client.Machine(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			have := append([]int{}, vm.HostServices...) // none is an empty list on the wire, not null
			vm, err = a.client.SetHostServices(cmd.Context(), api.SetHostServices{Machine: vm.ID, Ports: change(have, ports)})
			return show(a, vm, err, a.printHostServices)
		},
	}
}

func (a *app) hostServiceListCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "ls [NAME...]",
		Aliases:           []string{"list"},
		Short:             "List what machines may reach, of all machines or of some",
		Example:           "  banger host-service ls web",
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return listOfVMs(cmd.Context(), a, names, []string{"PORT", "REACHED AT"},
				func(vm api.Machine) []int { return vm.HostServices },
				func(vm api.Machine, port int) []string {
					return []string{strconv.Itoa(port), fmt.Sprintf("%s:%d", vm.Gateway, port)}
				})
		},
	}
}

// printHostServices says where the machine finds what it may reach.
func (a *app) printHostServices(vm api.Machine) error {
	for _, port := range vm.HostServices {
		if _, err := fmt.Fprintf(a.Stdout, "%s:%d\n", vm.Gateway, port); err != nil {
			return err
		}
	}
	return nil
}
