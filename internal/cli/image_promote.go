package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) imagePromoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "promote NAME",
		Short:             "Copy a registered image into banger's own folder",
		Long:              "Copy a registered image into banger's own folder, so that your file is not needed any more. Its id, names and machines stay.",
		Example:           "  banger image promote mine",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, given []string) error {
			return makeThing(cmd.Context(), a, func(ctx context.Context, client *api.Client, show func(api.Progress)) (api.Image, error) {
				return client.PromoteImage(ctx, given[0], show)
			}, imageRow)
		},
	}
}
