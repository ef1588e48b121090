package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Images: the root filesystems that machines share", "  banger image ls",
		listCommand(a, "images", (*api.Client).Images, func(images []api.Image) [][]string {
			rows := [][]string{{"NAME", "SIZE", "CREATED", "USED BY", "ID"}}
			for _, i := range images {
				rows = append(rows, []string{i.Name, size(i.SizeBytes), age(&i.CreatedAt), users(i.UsedBy), shortID(i.ID)})
			}
			return rows
		}),
		inspectManyCommand(a, "image", (*api.Client).Image, a.completeImages),
		removeManyCommand(a, "image", (*api.Client).RemoveImage, a.completeImages),
	)
}

func (a *app) kernelCommand() *cobra.Command {
	return group("kernel", "Kernels: what machines boot", "  banger kernel ls\n  banger kernel pull debian:trixie",
		listCommand(a, "kernels", (*api.Client).Kernels, func(kernels []api.Kernel) [][]string {
			rows := [][]string{{"NAME", "RELEASE", "SIZE", "CREATED", "USED BY", "ID"}}
			for _, k := range kernels {
				rows = append(rows, []string{k.Name, k.Release, size(k.SizeBytes), age(&k.CreatedAt), users(k.UsedBy), shortID(k.ID)})
			}
			return rows
		}),
		inspectManyCommand(a, "kernel", (*api.Client).Kernel, a.completeKernels),
		removeManyCommand(a, "kernel", (*api.Client).RemoveKernel, a.completeKernels),
		a.kernelPullCommand(),
	)
}

func (a *app) kernelPullCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "pull [SOURCE]",
		Short:   "Fetch a kernel; machines made from now on use it",
		Long:    "Fetch the newest kernel of SOURCE (default: the configured kernel), verify it to the archive's key and unpack it.",
		Example: "  banger kernel pull debian:trixie",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			source := a.config.Kernel
			if len(given) > 0 {
				source = given[0]
			}
			client, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.CloseIdle()
			display := a.newDisplay()
			kernel, err := client.PullKernel(cmd.Context(), api.PullKernel{Source: source}, display.show)
			display.close()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(kernel)
			}
			return a.table([][]string{{kernel.Name, kernel.Release, shortID(kernel.ID)}})
		},
	}
}

func users(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}
