package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"ps"},
		Short:   "List machines",
		Example: "  banger ls\n  banger ls --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			vms, err := a.client.Machines(cmd.Context())
			return show(a, vms, err, a.printVMs)
		},
	}
}

func (a *app) printVMs(vms []api.Machine) error {
	rows := [][]string{{"NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "DISK", "CREATED", "ID"}}
	for _, vm := range vms {
		rows = append(rows, []string{
			vm.Name, stateWords(vm), imageWords(vm), strconv.Itoa(vm.CPUs), sizeMiB(vm.MemoryMiB), sizeMiB(vm.DiskMiB),
			age(&vm.CreatedAt), vm.ID,
		})
	}
	return a.table(rows)
}

// imageWords marks the machines in which an image is made.
func imageWords(vm api.Machine) string {
	if vm.BuildsImage != "" {
		return vm.Image + ", builds " + vm.BuildsImage
	}
	return vm.Image
}

// stateWords adds the reason where the state alone would surprise.
func stateWords(vm api.Machine) string {
	switch {
	case vm.State == api.StateRunning:
		return "running, " + age(vm.StartedAt)
	case vm.Reason != "" && vm.Reason != string(vm.State):
		return string(vm.State) + " (" + short(vm.Reason, 60) + ")"
	}
	return string(vm.State)
}

func short(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most-1]) + "…"
}

func (a *app) inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "inspect NAME...",
		Short:             "Show everything about machines, as JSON",
		Example:           "  banger inspect web",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			vms := []api.Machine{}
			for _, name := range names {
				vm, err := a.client.Machine(cmd.Context(), name)
				if err != nil {
					return err
				}
				vms = append(vms, vm)
			}
			return a.printJSON(vms)
		},
	}
}
