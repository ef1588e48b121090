package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger/api"
	"banger/internal/progress"
)

func TestPull(t *testing.T) {
	f := newFakeRegistry(t)
	lower, upper := twoLayers(t)
	config := v1.Config{Env: []string{"PATH=/bin", "LANG=C", "FROMHOST"}, WorkingDir: "srv", User: "www:1", Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"ls"}}
	image := builtImage(t, config, lower, upper)
	other, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	f.push(t, "app:1", index)
	f.push(t, "again", image)
	r := puller(t)

	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	var mu sync.Mutex
	ctx := progress.With(t.Context(), func(p api.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.State == api.ProgressDone {
			stages = append(stages, fmt.Sprintf("%s %d/%d %s", p.Stage, p.DoneBytes, p.TotalBytes, p.Detail))
		}
	})
	for _, test := range []struct {
		ref   string
		blobs int // beside the configuration's
	}{{"app:1", 2}, {"app:1", 0}, {"again@" + digest.String(), 0}} {
		got, err := pull(ctx, r, f.ref(test.ref))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(f.requests("GET /v2/" + strings.FieldsFunc(test.ref, func(r rune) bool { return r == ':' || r == '@' })[0] + "/blobs")); n != test.blobs+1 {
			t.Errorf("%s: %d blobs were fetched, want %d", test.ref, n-1, test.blobs)
		}
		want := Config{Env: []string{"PATH=/bin", "LANG=C"}, WorkingDir: "/srv", User: "www:1", Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"ls"}}
		if diff := cmp.Diff(want, got.Config); diff != "" {
			t.Error(diff)
		}
		if !strings.HasSuffix(got.Source, "@"+digest.String()) {
			t.Errorf("source %q", got.Source)
		}
		tar, err := flatten(ctx, got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{rootLine, "5 755 0:0 etc/", "5 755 0:0 srv/", `0 644 0:0 b "two"`}, listing(t, tar)); diff != "" {
			t.Error(diff)
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
	}
	onlyWhole(t, r.Cache, 2)
	mu.Lock()
	defer mu.Unlock()
	all := strings.Join(stages, "\n")
	for _, want := range []string{
		fmt.Sprintf("layer %.12s %d/%d \n", sumOf(lower), len(lower), len(lower)),
		fmt.Sprintf("layer %.12s 0/%d cached\n", sumOf(upper), len(upper)),
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no stage %q in\n%s", want, all)
		}
	}
}

func TestPullRefuses(t *testing.T) {
	f := newFakeRegistry(t)
	lower, _ := twoLayers(t)
	withArch := func(os, arch string) v1.Image {
		image := builtImage(t, v1.Config{}, lower)
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config.OS, config.Architecture = os, arch
		if image, err = mutate.ConfigFile(image, config); err != nil {
			t.Fatal(err)
		}
		return image
	}
	f.push(t, "arm", withArch("linux", "arm64"))
	f.push(t, "windows", withArch("windows", "amd64"))
	f.push(t, "index", mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: withArch("linux", "arm64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: withArch("", ""), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}}))
	f.push(t, "nothing", builtImage(t, v1.Config{}))
	f.push(t, "zero", builtImage(t, v1.Config{Env: []string{"A=b\x00c"}}, lower))
	f.push(t, "user", builtImage(t, v1.Config{User: "a\x00b"}, lower))
	foreign, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(lower)), nil }, tarball.WithMediaType(types.DockerForeignLayer))
	if err != nil {
		t.Fatal(err)
	}
	withForeign, err := mutate.AppendLayers(builtImage(t, v1.Config{}), foreign)
	if err != nil {
		t.Fatal(err)
	}
	f.push(t, "foreign", withForeign)
	for ref, want := range map[string]struct {
		code api.Code
		text string
	}{
		"arm":         {api.CodeUnsupported, `made for "linux" on "arm64"`},
		"windows":     {api.CodeUnsupported, `made for "windows"`},
		"index":       {api.CodeUnsupported, `only for ["linux/arm64"]`},
		"nothing":     {api.CodeInvalid, "no layers"},
		"zero":        {api.CodeInvalid, "zero byte"},
		"user":        {api.CodeInvalid, "zero byte"},
		"foreign":     {api.CodeUnsupported, "foreign"},
		"missing":     {api.CodeNotFound, "no image"},
		"UPPER":       {api.CodeInvalid, "bad image reference"},
		"a@sha256:12": {api.CodeInvalid, "bad image reference"},
	} {
		if _, err := pull(t.Context(), puller(t), f.ref(ref)); api.CodeOf(err) != want.code || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v (%s), want %s with %q", ref, err, api.CodeOf(err), want.code, want.text)
		}
	}
}

