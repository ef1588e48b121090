// Package download gets single files from the net, verified by their hash, and keeps them by it.
//
// A source is a line of text, as a setting holds it:
//
//	https://example.org/tool.tar.gz#sha256=HEX   a URL and the hash of what it gives
//	npm:@scope/tool@1.2.3#sha512-BASE64          a package of the npm registry; without a hash, the registry's own counts
package download

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/url"
	"regexp"
	"strings"

	"banger/api"
)

// Source is a file of the net.
type Source struct {
	text string
	// Exactly one of them is given.
	url     string
	pkg     string // of the npm registry
	version string
	want    digest // zero when the registry says it
}

// String is the text that the source was parsed from.
func (s Source) String() string { return s.text }

// digest is a hash that a file must have.
type digest struct {
	algorithm string // sha256 or sha512
	hex       string
}

func (d digest) new() hash.Hash {
	if d.algorithm == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

func (d digest) String() string { return d.algorithm + ":" + d.hex }

// fileName is the name in a cache.
func (d digest) fileName() string { return d.algorithm + "-" + d.hex }

// npmName is what the npm registry takes for names and exact versions.
var (
	npmName    = regexp.MustCompile(`^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$`)
	npmVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)
)

const maxSourceBytes = 2 << 10

// Parse reads the text of a source.
func Parse(text string) (Source, error) {
	if len(text) > maxSourceBytes {
		return Source{}, badSource(text[:40]+"…", "is too long")
	}
	where, fragment, _ := strings.Cut(text, "#")
	if rest, ok := strings.CutPrefix(where, "npm:"); ok {
		return parseNPM(text, rest, fragment)
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return Source{}, badSource(text, "is neither a URL nor npm:PACKAGE@VERSION")
	}
	sum, ok := strings.CutPrefix(fragment, "sha256=")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size {
		return Source{}, badSource(text, "does not end in #sha256= and 64 hex digits")
	}
	return Source{text: text, url: where, want: digest{"sha256", strings.ToLower(sum)}}, nil
}

func parseNPM(text, rest, fragment string) (Source, error) {
	at := strings.LastIndexByte(rest, '@')
	if at <= 0 || !npmName.MatchString(rest[:at]) || !npmVersion.MatchString(rest[at+1:]) {
		return Source{}, badSource(text, "is not npm:PACKAGE@VERSION with an exact version")
	}
	s := Source{text: text, pkg: rest[:at], version: rest[at+1:]}
	if fragment == "" {
		return s, nil
	}
	want, ok := parseIntegrity(fragment)
	if !ok {
		return Source{}, badSource(text, "does not end in #sha512- and the hash in base64")
	}
	s.want = want
	return s, nil
}

// parseIntegrity reads the sha512 in the text by which npm tells a package's hash; it may hold
// several, apart by spaces.
func parseIntegrity(text string) (digest, bool) {
	for one := range strings.FieldsSeq(text) {
		encoded, ok := strings.CutPrefix(one, "sha512-")
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if ok && err == nil && len(raw) == sha512.Size {
			return digest{"sha512", hex.EncodeToString(raw)}, true
		}
	}
	return digest{}, false
}

func badSource(text, why string) error {
	return api.Errorf(api.CodeInvalid, "source %q %s", text, why).
		WithHint("write it as https://HOST/FILE#sha256=HEX or npm:PACKAGE@VERSION#sha512-BASE64")
}
