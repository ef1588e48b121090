package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"banger/api"
	"banger/internal/progress"
)

const maxTries = 4

var (
	errStalled = errors.New("download stalled")
	errCorrupt = errors.New("download has the wrong content")
)

// download is one file to get.
type download struct {
	url, path string
	size      int64  // -1 when unknown
	sha256    string // hex; empty when the content is verified otherwise
	max       int64  // refuse to write more
	stage     string // name of the progress stage; empty for none
}

// statusError is an answer other than the file.
type statusError struct {
	url    string
	status int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("get %s: %d %s", e.url, e.status, http.StatusText(e.status))
}

// fetch downloads d.url to d.path, by way of d.path+".part" and a rename. Faults that may pass are tried again with
// back-off, going on from what is there already.
func (a *Archive) fetch(ctx context.Context, d download) (err error) {
	if d.size > d.max {
		return fmt.Errorf("get %s: %d bytes are more than the %d allowed", d.url, d.size, d.max)
	}
	var stage *progress.Stage
	if d.stage != "" {
		stage = progress.Start(ctx, d.stage)
		stage.SetTotal(max(d.size, 0))
		defer func() { stage.End(err) }()
	}
	part := d.path + ".part"
	defer os.Remove(part)
	for try := 1; ; try++ {
		err := a.attempt(ctx, d, part, stage)
		if err == nil {
			return os.Rename(part, d.path)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if isLocal(err) {
			return err
		}
		if try == maxTries || !passing(err) {
			return api.Errorf(api.CodeUnavailable, "%w", err).WithHint("check the network and the server of %s", d.url)
		}
		a.Log.Info("download is tried again", "url", d.url, "try", try, "error", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(a.Backoff << (try - 1)):
		}
	}
}

// passing reports whether another try may succeed: the server is busy or the line broke, not "no such file".
func passing(err error) bool {
	if status, ok := errors.AsType[*statusError](err); ok {
		return status.status >= 500 || status.status == http.StatusTooManyRequests || status.status == http.StatusRequestedRangeNotSatisfiable
	}
	return !errors.Is(err, errTooLarge) && !errors.Is(err, ErrUntrusted)
}

// isLocal reports whether this host's disk refused, not the network.
func isLocal(err error) bool {
	_, ok := errors.AsType[*os.PathError](err)
	return ok
}

var errTooLarge = errors.New("download is larger than announced")

// attempt is one request. What arrived before a fault stays in part for the next one.
func (a *Archive) attempt(ctx context.Context, d download, part string, stage *progress.Stage) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(a.Stall, func() { cancel(errStalled) })
	defer stall.Stop()

	file, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	have, err := io.Copy(sum, file)
	if err != nil {
		return err
	}
	response, err := a.get(ctx, d.url, have)
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = errStalled
		}
		return errors.Join(err, discardUnusable(err, file))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusPartialContent && have > 0 { // the server starts over: so do we
		sum.Reset()
		stage.Add(-have)
		have = 0
		if err := restart(file); err != nil {
			return err
		}
	}
	body := &watchedReader{r: io.LimitReader(response.Body, d.max-have+1), alive: func() { stall.Reset(a.Stall) }}
	n, err := io.Copy(io.MultiWriter(file, sum), stage.Reader(body))
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			return fmt.Errorf("get %s: %w for %s", d.url, errStalled, a.Stall)
		}
		return fmt.Errorf("get %s: %w", d.url, err)
	}
	if err := d.check(have+n, hex.EncodeToString(sum.Sum(nil)), have > 0); err != nil {
		stage.Add(-have - n)
		return errors.Join(err, restart(file)) // a wrong file is not worth going on from
	}
	return nil
}

// check compares what arrived with what was announced. A wrong hash is final, unless the file was put together from
// several answers: the mirror may have changed in between.
func (d download) check(size int64, sum string, resumed bool) error {
	switch {
	case size > d.max || d.size >= 0 && size > d.size:
		return fmt.Errorf("get %s: %w", d.url, errTooLarge)
	case d.size >= 0 && size < d.size:
		return fmt.Errorf("get %s: %w: %d bytes of %d", d.url, errCorrupt, size, d.size)
	case d.sha256 != "" && sum != d.sha256 && resumed:
		return fmt.Errorf("get %s: %w after going on with it", d.url, errCorrupt)
	case d.sha256 != "" && sum != d.sha256:
		return fmt.Errorf("get %s: %w: sha256 %.12s, want %.12s", d.url, ErrUntrusted, sum, d.sha256)
	}
	return nil
}

// get asks for the file from offset have on. An answer other than 200 or a fitting 206 is a statusError.
func (a *Archive) get(ctx context.Context, url string, have int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	response, err := a.Client.Do(request)
	if err != nil {
		return nil, err
	}
	from := fmt.Sprintf("bytes %d-", have)
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusPartialContent && strings.HasPrefix(response.Header.Get("Content-Range"), from) {
		return response, nil
	}
	return nil, errors.Join(&statusError{url, response.StatusCode}, response.Body.Close())
}

// discardUnusable empties the partial file when the server cannot go on from it.
func discardUnusable(err error, file *os.File) error {
	if status, ok := errors.AsType[*statusError](err); ok && status.status < 500 {
		return restart(file)
	}
	return nil
}

func restart(file *os.File) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return file.Truncate(0)
}

// watchedReader says that it is alive whenever bytes arrive.
type watchedReader struct {
	r     io.Reader
	alive func()
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.alive()
	}
	return n, err
}