func TestParseReference(t *testing.T) {
	for ref, want := range map[string]string{
		"busybox":                "index.docker.io/library/busybox:latest",
		"me/app:1":               "index.docker.io/me/app:1",
		"localhost:5000/x":       "localhost:5000/x:latest",
		"ghcr.io/o/a/b:v1.2":     "ghcr.io/o/a/b:v1.2",
		"docker.io/library/bash": "index.docker.io/library/bash:latest",
	} {
		if got, err := ParseReference(ref); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %q", ref, got, err, want)
		}
	}
	for _, ref := range []string{"", " ", "a b", "http://x/y", "-x:", "a:b:c"} {
		if got, err := ParseReference(ref); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %+v, %v", ref, got, err)
		}
	}
}

// Credentials come from Docker's configuration: as they stand there, or from the helper it names.
func TestCredentials(t *testing.T) {
	f := newFakeRegistry(t)
	lower, _ := twoLayers(t)
	f.push(t, "secret", builtImage(t, v1.Config{}, lower))
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user == "ann" && password == "pass" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	bin := t.TempDir()
	helper := "#!/bin/sh\nread server\n[ \"$server\" = " + f.host + " ] && echo '{\"Username\":\"ann\",\"Secret\":\"pass\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-fake"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, test := range []struct {
		name, config string
		code         api.Code
	}{
		{"Stored", fmt.Sprintf(`{"auths":{%q:{"auth":"YW5uOnBhc3M="}}}`, f.host), ""},
		{"Helper", fmt.Sprintf(`{"credHelpers":{%q:"fake"}}`, f.host), ""},
		{"ErrWrongPassword", fmt.Sprintf(`{"auths":{%q:{"auth":"YW5uOm5v"}}}`, f.host), api.CodeInvalid},
		{"ErrNone", `{}`, api.CodeInvalid},
		{"ErrMalformed", `{`, api.CodeInvalid},
		{"ErrNoHelper", fmt.Sprintf(`{"credHelpers":{%q:"missing"}}`, f.host), api.CodeInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("DOCKER_CONFIG", home)
			if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			r := puller(t)
			r.Keychain = nil
			image, err := pull(t.Context(), r, f.ref("secret"))
			if test.code == "" && err != nil || test.code != "" && api.CodeOf(err) != test.code {
				t.Errorf("error %v, want code %q", err, test.code)
			}
			if image != nil {
				_ = image.Close()
			}
		})
	}
}

// slowKeychain never answers.
type slowKeychain struct{ asked chan struct{} }

func (s slowKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	<-s.asked
	return authn.Anonymous, nil
}

func TestHelperThatHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	r := puller(t)
	r.Keychain = slowKeychain{release}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := pull(ctx, r, "localhost:1/x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// What a registry says about an image is judged without panics, and what passes is in bounds.
func FuzzManifests(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":1,"digest":"sha256:`+sumOf(nil)+`"}]}`),
		[]byte(`{"os":"linux","architecture":"amd64","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["sha256:`+sumOf(nil)+`"]}}`))
	f.Add([]byte(`{"manifests":[{"platform":{"os":"linux","architecture":"amd64"},"digest":"sha256:`+sumOf(nil)+`"}]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		if index, err := v1.ParseIndexManifest(bytes.NewReader(manifest)); err == nil {
			_, _ = pick(index)
		}
		m, err := parseManifest(manifest)
		if err != nil {
			return
		}
		file, err := parseConfig(config)
		if err != nil {
			return
		}
		c, diffIDs, err := configOf(file)
		if err != nil || checkLayers(m.Layers, diffIDs, Limits{}.withDefaults()) != nil {
			return
		}
		for _, l := range m.Layers {
			if !isDigest(l.Digest.Hex) || l.Size < 0 {
				t.Fatalf("layer %v passed", l)
			}
		}
		if text, err := json.Marshal(c); err != nil || bytes.Contains(text, []byte(`\u0000`)) {
			t.Fatalf("configuration %s passed, %v", text, err)
		}
	})
}
