// Package debian reads Debian's package archive on any distribution, without apt or dpkg.
//
// Trust goes one way: the embedded archive keys verify InRelease, InRelease holds the hash of the package index, the
// index holds the hash of each .deb. Nothing is used before its hash is checked, every size is bounded, and the mirror
// needs no TLS. Only binary packages of one component and architecture are read; dependencies are not resolved.
package debian

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"banger/api"
)

// DefaultMirror is Debian's own content network.
const DefaultMirror = "http://deb.debian.org/debian"

const (
	maxReleaseBytes = 8 << 20
	maxIndexBytes   = 256 << 20 // unpacked; trixie main amd64 has 55 MiB
	maxPackageBytes = 1 << 30
)

// Archive is one suite of a mirror. The zero value of each optional field means its default.
type Archive struct {
	Mirror string // URL up to, without, "/dists"
	Suite  string // codename, such as trixie
	Folder string // where downloads are kept while they run

	Architecture string             // default amd64
	Component    string             // default main
	Keys         openpgp.EntityList // default: Debian's keys for the suites this build knows
	Client       *http.Client       // default: NewClient()
	Stall        time.Duration      // a download without a byte for so long is tried again; default 30 s
	Backoff      time.Duration      // before the second try, doubled before each further one; default 500 ms
	Now          func() time.Time   // default time.Now
	Log          *slog.Logger       // default: nothing is logged
}

// NewClient returns a client for mirrors: it honours the proxy variables and has deadlines for all but the body,
// which Archive watches itself.
func NewClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       10 * time.Second,
		DisableCompression:    true, // sizes and ranges are those of the files
	}}
}

// Open returns the archive with its defaults filled in.
func Open(a Archive) (*Archive, error) {
	if a.Mirror == "" {
		a.Mirror = DefaultMirror
	}
	a.Mirror = strings.TrimRight(a.Mirror, "/")
	if a.Keys == nil {
		keys, err := archiveKeys()
		if err != nil {
			return nil, err
		}
		a.Keys = keys
	}
	if a.Architecture == "" {
		a.Architecture = "amd64"
	}
	if a.Component == "" {
		a.Component = "main"
	}
	if a.Client == nil {
		a.Client = NewClient()
	}
	if a.Stall == 0 {
		a.Stall = 30 * time.Second
	}
	if a.Backoff == 0 {
		a.Backoff = 500 * time.Millisecond
	}
	if a.Now == nil {
		a.Now = time.Now
	}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	return &a, nil
}

// Packages fetches and verifies the index and returns the packages whose name keep accepts.
func (a *Archive) Packages(ctx context.Context, keep func(name string) bool) (map[string]Package, error) {
	release, err := a.release(ctx)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s/binary-%s/Packages.xz", a.Component, a.Architecture)
	entry, ok := release.files[name]
	if !ok {
		return nil, fmt.Errorf("read release of %s: it lists no %s", a.Suite, name)
	}
	path := a.url("dists", a.Suite, name)
	if release.byHash { // survives an update of the mirror between the two downloads
		path = a.url("dists", a.Suite, filepath.Dir(name), "by-hash/SHA256", entry.sha256)
	}
	file := filepath.Join(a.Folder, a.Suite+"-Packages.xz")
	if err := a.fetch(ctx, download{url: path, path: file, size: entry.size, sha256: entry.sha256, max: maxIndexBytes}); err != nil {
		return nil, fmt.Errorf("fetch package index: %w", err)
	}
	defer os.Remove(file)
	return readIndex(ctx, file, keep)
}

func readIndex(ctx context.Context, path string, keep func(string) bool) (map[string]Package, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	plain, err := decompress(file, ".xz")
	if err != nil {
		return nil, fmt.Errorf("unpack package index: %w", err)
	}
	defer plain.Close()
	found := map[string]Package{}
	err = Stanzas(ctx, io.LimitReader(plain, maxIndexBytes), func(s Stanza) error {
		if !keep(s["Package"]) {
			return nil
		}
		p, err := packageOf(s)
		if err == nil {
			found[p.Name] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read package index: %w", err)
	}
	return found, nil
}

// Fetch downloads and verifies the package and returns the path of the .deb in the archive's folder.
// The download is a progress stage of that name.
func (a *Archive) Fetch(ctx context.Context, p Package, stage string) (string, error) {
	path := filepath.Join(a.Folder, filepath.Base(p.Filename))
	err := a.fetch(ctx, download{
		url: a.url(p.Filename), path: path, size: p.SizeBytes, sha256: p.SHA256, max: maxPackageBytes, stage: stage,
	})
	if err != nil {
		return "", fmt.Errorf("fetch package %s: %w", p.Name, err)
	}
	return path, nil
}

// FetchFile downloads one file from any HTTP URL into archive.Folder, checks its sha256 (hex) and returns its path. Client,
// deadlines and tries are the archive's. The download is a progress stage of that name.
func FetchFile(ctx context.Context, archive Archive, url, sha256, stage string) (string, error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return "", api.Errorf(api.CodeInvalid, "%.200q is no HTTP URL", url)
	}
	a, err := Open(archive)
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.Folder, "download")
	return path, a.fetch(ctx, download{url: url, path: path, size: -1, sha256: sha256, max: maxPackageBytes, stage: stage})
}

func (a *Archive) url(parts ...string) string {
	return a.Mirror + "/" + strings.Join(parts, "/")
}

// Suites are those this build has the keys of, by codename.
var Suites = []string{"trixie", "bookworm"}

// CheckSuite refuses a suite that this build has no keys for.
func CheckSuite(suite string) error {
	if !slices.Contains(Suites, suite) {
		return api.Errorf(api.CodeUnsupported, "unknown Debian suite %q", suite).WithHint("there are debian:%s", strings.Join(Suites, " and debian:"))
	}
	return nil
}
