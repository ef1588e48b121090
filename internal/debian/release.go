package debian

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"banger/api"
	"banger/internal/fetch"
)

// ErrUntrusted says that the archive's signature or date does not hold.
var ErrUntrusted = errors.New("archive is not trusted")

// clockSlack is how far in the future a release may be dated: the host's clock may be behind.
const clockSlack = 24 * time.Hour

// release is what a verified InRelease says.
type release struct {
	files  map[string]releaseFile // by path below dists/SUITE
	byHash bool
}

type releaseFile struct {
	size   int64
	sha256 string
}

// release fetches InRelease and verifies signature, suite and dates.
func (a *Archive) release(ctx context.Context) (release, error) {
	path := filepath.Join(a.Folder, a.Suite+"-InRelease")
	err := a.fetch(ctx, fetch.File{URL: a.url("dists", a.Suite, "InRelease"), SizeBytes: -1, MaxBytes: maxReleaseBytes}, path, "")
	if err != nil {
		return release{}, fmt.Errorf("fetch release of %s: %w", a.Suite, err)
	}
	defer os.Remove(path)
	signed, err := os.ReadFile(path)
	if err != nil {
		return release{}, err
	}
	text, err := verify(signed, a.Keys, a.Now())
	if err != nil {
		return release{}, fmt.Errorf("verify release of %s: %w", a.Suite, err)
	}
	r, err := parseRelease(ctx, text, a.Suite, a.Now())
	if err != nil {
		return release{}, fmt.Errorf("read release of %s: %w", a.Suite, err)
	}
	return r, nil
}

// verify returns the signed text of a clear-signed message. Text outside the signed part is
// refused, so that nobody can mistake it for signed.
func verify(signed []byte, keys openpgp.EntityList, now time.Time) ([]byte, error) {
	if !bytes.HasPrefix(signed, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, fmt.Errorf("%w: no signed message", ErrUntrusted)
	}
	block, rest := clearsign.Decode(signed)
	if block == nil || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: not one signed message", ErrUntrusted)
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	if _, err := block.VerifySignature(keys, config); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return block.Bytes, nil // exactly what is signed, with CRLF
}

// parseRelease reads the one stanza of a Release file and checks that it is of this suite and valid
// now.
func parseRelease(ctx context.Context, text []byte, suite string, now time.Time) (release, error) {
	var all []Stanza
	err := Stanzas(ctx, bytes.NewReader(text), func(s Stanza) error {
		all = append(all, s)
		return nil
	})
	if err != nil {
		return release{}, err
	}
	if len(all) != 1 {
		return release{}, fmt.Errorf("%d stanzas, want one", len(all))
	}
	s := all[0]
	if s["Codename"] != suite && s["Suite"] != suite {
		return release{}, fmt.Errorf("%w: mirror sent suite %q", ErrUntrusted, s["Codename"])
	}
	if err := checkDates(s, now); err != nil {
		return release{}, err
	}
	files, err := parseHashes(s["SHA256"])
	if err != nil {
		return release{}, err
	}
	return release{files: files, byHash: s["Acquire-By-Hash"] == "yes"}, nil
}

func checkDates(s Stanza, now time.Time) error {
	date, err := time.Parse(time.RFC1123, s["Date"])
	if err != nil {
		return fmt.Errorf("read date: %w", err)
	}
	if date.After(now.Add(clockSlack)) {
		return api.Errorf(api.CodeUnavailable, "%w: release is dated %s, in the future", ErrUntrusted, s["Date"]).
			WithHint("set this host's clock")
	}
	until := s["Valid-Until"]
	if until == "" {
		return nil // stable suites have none
	}
	end, err := time.Parse(time.RFC1123, until)
	if err != nil {
		return fmt.Errorf("read end of validity: %w", err)
	}
	if now.After(end) {
		return api.Errorf(api.CodeUnavailable, "%w: release was valid until %s", ErrUntrusted, until).
			WithHint("use a mirror that is up to date, or set this host's clock")
	}
	return nil
}

// parseHashes reads the lines "sha256 size path" of the field SHA256.
func parseHashes(field string) (map[string]releaseFile, error) {
	files := map[string]releaseFile{}
	for line := range strings.Lines(field) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 || !isSHA256(words[0]) {
			return nil, fmt.Errorf("bad hash line %.100q", line)
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("bad size in hash line %.100q", line)
		}
		files[words[2]] = releaseFile{size: size, sha256: words[0]}
	}
	return files, nil
}

func isSHA256(s string) bool {
	sum, err := hex.DecodeString(s)
	return err == nil && len(sum) == 32 && strings.ToLower(s) == s
}
