package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"banger/api"
)

func (a *app) imageLoadCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:     "load FILE",
		Short:   "Read an image that `banger image save` wrote",
		Long:    "Read an image that `banger image save` wrote, here or on another machine; it has the same id. \"-\" is standard input.",
		Example: "  banger image load work.tar.zst\n  banger image load --name copy work.tar.zst",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			file := a.Stdin
			if given[0] != "-" {
				var err error
				if file, err = os.Open(given[0]); err != nil {
					return fmt.Errorf("load image: %w", err)
				}
				defer file.Close()
			} else if file == nil || term.IsTerminal(int(file.Fd())) {
				return badUsage(cmd, "standard input is a terminal: give a file, or pipe one in")
			}
			return makeThing(cmd.Context(), a, func(ctx context.Context, client *api.Client, show func(api.Progress)) (api.Image, error) {
				return client.LoadImage(ctx, api.LoadImage{Name: name}, file, show)
			}, imageRow)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the image (default: the one that it was saved under)")
	return cmd
}
