package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) imagePullCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "pull SOURCE",
		Short: "Make an image from a registry, an archive or a distribution",
		Long: `Make an image from SOURCE and give it a name. SOURCE is one of

  oci:REFERENCE         an image in a registry, docker.io unless it says another; private ones need "docker login"
  docker-archive:FILE   what "docker save" wrote, or an OCI layout in a tar; packed or not
  tar:FILE              the tar of a root filesystem, packed or not
  debian:SUITE          Debian, built by mmdebstrap
  ubuntu:SUITE          Ubuntu, built by mmdebstrap

Layers of registries are kept and shared by images, and what was pulled before, under any name, is not made again; images
of a distribution are built anew. A name that an older image has moves to the new one. What the image says of
environment, working directory, user and command is shown by "banger image inspect" and used by "banger run" and
"banger exec".`,
		Example: `  banger image pull oci:busybox
  banger image pull oci:localhost:5000/team/app:1 --name app
  docker save app | gzip > app.tar.gz && banger image pull docker-archive:app.tar.gz
  banger run --image oci:alpine          # pulls it when it is missing`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: completeSources,
		RunE: func(cmd *cobra.Command, given []string) error {
			source, err := absoluteSource(given[0])
			if err != nil {
				return err
			}
			display, began := a.newDisplay(), time.Now()
			image, err := a.client.PullImage(cmd.Context(), api.PullImage{Source: source, Name: name}, display.show)
			display.close()
			return show(a, image, err, func(image api.Image) error {
				if image.CreatedAt.Before(began.Truncate(time.Second)) && !a.quiet {
					fmt.Fprintf(a.Stderr, "already there, made %s\n", age(&image.CreatedAt))
				}
				return a.table([][]string{imageRow(image)})
			})
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "name of the image (default: SOURCE, or the file's name)")
	return cmd
}

// fileSources are the kinds of sources that name a file, which the daemon reads: its folder is not
// the user's.
var fileSources = []string{"docker-archive:", "tar:"}

// absoluteSource makes the path of a source's file absolute.
func absoluteSource(source string) (string, error) {
	for _, kind := range fileSources {
		path, ok := strings.CutPrefix(source, kind)
		if !ok {
			continue
		}
		if path == "" {
			return "", usageError{
				api.Errorf(api.CodeInvalid, "%s names no file", source).WithHint("write the path of a file behind it: %sroot.tar", source),
			}
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("find %s: %w", source, err)
		}
		return kind + path, nil
	}
	return source, nil
}

// completeSources offers the kinds of sources; what comes behind them is the user's.
func completeSources(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{
		"oci:",
		"docker-archive:",
		"tar:",
		"debian:",
		"ubuntu:",
	}, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}
