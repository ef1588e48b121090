package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) kernelPullCommand() *cobra.Command {
	var want api.PullKernel
	cmd := &cobra.Command{
		Use:   "pull [SOURCE]",
		Short: "Fetch a kernel; machines made from now on use it",
		Long: `Fetch the newest kernel of SOURCE (default: the configured kernel) and unpack it. debian:SUITE is verified to the
archive's key. SOURCE may also be the URL of a linux-image .deb, of a bzImage or of a vmlinux, with the sha256 that its
maker publishes.`,
		Example: `  banger kernel pull debian:trixie
  banger kernel pull https://example.org/linux-image-6.12_amd64.deb --sha256 HEX --name mine`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			want.Source = a.config.Kernel
			if len(given) > 0 {
				want.Source = given[0]
			}
			return makeThing(cmd.Context(), a, func(ctx context.Context, client *api.Client, show func(api.Progress)) (api.Kernel, error) {
				return client.PullKernel(ctx, want, show)
			}, kernelRow)
		},
	}
	cmd.Flags().StringVar(&want.SHA256, "sha256", "", "hash of the file behind a URL, 64 hex digits")
	cmd.Flags().StringVar(&want.Name, "name", "", "name of the kernel (default: SOURCE, or the name of the file)")
	return cmd
}
