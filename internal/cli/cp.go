package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/guest/tarcopy"
)

// place is one end of a copy: in a VM, here, or a tar stream.
type place struct {
	vm     string // empty: not in a VM
	path   string
	stream bool
}

// parsePlace reads NAME:/path, a local path, or "-". A local path that
// holds a colon is written with a slash before it, as in ./a:b.
func parsePlace(text string) place {
	if text == "-" {
		return place{stream: true}
	}
	name, path, found := strings.Cut(text, ":")
	if !found || name == "" || strings.ContainsRune(name, '/') {
		return place{path: text}
	}
	return place{vm: name, path: path}
}

func (a *app) cpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy files and folders into a machine or out of it",
		Long: `Copy files and folders into a machine or out of it. One end is NAME:/path, the other a path here.
Modes, times and symbolic links are kept. A folder that exists takes the source inside it; SOURCE/. means a
folder's content. "-" is a tar stream on standard input or output.`,
		Example: `  banger cp project web:/srv
  banger cp web:/var/log/syslog .
  banger cp web:/etc - | tar tv
  tar c . | banger cp - web:/srv`,
		Args: args(cobra.ExactArgs(2)),
		ValidArgsFunction: func(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, given []string) error {
			from, to := parsePlace(given[0]), parsePlace(given[1])
			if (from.vm == "") == (to.vm == "") {
				return badUsage(cmd, "one end of the copy, and only one, must be in a machine: NAME:/path")
			}
			if to.vm != "" {
				return a.copyIn(cmd.Context(), from, to)
			}
			return a.copyOut(cmd.Context(), from, to)
		},
	}
}

// copyIn packs while the daemon reads.
func (a *app) copyIn(ctx context.Context, from, to place) error {
	if from.stream {
		return a.client.WriteFiles(ctx, api.Files{Machine: to.vm, Path: to.path}, a.Stdin)
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := tarcopy.Pack(w, from.path)
		w.CloseWithError(err)
		packed <- err
	}()
	err := a.client.WriteFiles(ctx, api.Files{Machine: to.vm, Path: to.path}, r)
	r.CloseWithError(errors.New("the copy ended")) // wakes a packer that nobody reads from
	packErr := <-packed
	if _, refused := errors.AsType[*api.Error](err); packErr != nil && !refused {
		return fmt.Errorf("read %s: %w", from.path, packErr) // what the daemon saw is only its consequence
	}
	return err
}

func (a *app) copyOut(ctx context.Context, from, to place) error {
	files, err := a.client.ReadFiles(ctx, api.Files{Machine: from.vm, Path: from.path})
	if err != nil {
		return err
	}
	defer files.Close()
	if to.stream {
		if _, err := io.Copy(a.Stdout, files); err != nil {
			return fmt.Errorf("copy from %s: %w", from.vm, err)
		}
		return nil
	}
	if err := tarcopy.Unpack(files, to.path); err != nil {
		return fmt.Errorf("write %s: %w", to.path, err)
	}
	return nil
}
