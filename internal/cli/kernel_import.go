package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
)

// kernelFiles are the flags that name a kernel's files.
type kernelFiles struct{ vmlinux, initrd, modules string }

func (f *kernelFiles) register(cmd *cobra.Command, kernelFlag string) {
	set := cmd.Flags()
	set.StringVar(&f.vmlinux, kernelFlag, "", "the kernel: vmlinux (ELF) or bzImage (zstd, lz4, xz, gzip, bzip2)")
	set.StringVar(&f.initrd, "initrd", "", "files for the initramfs; banger's own come last, and its /init runs, not this one's")
	set.StringVar(
		&f.modules,
		"modules",
		"",
		"the kernel's modules: /lib/modules/RELEASE or a folder that holds it (default: all is built in)",
	)
}

// request returns the files by absolute path.
func (f *kernelFiles) request() (k api.ImportKernel, err error) {
	for _, path := range []struct {
		given string
		to    *string
	}{{f.vmlinux, &k.Vmlinux}, {f.initrd, &k.Initrd}, {f.modules, &k.Modules}} {
		if *path.to, err = absolute(path.given); err != nil {
			return k, err
		}
	}
	return k, nil
}

func (a *app) kernelImportCommand() *cobra.Command {
	var files kernelFiles
	var deb string
	cmd := &cobra.Command{
		Use:   "import NAME {--deb FILE | --vmlinux FILE [--initrd FILE] [--modules FOLDER]}",
		Short: "Make a kernel of your own files",
		Long: `Make a kernel of a linux-image package, or of a kernel file with its modules. Use it with --kernel NAME.
Without modules the kernel must have built in what a boot takes: virtio over MMIO, blk and console, ext4 and overlayfs;
machines then have the modules that their image has in /lib/modules.
An initrd of your own is unpacked before banger's: its files are there until the root is mounted, but its /init does not
run, because banger's does.`,
		Example: `  banger kernel import mine --vmlinux linux/vmlinux --modules /tmp/out/lib/modules
  banger kernel import backport --deb linux-image-6.16.3+deb13-cloud-amd64_6.16.3-1_amd64.deb
  banger run --kernel mine`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			if (deb == "") == (files.vmlinux == "") {
				return badUsage(cmd, "give either --deb or --vmlinux")
			}
			want, err := files.request()
			if err != nil {
				return err
			}
			want.Name = given[0]
			if want.Deb, err = absolute(deb); err != nil {
				return err
			}
			return makeThing(cmd.Context(), a, func(ctx context.Context, client *api.Client, show func(api.Progress)) (api.Kernel, error) {
				return client.ImportKernel(ctx, want, show)
			}, kernelRow)
		},
	}
	files.register(cmd, "vmlinux")
	cmd.Flags().StringVar(&deb, "deb", "", "a Debian package linux-image-*")
	return cmd
}
