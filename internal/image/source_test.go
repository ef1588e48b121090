package image

import (
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

func TestParseSource(t *testing.T) {
	for _, tt := range []struct {
		text string
		kind SourceKind
		name string // of the image, when nobody gives it one
	}{
		{"oci:busybox", SourceOCI, "oci:busybox"},
		{"oci:localhost:5000/a:1", SourceOCI, "oci:localhost:5000/a:1"},
		{"debian:trixie", SourceDebian, "debian:trixie"},
		{"ubuntu:noble", SourceUbuntu, "ubuntu:noble"},
		{"ubuntu:nextone", SourceUbuntu, "ubuntu:nextone"}, // the mirror decides
		{"tar:/a/root.tar.gz", SourceTar, "root"},
		{"tar:/a/root.tgz", SourceTar, "root"},
		{"tar:/a/plain", SourceTar, "plain"},
		{"tar:/a/with:colon.tar", SourceTar, "with:colon"},
		{"tar:/a/.tar", SourceTar, ".tar"},
		{"docker-archive:/a/app-1.2.tar", SourceArchive, "app-1.2"},
	} {
		s, err := ParseSource(tt.text)
		if err != nil || s.Kind != tt.kind || s.String() != tt.text || s.name() != tt.name {
			t.Errorf("%s: %s %q named %q, %v; want %s named %q", tt.text, s.Kind, s, s.name(), err, tt.kind, tt.name)
		}
	}
}

func TestParseSourceErrors(t *testing.T) {
	for text, want := range map[string]struct {
		code api.Code
		text string
	}{
		"":                    {api.CodeUnsupported, "unknown image source"},
		"mine":                {api.CodeUnsupported, "unknown image source"},
		"OCI:busybox":         {api.CodeUnsupported, "unknown image source"},
		":busybox":            {api.CodeUnsupported, "unknown image source"},
		"https://h/x":         {api.CodeUnsupported, "unknown image source"},
		"oci":                 {api.CodeInvalid, "bad image reference"},
		"oci:UPPER":           {api.CodeInvalid, "bad image reference"},
		"oci:a b":             {api.CodeInvalid, "bad image reference"},
		"tar:":                {api.CodeInvalid, "not absolute"},
		"tar:root.tar":        {api.CodeInvalid, "not absolute"},
		"docker-archive:./x":  {api.CodeInvalid, "not absolute"},
		"debian:":             {api.CodeUnsupported, "unknown Debian suite"},
		"debian:sarge":        {api.CodeUnsupported, "unknown Debian suite"},
		"ubuntu:":             {api.CodeInvalid, "no suite of a distribution"},
		"ubuntu:noble main":   {api.CodeInvalid, "no suite of a distribution"},
		"ubuntu:../../x":      {api.CodeInvalid, "no suite of a distribution"},
		"ubuntu:nob\nle":      {api.CodeInvalid, "no suite of a distribution"},
		"debian:trixie:extra": {api.CodeUnsupported, "unknown Debian suite"},
	} {
		if s, err := ParseSource(text); api.CodeOf(err) != want.code || err == nil || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%q: %v, %v (%s); want %s with %q", text, s, err, api.CodeOf(err), want.code, want.text)
		}
	}
}

// FuzzParseSource reads what users write: what is taken is carried as it was given, names its
// image, and a file is named in full.
func FuzzParseSource(f *testing.F) {
	for _, seed := range []string{"oci:localhost:5000/a:1", "oci:a@sha256:00", "tar:/a/root.tar.gz", "docker-archive:x", "debian:trixie", "ubuntu:noble", "mine"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSource(text)
		if err != nil {
			return
		}
		if s.String() != text || s.name() == "" {
			t.Errorf("%q became %q named %q", text, s, s.name())
		}
		if s.isFile() != (s.path != "") || s.isFile() && !filepath.IsAbs(s.path) {
			t.Errorf("%q is the file %q", text, s.path)
		}
		if s.isDistribution() != (s.distribution.suite != "") || strings.ContainsAny(s.distribution.suite, " /\n") {
			t.Errorf("%q is the suite %q", text, s.distribution.suite)
		}
	})
}
