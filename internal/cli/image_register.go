package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) imageRegisterCommand() *cobra.Command {
	var rootfs string
	var files kernelFiles
	cmd := &cobra.Command{
		Use:   "register NAME --rootfs FILE [--kernel FILE [--initrd FILE] [--modules FOLDER]]",
		Short: "Use a filesystem of your own as an image, where it is",
		Long: `Use a file that holds an ext4 filesystem as an image. It stays where it is and is only read; its hash is kept, and machines
do not start once it has changed. "banger image promote NAME" copies it, so that yours is not needed any more.
With a kernel, machines of the image boot that, unless they name another.`,
		Example: `  banger image register mine --rootfs rootfs.ext4
  banger image register mine --rootfs rootfs.ext4 --kernel vmlinux --modules lib/modules
  banger run --image mine`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			if rootfs == "" {
				return badUsage(cmd, "say which filesystem: --rootfs FILE")
			}
			if files.vmlinux == "" && files.initrd+files.modules != "" {
				return badUsage(cmd, "an initrd and modules belong to a kernel: --kernel FILE")
			}
			want := api.RegisterImage{Name: given[0]}
			var err error
			if want.Rootfs, err = absolute(rootfs); err != nil {
				return err
			}
			if files.vmlinux != "" {
				kernel, err := files.request()
				if err != nil {
					return err
				}
				want.Kernel = &kernel
			}
			return makeThing(cmd.Context(), a, func(ctx context.Context, client *api.Client, show func(api.Progress)) (api.Image, error) {
				return client.RegisterImage(ctx, want, show)
			}, imageRow)
		},
	}
	cmd.Flags().StringVar(&rootfs, "rootfs", "", "file with an ext4 filesystem, without a partition table")
	files.register(cmd, "kernel")
	return cmd
}

// absolute returns the path for the daemon, which works elsewhere; empty stays empty.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, err)
	}
	return full, nil
}
