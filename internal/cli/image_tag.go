package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) imageTagCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME",
		Short:             "Give an image one more name",
		Long:              "Give an image one more name. A name that another image has moves; that image keeps its other names and its id.",
		Example:           "  banger image tag debian:trixie work",
		Args:              args(cobra.ExactArgs(2)),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, given []string) error {
			return makeThing(cmd.Context(), a, func(ctx context.Context, client *api.Client, _ func(api.Progress)) (api.Image, error) {
				return client.TagImage(ctx, api.TagImage{Image: given[0], Name: given[1]})
			}, imageRow)
		},
	}
}
