package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/fetch"
	"banger/internal/progress"
)

func hello(name string) bool { return name == "hello" }

// fetchHello goes the whole way from InRelease to the package's files.
func fetchHello(ctx context.Context, a *Archive) (string, error) {
	packages, err := a.Packages(ctx, hello)
	if err != nil {
		return "", err
	}
	deb, err := a.Fetch(ctx, packages["hello"], "download hello")
	if err != nil {
		return "", err
	}
	defer os.Remove(deb)
	found := ""
	err = ReadDeb(ctx, deb, func(h *tar.Header, r io.Reader) error {
		text, err := io.ReadAll(r)
		found += h.Name + "=" + string(text)
		return err
	})
	return found, err
}

func TestArchive(t *testing.T) {
	m := newMirror(t)
	a := m.open(t)
	var events []api.Progress
	ctx := progress.With(t.Context(), func(p api.Progress) { events = append(events, p) })
	got, err := fetchHello(ctx, a)
	if got != "usr/bin/hello=hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	size := int64(len(m.files["/"+testDeb]))
	if last := events[len(events)-1]; last.Stage != "download hello" || last.State != api.ProgressDone || last.DoneBytes != size || last.TotalBytes != size {
		t.Errorf("last progress %+v, want all %d bytes done", last, size)
	}
	packages, err := a.Packages(t.Context(), hello)
	if err != nil {
		t.Fatal(err)
	}
	deb := m.files["/"+testDeb]
	want := map[string]Package{"hello": {
		Name: "hello", Version: "1.0", Depends: []string{"libc6", "default-mta", "python3"},
		Filename: testDeb, SizeBytes: int64(len(deb)), SHA256: sum(deb),
	}}
	if diff := cmp.Diff(want, packages); diff != "" {
		t.Error(diff)
	}
	if left, _ := os.ReadDir(a.Folder); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
}

func TestArchiveByHash(t *testing.T) {
	m := newMirror(t)
	index := m.files["/dists/trixie/main/binary-amd64/Packages.xz"]
	m.publish(t, index, "Codename: trixie\nAcquire-By-Hash: yes\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n")
	m.files["/dists/trixie/main/binary-amd64/Packages.xz"] = []byte("of the next update")
	m.files["/dists/trixie/main/binary-amd64/by-hash/SHA256/"+sum(index)] = index
	if got, err := fetchHello(t.Context(), m.open(t)); err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestArchiveFaults breaks one thing at a time.
func TestArchiveFaults(t *testing.T) {
	const release = "/dists/trixie/InRelease"
	other, err := openpgp.NewEntity("Mallory", "", "m@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, m *mirror, a *Archive)
		want  string
		is    error
	}{
		{"ErrUnknownKey", func(_ *testing.T, _ *mirror, a *Archive) { a.Keys = openpgp.EntityList{other} }, "verify release of trixie", ErrUntrusted},
		{"ErrChangedRelease", func(_ *testing.T, m *mirror, _ *Archive) {
			m.files[release] = bytes.Replace(m.files[release], []byte("2026"), []byte("2025"), 1)
		}, "verify release", ErrUntrusted},
		{"ErrTextBeforeSigned", func(_ *testing.T, m *mirror, _ *Archive) {
			m.files[release] = append([]byte("Codename: trixie\n"), m.files[release]...)
		}, "no signed message", ErrUntrusted},
		{"ErrTextAfterSigned", func(_ *testing.T, m *mirror, _ *Archive) {
			m.files[release] = append(m.files[release], "Codename: trixie\n"...)
		}, "not one signed message", ErrUntrusted},
		{"ErrOtherSuite", func(t *testing.T, m *mirror, _ *Archive) {
			m.sign(t, "Codename: buzz\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n")
		}, `mirror sent suite "buzz"`, ErrUntrusted},
		{"ErrExpired", func(t *testing.T, m *mirror, _ *Archive) {
			m.sign(t, "Codename: trixie\nDate: Sat, 12 Sep 2020 07:55:41 UTC\nValid-Until: Sun, 13 Sep 2020 07:55:41 UTC\nSHA256:\n")
		}, "valid until", ErrUntrusted},
		{"ErrFuture", func(t *testing.T, m *mirror, a *Archive) {
			date := a.Now().Add(48 * time.Hour).UTC().Format(time.RFC1123)
			m.sign(t, "Codename: trixie\nDate: "+date+"\nSHA256:\n")
		}, "in the future", ErrUntrusted},
		{"ErrNoIndex", func(t *testing.T, m *mirror, _ *Archive) {
			m.sign(t, "Codename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n")
		}, "lists no main/binary-amd64/Packages.xz", nil},
		{"ErrBadHashLine", func(t *testing.T, m *mirror, _ *Archive) {
			m.sign(t, "Codename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n 12 34 x\n")
		}, "bad hash line", nil},
		{"ErrWrongIndex", func(_ *testing.T, m *mirror, _ *Archive) {
			m.files["/dists/trixie/main/binary-amd64/Packages.xz"][20] ^= 1
		}, "fetch package index", fetch.ErrContent},
		{"ErrWrongPackage", func(_ *testing.T, m *mirror, _ *Archive) { m.files["/"+testDeb][100] ^= 1 }, "fetch package hello", fetch.ErrContent},
		{"ErrLongerPackage", func(_ *testing.T, m *mirror, _ *Archive) {
			m.files["/"+testDeb] = append(m.files["/"+testDeb], 0)
		}, "larger than allowed", fetch.ErrTooLarge},
		{"ErrShorterPackage", func(_ *testing.T, m *mirror, _ *Archive) {
			m.files["/"+testDeb] = m.files["/"+testDeb][:50]
		}, "after 50 bytes", nil},
		{"ErrNoPackage", func(_ *testing.T, m *mirror, _ *Archive) { delete(m.files, "/"+testDeb) }, "404 Not Found", nil},
		{"ErrNoSuite", func(_ *testing.T, m *mirror, _ *Archive) { delete(m.files, release) }, "404 Not Found", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMirror(t)
			a := m.open(t)
			a.Now = func() time.Time { return time.Now().Add(time.Second) } // keys are valid from this second on
			test.spoil(t, m, a)
			_, err := fetchHello(t.Context(), a)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %v, want one with %q that is %v", err, test.want, test.is)
			}
			if left, _ := os.ReadDir(a.Folder); len(left) != 0 {
				t.Errorf("files left: %v", left)
			}
		})
	}
}

