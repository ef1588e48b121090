// Package debian reads Debian's package archive on any distribution, without apt or dpkg.
//
// Trust goes one way: the embedded archive keys verify InRelease, InRelease holds the hash of the
// package index, the index holds the hash of each .deb. Nothing is used before its hash is checked,
// every size is bounded, and the mirror needs no TLS. Only binary packages of one component and
// architecture are read; dependencies are not resolved.
package debian

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"banger/api"
	"banger/internal/compression"
	"banger/internal/fetch"
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
	Stall        time.Duration      // see fetch.Client
	Backoff      time.Duration      // likewise
	Now          func() time.Time   // default time.Now
	Log          *slog.Logger       // default: nothing is logged
}

// NewClient returns a client for mirrors.
func NewClient() *http.Client { return &http.Client{Transport: fetch.NewTransport()} }

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
	if a.Now == nil {
		a.Now = time.Now
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
	index := fetch.File{URL: path, SizeBytes: entry.size, MaxBytes: maxIndexBytes, Digest: "sha256:" + entry.sha256}
	if err := a.fetch(ctx, index, file, ""); err != nil {
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
	plain, err := unpack(file, ".xz")
	if err != nil {
		return nil, fmt.Errorf("unpack package index: %w", err)
	}
	defer plain.Close()
	found := map[string]Package{}
	err = Stanzas(ctx, compression.Limit(plain, maxIndexBytes), func(s Stanza) error {
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

// Fetch downloads and verifies the package and returns the path of the .deb in the archive's
// folder. The download is a progress stage of that name.
func (a *Archive) Fetch(ctx context.Context, p Package, stage string) (string, error) {
	path := filepath.Join(a.Folder, filepath.Base(p.Filename))
	err := a.fetch(
		ctx,
		fetch.File{URL: a.url(p.Filename), SizeBytes: p.SizeBytes, MaxBytes: maxPackageBytes, Digest: "sha256:" + p.SHA256},
		path,
		stage,
	)
	if err != nil {
		return "", fmt.Errorf("fetch package %s: %w", p.Name, err)
	}
	return path, nil
}

// FetchFile downloads one file from any HTTP URL into archive.Folder, checks its sha256 (hex) and
// returns its path. Client, deadlines and tries are the archive's. The download is a progress stage
// of that name.
func FetchFile(ctx context.Context, archive Archive, url, sha256, stage string) (string, error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return "", api.Errorf(api.CodeInvalid, "%.200q is no HTTP URL", url)
	}
	a, err := Open(archive)
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.Folder, "download")
	return path, a.fetch(ctx, fetch.File{URL: url, SizeBytes: -1, MaxBytes: maxPackageBytes, Digest: "sha256:" + sha256}, path, stage)
}

func (a *Archive) url(parts ...string) string {
	return a.Mirror + "/" + strings.Join(parts, "/")
}

// Suites are those this build has the keys of, by codename.
var Suites = []string{"trixie", "bookworm"}

// CheckSuite refuses a suite that this build has no keys for.
func CheckSuite(suite string) error {
	if !slices.Contains(Suites, suite) {
		return api.Errorf(api.CodeUnsupported, "unknown Debian suite %q", suite).
			WithHint("there are debian:%s", strings.Join(Suites, " and debian:"))
	}
	return nil
}
