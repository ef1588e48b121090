// Package fetch gets files over HTTP, with patience: a download that stalls or breaks off goes on
// where it was, and what may pass is tried again.
package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"banger/internal/progress"
)

// textDeadline is how long one try to get a Text may take.
const textDeadline = time.Minute

// Client gets files. The zero value of each optional field means its default.
type Client struct {
	HTTP    *http.Client
	Stall   time.Duration // a download without a byte for so long is tried again; default 30 s
	Backoff time.Duration // before the second try, doubled before each further one; default 1 s
	Log     *slog.Logger  // default: nothing is logged
}

func (c Client) withDefaults() Client {
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	if c.Backoff == 0 {
		c.Backoff = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// NewTransport honours the proxy variables and has deadlines for all but bodies, which Client
// watches.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       10 * time.Second,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // sizes and ranges are those of the files
	}
}

// File is what is to come from a URL.
type File struct {
	URL       string
	SizeBytes int64  // -1 when unknown
	MaxBytes  int64  // how many may come when the size is unknown
	Digest    string // "sha256:HEX" or "sha512:HEX"; empty when the content is verified otherwise
}

// limitBytes is how many bytes may come.
func (f File) limitBytes() int64 {
	if f.SizeBytes >= 0 {
		return f.SizeBytes
	}
	return f.MaxBytes
}

// newHash returns the hash that the digest is of. Without a digest it is one that nobody asks.
func (f File) newHash() (hash.Hash, error) {
	switch algorithm, _, _ := strings.Cut(f.Digest, ":"); algorithm {
	case "sha256", "":
		return sha256.New(), nil
	case "sha512":
		return sha512.New(), nil
	}
	return nil, Final(fmt.Errorf("unknown hash %.40q", f.Digest))
}

// check compares what came with what was announced. What was put together from several answers may
// be wrong because the file changed in between.
func (f File) check(size int64, sum hash.Hash, resumed bool) error {
	algorithm, want, _ := strings.Cut(f.Digest, ":")
	got := hex.EncodeToString(sum.Sum(nil))
	switch {
	case size > f.limitBytes():
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, f.limitBytes())
	case size < f.SizeBytes:
		return fmt.Errorf("%w: %d bytes of %d", io.ErrUnexpectedEOF, size, f.SizeBytes)
	case want == "" || got == want:
		return nil
	case resumed:
		return fmt.Errorf("%w: wrong after going on with it", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w: it has %s %.12s…, not %.12s…", ErrContent, algorithm, got, want)
}

// Download fills an empty file. The stage, if there is one, shows the bytes, and their total when
// that was not known before.
func (c Client) Download(ctx context.Context, f File, to *os.File, stage *progress.Stage) error {
	c = c.withDefaults()
	return c.Retry(ctx, f.URL, func(ctx context.Context) error {
		return c.unlessStalled(ctx, func(ctx context.Context, alive func()) error {
			return c.attempt(ctx, f, to, stage, alive)
		})
	})
}

// attempt is one request. What came before a fault stays in the file for the next one.
func (c Client) attempt(ctx context.Context, f File, to *os.File, stage *progress.Stage, alive func()) error {
	sum, err := f.newHash()
	if err != nil {
		return err
	}
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return err
	}
	have, err := io.Copy(sum, to)
	if err != nil {
		return err
	}
	restart := func() error {
		stage.Add(-have)
		have = 0
		sum.Reset()
		_, err := to.Seek(0, io.SeekStart)
		return errors.Join(err, to.Truncate(0))
	}
	response, err := c.get(ctx, f, have)
	if errors.Is(err, StatusError(http.StatusRequestedRangeNotSatisfiable)) {
		return errors.Join(fmt.Errorf("%w after %d bytes", err, have), restart())
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusPartialContent && have > 0 { // the server starts over: so do we
		if err := restart(); err != nil {
			return err
		}
	}
	if f.SizeBytes < 0 && response.ContentLength >= 0 {
		stage.SetTotal(have + response.ContentLength)
	}
	resumed := have > 0
	body := &watchedReader{io.LimitReader(response.Body, f.limitBytes()-have+1), alive}
	n, err := io.Copy(io.MultiWriter(to, sum), stage.Reader(body))
	have += n
	if err != nil {
		return err
	}
	if err := f.check(have, sum, resumed); err != nil {
		if have >= f.SizeBytes { // wrong, not short: nothing to go on from
			err = errors.Join(err, restart())
		}
		return err
	}
	return nil
}

// Text reads a small file into memory.
func (c Client) Text(ctx context.Context, f File) (text []byte, err error) {
	err = c.Retry(ctx, f.URL, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, textDeadline)
		defer cancel()
		sum, err := f.newHash()
		if err != nil {
			return err
		}
		response, err := c.get(ctx, f, 0)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if text, err = io.ReadAll(io.TeeReader(io.LimitReader(response.Body, f.limitBytes()+1), sum)); err != nil {
			return err
		}
		return f.check(int64(len(text)), sum, false)
	})
	return text, err
}

// get asks for what is behind the first have bytes of a file. An answer other than 200 or a fitting
// 206 is a StatusError.
func (c Client) get(ctx context.Context, f File, have int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return nil, Final(err)
	}
	switch {
	case have > 0 && f.SizeBytes > have: // not all registries know ranges without an end
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", have, f.SizeBytes-1))
	case have > 0:
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	response, err := c.HTTP.Do(request)
	if u, ok := errors.AsType[*url.Error](err); ok {
		return nil, u.Err // the URL stands in the caller's error
	}
	if err != nil {
		return nil, err
	}
	fits := fmt.Sprintf("bytes %d-", have)
	if response.StatusCode == http.StatusOK ||
		response.StatusCode == http.StatusPartialContent && strings.HasPrefix(response.Header.Get("Content-Range"), fits) {
		return response, nil
	}
	return nil, errors.Join(StatusError(response.StatusCode), response.Body.Close())
}

// unlessStalled ends what do does when it was not alive for too long.
func (c Client) unlessStalled(ctx context.Context, do func(ctx context.Context, alive func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(c.Stall, func() { cancel(ErrStalled) })
	defer timer.Stop()
	err := do(ctx, func() { timer.Reset(c.Stall) })
	if err != nil && errors.Is(context.Cause(ctx), ErrStalled) {
		return fmt.Errorf("%w: no data came for %s", ErrStalled, c.Stall)
	}
	return err
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
