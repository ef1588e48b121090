package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
)

// listCommand is `ls` for things that have no life of their own.
func listCommand[T any](a *app, things string, list func(*api.Client, context.Context) ([]T, error), rows func([]T) [][]string) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List " + things,
		Example: fmt.Sprintf("  banger %s ls --json", things[:len(things)-1]),
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.CloseIdle()
			all, err := list(client, cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(all)
			}
			return a.table(rows(all))
		},
	}
}

func inspectManyCommand[T any](a *app, thing string, get func(*api.Client, context.Context, string) (T, error), complete cobra.CompletionFunc) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect NAME...",
		Short:             "Show everything about " + thing + "s, as JSON",
		Example:           fmt.Sprintf("  banger %s inspect debian:trixie", thing),
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, names []string) error {
			client, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.CloseIdle()
			all := []T{}
			for _, name := range names {
				one, err := get(client, cmd.Context(), name)
				if err != nil {
					return err
				}
				all = append(all, one)
			}
			return a.printJSON(all)
		},
	}
}

func removeManyCommand(a *app, thing string, remove func(*api.Client, context.Context, string) error, complete cobra.CompletionFunc) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Short:             "Delete " + thing + "s that no machine uses",
		Example:           fmt.Sprintf("  banger %s rm debian:trixie", thing),
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, names []string) error {
			client, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.CloseIdle()
			var failed error
			for _, name := range names {
				err := remove(client, cmd.Context(), name)
				if err == nil {
					fmt.Fprintln(a.Stdout, name)
					continue
				}
				if failed != nil {
					a.printError(failed)
				}
				failed = err
			}
			return failed
		},
	}
}
