package image

import (
	"path/filepath"
	"regexp"
	"strings"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/oci"
)

// SourceKind is where an image comes from; a source begins with it.
type SourceKind string

// All kinds.
const (
	SourceOCI     SourceKind = "oci"            // a registry
	SourceArchive SourceKind = "docker-archive" // a file that `docker save` wrote, or an OCI layout in a tar
	SourceTar     SourceKind = "tar"            // the tar of a root filesystem, in a file
	SourceDebian  SourceKind = "debian"
	SourceUbuntu  SourceKind = "ubuntu"
)

// Source is what an image is made of, parsed and checked.
type Source struct {
	Kind SourceKind

	text         string
	reference    oci.Reference // of a registry
	path         string        // of a file, absolute
	distribution distribution
}

// ParseSource reads "KIND:REST": oci:REFERENCE, docker-archive:FILE, tar:FILE (with absolute
// paths), debian:SUITE or ubuntu:SUITE.
func ParseSource(text string) (s Source, err error) {
	kind, rest, _ := strings.Cut(text, ":")
	s = Source{Kind: SourceKind(kind), text: text}
	switch s.Kind {
	case SourceOCI:
		s.reference, err = oci.ParseReference(rest)
	case SourceArchive, SourceTar:
		s.path = rest
		if !filepath.IsAbs(rest) {
			err = api.Errorf(api.CodeInvalid, "image source %q: the file's path is not absolute", text)
		}
	case SourceDebian, SourceUbuntu:
		s.distribution, err = distributionOf(s.Kind, rest)
	default:
		err = api.Errorf(api.CodeUnsupported, "unknown image source %q", text).
			WithHint("sources are oci:REFERENCE, docker-archive:FILE, tar:FILE, debian:SUITE and ubuntu:SUITE, for example oci:busybox")
	}
	if err != nil {
		return Source{}, err
	}
	return s, nil
}

// String is the source as it was given.
func (s Source) String() string { return s.text }

// isFile reports whether the source is a file of the host.
func (s Source) isFile() bool { return s.Kind == SourceArchive || s.Kind == SourceTar }

// isDistribution reports whether the image is built of a distribution's packages.
func (s Source) isDistribution() bool { return s.Kind == SourceDebian || s.Kind == SourceUbuntu }

// name is that of an image of which nobody gave one: the source, so that it is found again by it,
// or the name of its file.
func (s Source) name() string {
	if !s.isFile() {
		return s.text
	}
	name := filepath.Base(s.path)
	for _, suffix := range []string{".gz", ".zst", ".xz", ".bz2", ".tgz", ".tar"} {
		if short := strings.TrimSuffix(name, suffix); short != "" {
			name = short
		}
	}
	return name
}

// distribution is what mmdebstrap makes an image of.
type distribution struct {
	suite      string
	components string
	keyring    []byte
}

// ubuntuSuite is what a codename looks like: there are two new ones a year, so the mirror decides
// which exist.
var ubuntuSuite = regexp.MustCompile(`^[a-z]{3,20}$`)

// distributionOf is a suite of Debian or of Ubuntu.
func distributionOf(kind SourceKind, suite string) (distribution, error) {
	switch {
	case kind == SourceDebian:
		return distribution{suite, "main", debian.Keyring}, debian.CheckSuite(suite)
	case kind == SourceUbuntu && ubuntuSuite.MatchString(suite):
		return distribution{suite, "main universe", debian.UbuntuKeyring}, nil
	}
	return distribution{}, api.Errorf(api.CodeInvalid, "%.100q is no suite of a distribution", string(kind)+":"+suite).
		WithHint("suites are code names: debian:trixie, ubuntu:noble")
}
