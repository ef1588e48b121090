package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Images: the root filesystems that machines share", "  banger image ls\n  banger image pull oci:busybox",
		listCommand(a, "images", (*api.Client).Images, func(images []api.Image) [][]string {
			rows := [][]string{{"NAME", "SIZE", "CREATED", "USED BY", "ID"}}
			for _, i := range images {
				rows = append(rows, []string{names(i.Names), size(i.OwnBytes + i.SharedBytes), age(&i.CreatedAt), names(i.UsedBy), shortID(i.ID)})
			}
			return rows
		}),
		inspectManyCommand(a, "image", (*api.Client).Image, a.completeImages),
		removeManyCommand(a, "image", (*api.Client).RemoveImage, a.completeImages),
		pruneCommand(a, "image", "Delete the images that have neither a name nor a machine", (*api.Client).PruneImages),
		a.imageTagCommand(), a.imageDefaultCommand(), a.imageRegisterCommand(), a.imagePromoteCommand(), a.imageSaveCommand(), a.imageLoadCommand(),
		a.imagePullCommand(),
	)
}

func (a *app) kernelCommand() *cobra.Command {
	return group("kernel", "Kernels: what machines boot", "  banger kernel ls\n  banger kernel pull debian:trixie",
		listCommand(a, "kernels", (*api.Client).Kernels, func(kernels []api.Kernel) [][]string {
			rows := [][]string{{"NAME", "RELEASE", "SIZE", "CREATED", "USED BY", "ID"}}
			for _, k := range kernels {
				rows = append(rows, []string{names(k.Names), k.Release, size(k.SizeBytes), age(&k.CreatedAt), names(k.UsedBy), shortID(k.ID)})
			}
			return rows
		}),
		inspectManyCommand(a, "kernel", (*api.Client).Kernel, a.completeKernels),
		removeManyCommand(a, "kernel", (*api.Client).RemoveKernel, a.completeKernels),
		pruneCommand(a, "kernel", "Delete the kernels that have neither a name nor a machine nor an image", (*api.Client).PruneKernels),
		a.kernelPullCommand(), a.kernelImportCommand(),
	)
}

// names shows a list of names in one column.
func names(all []string) string {
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, ", ")
}
