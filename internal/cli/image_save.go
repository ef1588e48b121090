package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"banger/api"
	"banger/internal/atomicfile"
)

func (a *app) imageSaveCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "save NAME -o FILE",
		Short: "Write an image to a file, for another machine",
		Long: `Write an image, with the kernel that it names, to a file that "banger image load" reads on any machine. It is a tar with
zstd; holes take no space. "-" is standard output.`,
		Example:           "  banger image save work -o work.tar.zst\n  banger image save work -o - | ssh host banger image load -",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, given []string) error {
			if output == "" {
				return badUsage(cmd, "say where to: -o FILE, or -o - for standard output")
			}
			if file, ok := a.Stdout.(*os.File); ok && output == "-" && term.IsTerminal(int(file.Fd())) {
				return badUsage(cmd, "an archive is nothing for a terminal: -o FILE")
			}
			archive, err := a.client.SaveImage(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			defer archive.Close()
			display := a.newDisplay()
			err = a.saveTo(output, &shownReader{Reader: archive, show: display.show, stage: "save image", began: time.Now()})
			display.close()
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write, or -")
	return cmd
}

// saveTo writes the whole of r to the file, or leaves what was there.
func (a *app) saveTo(output string, r io.Reader) error {
	if output == "-" {
		_, err := io.Copy(a.Stdout, r)
		return err
	}
	err := atomicfile.Fill(output, 0o644, atomicfile.Durable, func(file *os.File) error {
		_, err := io.Copy(file, r)
		return err
	})
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	return nil
}

// shownReader shows how much was read as a stage.
type shownReader struct {
	io.Reader
	show  func(api.Progress)
	stage string
	began time.Time
	done  int64
}

func (s *shownReader) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.done += int64(n)
	state := api.ProgressRunning
	if errors.Is(err, io.EOF) {
		state = api.ProgressDone
	} else if err != nil {
		state = api.ProgressFailed
	}
	s.show(api.Progress{Stage: s.stage, State: state, DoneBytes: s.done, ElapsedMS: time.Since(s.began).Milliseconds()})
	return n, err
}
