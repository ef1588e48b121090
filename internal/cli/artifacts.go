package cli

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) imageCommand() *cobra.Command {
	return group(
		"image",
		"Images: the root filesystems that machines share",
		"  banger image ls\n  banger image pull oci:busybox",
		listCommand(a, "images", (*api.Client).Images, func(images []api.Image) [][]string {
			rows := [][]string{{"NAME", "SIZE", "PRESET", "PACKAGES", "CREATED", "USED BY", "ID"}}
			for _, i := range images {
				rows = append(
					rows,
					[]string{
						names(i.Names),
						size(i.OwnBytes + i.SharedBytes),
						presetWords(i),
						count(i.Packages),
						age(&i.CreatedAt),
						names(i.UsedBy),
						shortID(i.ID),
					},
				)
			}
			return rows
		}),
		inspectManyCommand(a, "image", (*api.Client).Image, a.completeImages),
		removeManyCommand(a, "image", (*api.Client).RemoveImage, a.completeImages),
		pruneCommand(a, "image", "Delete the images that have neither a name nor a machine, and cached layers", (*api.Client).PruneImages),
		a.imageBuildCommand(),
		a.imageLogsCommand(),
		a.imageTagCommand(),
		a.imageDefaultCommand(),
		a.imageRegisterCommand(),
		a.imagePromoteCommand(),
		a.imageSaveCommand(),
		a.imageLoadCommand(),
		a.imagePullCommand(),
	)
}

func (a *app) kernelCommand() *cobra.Command {
	return group("kernel", "Kernels: what machines boot", "  banger kernel ls\n  banger kernel pull debian:trixie",
		listCommand(a, "kernels", (*api.Client).Kernels, func(kernels []api.Kernel) [][]string {
			rows := [][]string{{"NAME", "RELEASE", "SIZE", "CREATED", "USED BY", "ID"}}
			for _, k := range kernels {
				rows = append(
					rows,
					[]string{names(k.Names), k.Release, size(k.SizeBytes), age(&k.CreatedAt), names(k.UsedBy), shortID(k.ID)},
				)
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

// presetWords names the preset of an image that was built, and says when that has changed since.
func presetWords(i api.Image) string {
	switch {
	case i.Preset == "":
		return "-"
	case i.Stale:
		return i.Preset + ", stale"
	}
	return i.Preset
}

// count is the number of things, when it is known.
func count(things []string) string {
	if len(things) == 0 {
		return "-"
	}
	return strconv.Itoa(len(things))
}
