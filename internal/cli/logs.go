package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Short:             "Show a machine's console since its last start",
		Example:           "  banger logs web\n  banger logs -f web",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			console, err := a.client.Logs(cmd.Context(), api.Logs{Machine: given[0], Follow: follow})
			if err != nil {
				return err
			}
			defer console.Close()
			if _, err := io.Copy(a.Stdout, console); err != nil {
				return fmt.Errorf("read console: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until the machine stops")
	return cmd
}
