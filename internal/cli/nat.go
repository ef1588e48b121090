package cli

import (
	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) natCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "nat NAME on|off",
		Short: "Open or close a machine's way to the world, at once",
		Long: `Open or close a machine's way to the world, at once. With off it still reaches other machines and their names,
and nothing beyond.`,
		Example: "  banger nat web off",
		Args:    args(cobra.ExactArgs(2)),
		ValidArgsFunction: func(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(given) == 1 {
				return []string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeOneVM(cmd, given, toComplete)
		},
		RunE: func(cmd *cobra.Command, given []string) error {
			if given[1] != "on" && given[1] != "off" {
				return badUsage(cmd, "%q is neither on nor off", given[1])
			}
			vm, err := a.client.SetNAT(cmd.Context(), api.SetNAT{Machine: given[0], On: given[1] == "on"})
			return show(a, vm, err, a.printName)
		},
	}
}
