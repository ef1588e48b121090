package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

func (a *app) imageDefaultCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "default [NAME]",
		Short: "Say which image machines get that name none",
		Long: `Say which image a new machine gets that names none: the setting "image", which this command writes into config.toml.
Without NAME it shows the one that counts now.`,
		Example:           "  banger image default work\n  banger config show",
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(given) == 0 {
				return a.printDefault(a.config.Image)
			}
			_, err := a.client.Image(cmd.Context(), given[0])
			if api.CodeOf(err) == api.CodeNotFound && isMadeWhenNeeded(given[0]) {
				err = nil
			}
			if err != nil {
				return err
			}
			path, err := config.SetImage(a.Getenv, given[0])
			if err != nil {
				return err
			}
			if a.Getenv("BANGER_IMAGE") != "" {
				fmt.Fprintf(a.Stderr, "BANGER_IMAGE=%s still counts more than %s\n", a.Getenv("BANGER_IMAGE"), path)
			}
			return a.printDefault(given[0])
		},
	}
}

// isMadeWhenNeeded reports whether the first machine makes the image.
func isMadeWhenNeeded(image string) bool {
	kind, _, _ := strings.Cut(image, ":")
	return slices.Contains([]string{"debian", "ubuntu", "oci"}, kind) && kind != image
}

func (a *app) printDefault(image string) error {
	if a.json {
		return a.printJSON(map[string]string{"image": image})
	}
	_, err := fmt.Fprintln(a.Stdout, image)
	return err
}
