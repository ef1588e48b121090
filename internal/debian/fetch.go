package debian

import (
	"context"
	"errors"
	"fmt"
	"os"

	"banger/api"
	"banger/internal/atomicfile"
	"banger/internal/fetch"
	"banger/internal/progress"
)

// fetch downloads a file to path, whole or not at all. It need not outlive a power cut: the folder
// is a job's. The stage of its progress has no name for none.
func (a *Archive) fetch(ctx context.Context, f fetch.File, path, stage string) (err error) {
	if f.SizeBytes > f.MaxBytes {
		return fmt.Errorf("get %s: %d bytes are more than the %d allowed", f.URL, f.SizeBytes, f.MaxBytes)
	}
	var shown *progress.Stage
	if stage != "" {
		shown = progress.Start(ctx, stage)
		shown.SetTotal(max(f.SizeBytes, 0))
		defer func() { shown.End(err) }()
	}
	client := fetch.Client{HTTP: a.Client, Stall: a.Stall, Backoff: a.Backoff, Log: a.Log}
	return atomicfile.Fill(path, 0o644, atomicfile.Volatile, func(part *os.File) error {
		if err := client.Download(ctx, f, part, shown); err != nil {
			return explain(ctx, f.URL, err)
		}
		return nil
	})
}

// explain says what an error of a download means.
func explain(ctx context.Context, url string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, local := errors.AsType[*os.PathError](err); local {
		return err
	}
	if errors.Is(err, fetch.ErrContent) {
		return api.Errorf(api.CodeUnavailable, "get %s: %w", url, err).
			WithHint("the server, or a proxy on the way, has another file than the one announced")
	}
	return api.Errorf(api.CodeUnavailable, "get %s: %w", url, err).WithHint("check the network and the server of %s", url)
}