// onPackage replaces the answer for the package's first requests, as long as answer reports true.
func onPackage(answer func(w http.ResponseWriter, r *http.Request, n int32) bool) func(http.Handler) http.Handler {
	var n atomic.Int32
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/"+testDeb && answer(w, r, n.Add(1)) {
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestFetchTriesAgain(t *testing.T) {
	m := newMirror(t)
	m.wrap = onPackage(func(w http.ResponseWriter, _ *http.Request, n int32) bool {
		if n == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return n == 1
	})
	if got, err := fetchHello(t.Context(), m.open(t)); err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestFetchStalls(t *testing.T) {
	m := newMirror(t)
	m.wrap = onPackage(func(w http.ResponseWriter, r *http.Request, _ int32) bool {
		w.Header().Set("Content-Length", "1000")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // for ever, as far as the client can see
		return true
	})
	a := m.open(t)
	packages, err := a.Packages(t.Context(), hello)
	if err != nil {
		t.Fatal(err)
	}
	a.Stall = 500 * time.Millisecond // longer than a busy machine takes to ask
	_, err = a.Fetch(t.Context(), packages["hello"], "")
	if !errors.Is(err, fetch.ErrStalled) {
		t.Errorf("error %v, want %v", err, fetch.ErrStalled)
	}
	e, ok := errors.AsType[*api.Error](err)
	if !ok || !strings.Contains(e.Hint, a.Mirror) {
		t.Errorf("error %v, want a hint that names the mirror", err)
	}
}

func TestFetchCanceled(t *testing.T) {
	m := newMirror(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("user went away")
	m.wrap = onPackage(func(_ http.ResponseWriter, r *http.Request, _ int32) bool {
		cancel(gone)
		<-r.Context().Done()
		return true
	})
	if _, err := fetchHello(ctx, m.open(t)); !errors.Is(err, gone) {
		t.Errorf("error %v, want %v", err, gone)
	}
}

func TestEmbeddedKeyring(t *testing.T) {
	keys, err := archiveKeys()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 6 {
		t.Errorf("%d keys, want three each of two suites", len(keys))
	}
	for _, k := range keys {
		if k.PrimaryIdentity() == nil || !strings.Contains(k.PrimaryIdentity().Name, "Debian") {
			t.Errorf("key %X is not Debian's", k.PrimaryKey.Fingerprint)
		}
	}
}

func TestCheckSuite(t *testing.T) {
	for suite, ok := range map[string]bool{"trixie": true, "bookworm": true, "noble": false, "": false, "../x": false} {
		if err := CheckSuite(suite); (err == nil) != ok {
			t.Errorf("suite %q: %v", suite, err)
		}
	}
}
