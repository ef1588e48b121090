package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"banger/api"
)

// saved returns the archive that go-containerregistry writes of an image, as `docker save` did
// before version 25.
func saved(t *testing.T, image v1.Image, tags ...string) []byte {
	t.Helper()
	images := map[name.Tag]v1.Image{}
	for _, text := range tags {
		tag, err := name.NewTag(text)
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = image
	}
	var out bytes.Buffer
	if err := tarball.MultiWrite(images, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// layoutFiles are those of an OCI layout with one image, by name.
func layoutFiles(t *testing.T, image v1.Image) []entry {
	t.Helper()
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	files := []entry{
		{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`},
		{name: "blobs/"},
		{name: "blobs/sha256/"},
		{name: blobsDir + sumOf(config), content: string(config)},
		{name: blobsDir + sumOf(manifest), content: string(manifest)},
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, entry{name: blobsDir + sumOf(text), content: string(text)})
	}
	nested := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d,"platform":{"os":"linux","architecture":"amd64"}},{"digest":"sha256:%s","platform":{"os":"linux","architecture":"riscv64"}}]}`,
		sumOf(manifest), len(manifest), sumOf(nil))
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:%s","size":%d}]}`, sumOf([]byte(nested)), len(nested))
	return append(files, entry{name: blobsDir + sumOf([]byte(nested)), content: nested}, entry{name: layoutIndex, content: index})
}

func TestOpenArchive(t *testing.T) {
	lower, upper := twoLayers(t)
	config := v1.Config{Env: []string{"A=b"}, Cmd: []string{"sh"}}
	image := builtImage(t, config, lower, upper)
	layout := layoutFiles(t, image)
	// Newer dockers write both, with the names of blobs in manifest.json; older ones link layers
	// that are alike.
	diff := func(n int) string { return layout[len(layout)-4+n].name }
	both := append(slices.Clip(layout), entry{name: saveManifest, content: fmt.Sprintf(`[{"Config":%q,"RepoTags":["app:new"],"Layers":[%q,%q]}]`, layout[3].name, diff(0), diff(1))})
	linked := []entry{
		layout[3],
		{name: "1/"},
		{name: "1/layer.tar", content: string(lower)},
		{name: "2/layer.tar", content: string(upper)},
		{name: "3/layer.tar", kind: tar.TypeSymlink, link: "../1/layer.tar"},
		{name: "4/layer.tar", kind: tar.TypeLink, link: "2/layer.tar"},
		{name: saveManifest, content: fmt.Sprintf(`[{"Config":%q,"Layers":["3/layer.tar","4/layer.tar"]}]`, layout[3].name)},
	}
	for _, test := range []struct {
		name, source string
		archive      []byte
	}{
		{"Saved", "app:1", saved(t, image, "app:1")},
		{"SavedGzip", "app:1", gzipOf(t, saved(t, image, "app:1"))},
		{"SavedZstd", "app:1", zstdOf(t, saved(t, image, "app:1"))},
		{"Layout", "", tarOf(t, layout...)},
		{"Both", "app:new", tarOf(t, both...)},
		{"Linked", "", tarOf(t, linked...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, scratch := writeFile(t, test.archive), t.TempDir()
			got, err := OpenArchive(t.Context(), path, scratch, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			if left, _ := os.ReadDir(scratch); len(left) != 0 {
				t.Errorf("files with a name: %v", left)
			}
			if !strings.HasSuffix(got.Source, test.source) {
				t.Errorf("source %q", got.Source)
			}
			if diff := cmp.Diff(Config{Env: config.Env, Cmd: config.Cmd}, got.Config); diff != "" {
				t.Error(diff)
			}
			out, err := flatten(t.Context(), got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{rootLine, "5 755 0:0 etc/", `0 644 0:0 b "two"`}, listing(t, out)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The same image is the same wherever it comes from, and nothing of it is fetched to see that.
func TestIdentity(t *testing.T) {
	f := newFakeRegistry(t)
	lower, upper := twoLayers(t)
	image := builtImage(t, v1.Config{User: "app"}, lower, upper)
	f.push(t, "app", image)
	r := puller(t)
	ref, err := ParseReference(f.ref("app"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := r.Find(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	archived, err := OpenArchive(t.Context(), writeFile(t, saved(t, image, "app:1")), t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer archived.Close()
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	plain := tarOf(t, entry{name: "a", content: "one"})
	tarred, err := OpenTar(writeFile(t, plain), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer tarred.Close()
	for want, i := range map[string]*Image{"config:" + sumOf(config): found, "tar:" + sumOf(plain): tarred} {
		if got, err := i.Identity(t.Context()); got != want || err != nil {
			t.Errorf("identity %s, %v; want %s", got, err, want)
		}
	}
	if got, err := archived.Identity(t.Context()); got != "config:"+sumOf(config) || err != nil {
		t.Errorf("identity %s, %v", got, err)
	}
	onlyWhole(t, r.Cache, 0)
	for range 2 { // it can still be used, more than once
		if out, err := flatten(t.Context(), tarred); err != nil || len(listing(t, out)) != 2 {
			t.Errorf("%v, %v", out, err)
		}
	}
}

func TestOpenArchiveErrors(t *testing.T) {
	lower, upper := twoLayers(t)
	image := builtImage(t, v1.Config{}, lower, upper)
	layout := layoutFiles(t, image)
	change := func(n int, by func(*entry)) []byte {
		files := append([]entry(nil), layout...)
		by(&files[n])
		return tarOf(t, files...)
	}
	good := tarOf(t, layout...)
	var many []entry
	for n := range maxArchiveEntries + 1 {
		many = append(many, entry{name: fmt.Sprint(n)})
	}
	two := tarOf(t, entry{name: saveManifest, content: `[{"Config":"a"},{"Config":"b"}]`})
	for _, test := range []struct {
		name    string
		archive []byte
		code    api.Code
		want    string
	}{
		{"ErrEmpty", nil, api.CodeInvalid, "holds no image"},
		{"ErrText", []byte(strings.Repeat("text ", 300)), api.CodeInvalid, "bad image"},
		{"ErrRootfs", tarOf(t, entry{name: "etc/"}), api.CodeInvalid, "holds no image"},
		{"ErrTruncated", good[:len(good)/2], api.CodeInvalid, "EOF"},
		{"ErrTruncatedGzip", gzipOf(t, good)[:500], api.CodeInvalid, "EOF"},
		{"ErrTwoImages", two, api.CodeInvalid, "holds 2 images"},
		{"ErrConfigChanged", change(3, func(e *entry) { e.content += " " }), api.CodeInvalid, "not what its digest says"},
		{"ErrNoConfig", change(3, func(e *entry) { e.name = "elsewhere" }), api.CodeInvalid, "lacks the file"},
		{"ErrNoLayer", change(5, func(e *entry) { e.name = "elsewhere" }), api.CodeInvalid, "lacks the file"},
		{"ErrIndex", change(len(layout)-1, func(e *entry) { e.content = "[" }), api.CodeInvalid, "read index.json"},
		{"ErrEmptyIndex", change(len(layout)-1, func(e *entry) { e.content = "{}" }), api.CodeUnsupported, "not made for"},
		{"ErrLinkLoop", tarOf(t, entry{name: saveManifest, content: `[{"Config":"a"}]`}, entry{name: "a", kind: tar.TypeSymlink, link: "a"}), api.CodeInvalid, "symlink to a symlink"},
		{"ErrLayerCount", tarOf(t, entry{name: saveManifest, content: `[{"Config":"c","Layers":["x"]}]`}, entry{name: "c", content: "{}"}), api.CodeInvalid, "1 layers, its configuration 0"},
		{"ErrLargeJSON", tarOf(t, entry{name: saveManifest, content: strings.Repeat(" ", maxManifestBytes+1)}), api.CodeInvalid, "has 4194305 bytes"},
		{"ErrSparse", gnuSparse(2 << 20), api.CodeInvalid, "is sparse"},
		{"ErrManyEntries", tarOf(t, many...), api.CodeInvalid, "more than 10000 entries"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := OpenArchive(t.Context(), writeFile(t, test.archive), t.TempDir(), Limits{})
			if api.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v (%s), want %s with %q", err, api.CodeOf(err), test.code, test.want)
			}
		})
	}
}

// A layer that was changed inside an archive is found when it is read.
func TestArchiveLayerChanged(t *testing.T) {
	lower, upper := twoLayers(t)
	files := layoutFiles(t, builtImage(t, v1.Config{}, lower, upper))
	files[5].content = string(gzipOf(t, tarOf(t, entry{name: "evil"})))
	image, err := OpenArchive(t.Context(), writeFile(t, tarOf(t, files...)), t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if _, err := flatten(t.Context(), image); err == nil || !strings.Contains(err.Error(), "want "+sumOf(lower)[:12]) {
		t.Errorf("error %v", err)
	}
}

func TestOpenFileErrors(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]api.Code{
		filepath.Join(dir, "none"): api.CodeNotFound, pipe: api.CodeInvalid, dir: api.CodeInvalid, "/dev/zero": api.CodeInvalid,
	} {
		if _, err := OpenTar(path, Limits{}); api.CodeOf(err) != want {
			t.Errorf("tar %s: %v, want code %s", path, err, want)
		}
		if _, err := OpenArchive(t.Context(), path, dir, Limits{}); api.CodeOf(err) != want {
			t.Errorf("archive %s: %v, want code %s", path, err, want)
		}
	}
}

func TestOpenArchiveCanceled(t *testing.T) {
	gone := errors.New("Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	archive := tarOf(t, entry{name: "a"})
	for _, text := range [][]byte{archive, gzipOf(t, archive)} {
		if _, err := OpenArchive(ctx, writeFile(t, text), t.TempDir(), Limits{}); !errors.Is(err, gone) {
			t.Errorf("error %v, want %v", err, gone)
		}
	}
}

func FuzzArchive(f *testing.F) {
	f.Add(tarOf(f, entry{name: saveManifest, content: `[{"Config":"c","Layers":["l"]}]`}, entry{name: "c", content: `{"rootfs":{"diff_ids":["sha256:` + sumOf(nil) + `"]}}`}, entry{name: "l", kind: tar.TypeSymlink, link: "c"}))
	f.Add(tarOf(f, entry{name: layoutIndex, content: `{"manifests":[{"digest":"sha256:` + sumOf([]byte("{}")) + `"}]}`}, entry{name: blobsDir + sumOf([]byte("{}")), content: "{}"}))
	f.Add(gnuSparse(100))
	f.Fuzz(func(t *testing.T, text []byte) {
		image, err := readArchive(t.Context(), io.NewSectionReader(bytes.NewReader(text), 0, int64(len(text))), Limits{Entries: 100, Bytes: 1 << 20}.withDefaults())
		if err != nil {
			return
		}
		if image.CompressedBytes() > maxLayers*int64(len(text)) {
			t.Fatalf("%d bytes of layers in %d", image.CompressedBytes(), len(text))
		}
		_ = image.Flatten(t.Context(), io.Discard)
	})
}
