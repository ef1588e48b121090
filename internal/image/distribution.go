package image

import (
	"regexp"
	"strings"

	"banger/api"
	"banger/internal/debian"
)

// distribution is what mmdebstrap makes an image of.
type distribution struct {
	suite      string
	components string
	keyring    []byte
}

// ubuntuSuite is what a codename looks like: there are two new ones a year, so the mirror decides which exist.
var ubuntuSuite = regexp.MustCompile(`^[a-z]{3,20}$`)

// distributionOf reads a source "debian:SUITE" or "ubuntu:SUITE".
func distributionOf(source string) (distribution, error) {
	kind, suite, _ := strings.Cut(source, ":")
	switch {
	case kind == sourceDebian:
		return distribution{suite, "main", debian.Keyring}, debian.CheckSuite(suite)
	case kind == sourceUbuntu && ubuntuSuite.MatchString(suite):
		return distribution{suite, "main universe", debian.UbuntuKeyring}, nil
	}
	return distribution{}, api.Errorf(api.CodeInvalid, "%.100q is no suite of a distribution", source).WithHint("suites are code names: debian:trixie, ubuntu:noble")
}
