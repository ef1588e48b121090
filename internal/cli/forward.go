package cli

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) forwardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forward NAME [ADDR:]HOST:GUEST[/udp]...",
		Short: "Make ports of a machine reachable at this host",
		Long: `Make ports of a machine reachable at this host, for as long as it runs, now and after each start.

ADDR is 127.0.0.1 unless given; 0.0.0.0 lets the whole network in. HOST is the port here, 0 for any free one; GUEST is
the port in the machine, whichever of its addresses has the listener. It goes through the agent, so the machine needs no
network for it, and you need no rights.`,
		Example: `  banger forward web 8080:80
  banger forward web 0.0.0.0:5353:53/udp
  banger forward ls
  banger forward rm web 8080`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			forwards, err := parseForwards(given[1:])
			if err != nil {
				return err
			}
			added := []api.Forward{}
			for _, f := range forwards {
				f, err := a.client.AddForward(cmd.Context(), addForward(given[0], f))
				if err != nil {
					return err
				}
				added = append(added, f)
			}
			return show(a, added, nil, func(added []api.Forward) error {
				for _, f := range added {
					fmt.Fprintln(a.Stdout, forwardWords(f, given[0]))
				}
				return nil
			})
		},
	}
	cmd.AddCommand(a.forwardListCommand(), a.forwardRemoveCommand())
	return cmd
}

func parseForwards(texts []string) ([]api.Forward, error) {
	var forwards []api.Forward
	for _, text := range texts {
		f, err := api.ParseForward(text)
		if err != nil {
			return nil, usageError{err}
		}
		forwards = append(forwards, f)
	}
	return forwards, nil
}

func addForward(vm string, f api.Forward) api.AddForward {
	return api.AddForward{Machine: vm, Protocol: f.Protocol, Host: f.Host, HostPort: f.HostPort, GuestPort: f.GuestPort}
}

func forwardWords(f api.Forward, vm string) string {
	return fmt.Sprintf("%s/%s -> %s:%d", f.Listen(), f.Protocol, vm, f.GuestPort)
}

func (a *app) forwardListCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "ls [NAME...]",
		Aliases:           []string{"list"},
		Short:             "List forwards, of all machines or of some",
		Example:           "  banger forward ls web",
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return listOfVMs(cmd.Context(), a, names, []string{"HOST", "PROTOCOL", "PORT", "STATE"},
				func(vm api.Machine) []api.Forward { return vm.Forwards },
				func(vm api.Machine, f api.Forward) []string {
					return []string{f.Listen(), string(f.Protocol), strconv.Itoa(int(f.GuestPort)), forwardState(vm, f)}
				})
		},
	}
}

func forwardState(vm api.Machine, f api.Forward) string {
	switch {
	case f.Error != "":
		return "failed: " + f.Error
	case vm.State == api.StateRunning:
		return "open"
	}
	return "closed: the machine is " + string(vm.State)
}

func (a *app) forwardRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME [ADDR:]HOST[:GUEST][/udp]...",
		Short: "End forwards, and the connections through them",
		Example: `  banger forward rm web 8080
  banger forward rm web 0.0.0.0:5353:53/udp`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: a.completeForwards,
		RunE: func(cmd *cobra.Command, given []string) error {
			var texts []string
			for _, text := range given[1:] {
				texts = append(texts, withGuestPort(text))
			}
			forwards, err := parseForwards(texts)
			if err != nil {
				return err
			}
			for _, f := range forwards {
				of := api.RemoveForward{Machine: given[0], Protocol: f.Protocol, Host: f.Host, HostPort: f.HostPort}
				if err := a.client.RemoveForward(cmd.Context(), of); err != nil {
					return err
				}
				fmt.Fprintf(a.Stdout, "%s/%s\n", f.Listen(), f.Protocol)
			}
			return nil
		},
	}
}

// withGuestPort makes a whole forward of ADDR:HOST, which names one already.
func withGuestPort(text string) string {
	listen, protocol, given := strings.Cut(text, "/")
	address, err := netip.ParseAddrPort(listen)
	if err != nil {
		return text
	}
	text = listen + ":" + strconv.Itoa(int(address.Port()))
	if given {
		text += "/" + protocol
	}
	return text
}

// completeForwards completes a machine that has forwards, then its forwards.
func (a *app) completeForwards(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completions(func(ctx context.Context, client *api.Client) ([]string, error) {
		vms, err := a.client.Machines(ctx)
		var words []string
		for _, vm := range vms {
			if len(given) == 0 && len(vm.Forwards) > 0 {
				words = append(words, vm.Name)
			}
			if len(given) > 0 && vm.Name == given[0] {
				for _, f := range vm.Forwards {
					words = append(words, f.String())
				}
			}
		}
		return words, err
	})
}

func (a *app) portsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ports NAME",
		Short: "List what listens in a machine, and where to reach it",
		Long: `List what listens in a machine, with its process and where this host reaches it: through a forward, or at the
machine's own address where the host has a route to it (root's network).`,
		Example:           "  banger ports web",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			ports, err := a.client.Ports(cmd.Context(), given[0])
			return show(a, ports, err, func(ports []api.Port) error { return a.printPorts(given[0], ports) })
		},
	}
}

func (a *app) printPorts(vm string, ports []api.Port) error {
	rows := [][]string{{"PORT", "ADDRESS", "PROCESS", "REACH IT AT"}}
	unreachable := api.Port{}
	for _, p := range ports {
		process, reach := "-", "-"
		if p.Process != "" {
			process = fmt.Sprintf("%s (%d)", p.Process, p.PID)
		}
		if len(p.Reach) > 0 {
			reach = strings.Join(p.Reach, ", ")
		} else if strings.HasPrefix(p.Network, "tcp") {
			unreachable = p
		}
		rows = append(rows, []string{fmt.Sprintf("%d/%s", p.Port, p.Network), p.Address, process, reach})
	}
	if err := a.table(rows); err != nil || unreachable.Port == 0 {
		return err
	}
	fmt.Fprintf(a.Stderr, "to reach one from here: banger forward %s 0:%d\n", vm, unreachable.Port)
	return nil
}
