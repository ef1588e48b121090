package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
)

// listCommand is `ls` for things that have no life of their own.
func listCommand[T any](
	a *app,
	things string,
	list func(*api.Client, context.Context) ([]T, error),
	rows func([]T) [][]string,
) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List " + things,
		Example: fmt.Sprintf("  banger %s ls --json", things[:len(things)-1]),
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := list(a.client, cmd.Context())
			return show(a, all, err, func(all []T) error { return a.table(rows(all)) })
		},
	}
}

func inspectManyCommand[T any](
	a *app,
	thing string,
	get func(*api.Client, context.Context, string) (T, error),
	complete cobra.CompletionFunc,
) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect NAME...",
		Short:             "Show everything about " + thing + "s, as JSON",
		Example:           fmt.Sprintf("  banger %s inspect debian:trixie", thing),
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, names []string) error {
			all := []T{}
			for _, name := range names {
				one, err := get(a.client, cmd.Context(), name)
				if err != nil {
					return err
				}
				all = append(all, one)
			}
			return a.printJSON(all)
		},
	}
}

func removeManyCommand(
	a *app,
	thing string,
	remove func(*api.Client, context.Context, string) error,
	complete cobra.CompletionFunc,
) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Take names from " + thing + "s, and delete them with their last name",
		Long: "Take names from " + thing + "s; one that loses its last name is deleted. An id deletes it with all its names.\n" +
			"What a machine uses stays, and the error names the machine.",
		Example:           fmt.Sprintf("  banger %s rm debian:trixie", thing),
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, names []string) error {
			removed := []string{}
			var failed error
			for _, name := range names {
				err := remove(a.client, cmd.Context(), name)
				switch {
				case err != nil && failed != nil:
					a.printError(failed)
					failed = err
				case err != nil:
					failed = err
				case a.json:
					removed = append(removed, name)
				default:
					fmt.Fprintln(a.Stdout, name)
				}
			}
			if a.json {
				return errors.Join(a.printJSON(removed), failed)
			}
			return failed
		},
	}
}

// pruneCommand deletes what nobody can name or uses.
func pruneCommand(a *app, thing, short string, prune func(*api.Client, context.Context, api.Prune) (api.Pruned, error)) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   short,
		Example: fmt.Sprintf("  banger %s prune --dry-run\n  banger %s prune", thing, thing),
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pruned, err := prune(a.client, cmd.Context(), api.Prune{DryRun: dryRun})
			return show(a, pruned, err, a.printPruned)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would go")
	return cmd
}

func (a *app) printPruned(pruned api.Pruned) error {
	for _, id := range pruned.Removed {
		fmt.Fprintln(a.Stdout, shortID(id))
	}
	freed := "freed"
	if pruned.DryRun {
		freed = "would free"
	}
	fmt.Fprintf(a.Stderr, "%s %s\n", freed, size(pruned.FreedBytes))
	return nil
}

// makeThing runs a request that takes long and answers with one thing, shown by row.
func makeThing[T any](
	ctx context.Context,
	a *app,
	ask func(context.Context, *api.Client, func(api.Progress)) (T, error),
	row func(T) []string,
) error {
	display := a.newDisplay()
	made, err := ask(ctx, a.client, display.show)
	display.close()
	return show(a, made, err, func(made T) error { return a.table([][]string{row(made)}) })
}

func imageRow(i api.Image) []string {
	return []string{names(i.Names), size(i.SizeBytes), shortID(i.ID)}
}
func kernelRow(k api.Kernel) []string { return []string{names(k.Names), k.Release, shortID(k.ID)} }
