package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) statsCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "stats [NAME...]",
		Short:             "Show what running machines use",
		Example:           "  banger stats\n  banger stats web --json",
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				vms, err := a.client.Machines(cmd.Context())
				if err != nil {
					return err
				}
				for _, vm := range vms {
					if vm.State == api.StateRunning {
						names = append(names, vm.ID)
					}
				}
			}
			all := []api.Stats{}
			var failed error
			for _, name := range names {
				stats, err := a.client.StatsMachine(cmd.Context(), name)
				if err != nil {
					if failed != nil {
						a.printError(failed)
					}
					failed = err
					continue
				}
				all = append(all, stats)
			}
			if err := a.printStats(all); err != nil {
				return err
			}
			return failed
		},
	}
}

func (a *app) printStats(all []api.Stats) error {
	if a.json {
		return a.printJSON(all)
	}
	rows := [][]string{{"NAME", "LOAD", "MEMORY", "DISK", "PROCESSES", "HOST MEMORY", "HOST DISK"}}
	for _, s := range all {
		rows = append(rows, []string{
			s.Name, fmt.Sprintf("%.2f", s.Load1), ofTotal(s.MemoryUsedBytes, s.MemoryTotalBytes),
			ofTotal(s.DiskUsedBytes, s.DiskTotalBytes),
			strconv.Itoa(s.Processes), size(s.HostMemoryBytes), size(s.HostDiskBytes),
		})
	}
	return a.table(rows)
}

func ofTotal(used, total uint64) string { return size(int64(used)) + " of " + size(int64(total)) }
