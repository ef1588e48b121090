package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/oci"
	"banger/internal/store"
)

// testCatalog is an empty catalog.
func testCatalog(t *testing.T) *Catalog {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := &Catalog{Root: filepath.Join(dir, "images"), Store: s, Layers: &oci.Cache{Dir: filepath.Join(dir, "layers")}}
	t.Cleanup(func() { nothingLeft(t, c) })
	return c
}

// making returns a maker of a root filesystem with a file of that name.
func making(name string, m Manifest) func(context.Context, string) (Manifest, error) {
	return func(ctx context.Context, dir string) (Manifest, error) {
		return m, makeRootfs(ctx, RootfsPath(dir), name, disk.LabelImage)
	}
}

// makeRootfs writes a small filesystem with one file.
func makeRootfs(ctx context.Context, path, name, label string) error {
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}), w.Close())
	return errors.Join(err, disk.FromTar(ctx, &root, path, label))
}

func TestMake(t *testing.T) {
	c := testCatalog(t)
	want := Manifest{
		Source: "test", Architecture: "amd64", Packages: []string{"a 1"}, Preset: "dev", PresetSHA256: "abc",
		Services: []api.ImageService{{Name: "opencode", Port: 4096, Path: "/"}},
		Defaults: api.ImageDefaults{Env: []string{"A=1"}, WorkDir: "/srv", User: "app", Entrypoint: []string{"/init"}, Cmd: []string{"-x"}},
	}
	first, err := c.Make(t.Context(), "dev", making("one", want))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Inspect(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	if got.OwnBytes == 0 || got.SharedBytes != 0 {
		t.Errorf("own %d and shared %d bytes", got.OwnBytes, got.SharedBytes)
	}
	if err := os.Link(c.Rootfs(first.ID), filepath.Join(c.Root, "link")); err != nil {
		t.Fatal(err)
	}
	linked, err := c.Inspect(t.Context(), "dev")
	if err != nil || linked.OwnBytes != 0 || linked.SharedBytes != got.OwnBytes {
		t.Errorf("own %d and shared %d bytes of a hard link, %v", linked.OwnBytes, linked.SharedBytes, err)
	}
	if err := os.Remove(filepath.Join(c.Root, "link")); err != nil {
		t.Fatal(err)
	}
	image := api.Image{
		ID: first.ID, Name: "dev", Names: []string{"dev"}, Source: "test", Architecture: "amd64", Packages: want.Packages, Preset: "dev", PresetSHA256: "abc",
		Services: want.Services, Defaults: want.Defaults, SizeBytes: got.SizeBytes, OwnBytes: got.OwnBytes, CreatedAt: got.CreatedAt, Dir: c.Dir(first.ID),
	}
	if diff := cmp.Diff(image, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	second, err := c.Make(t.Context(), "dev", making("two", want))
	if err != nil || second.ID == first.ID {
		t.Fatalf("another content: id %.8s, %v", second.ID, err)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != "dev" || list[1].Name != first.ID || len(list[1].Names) != 0 {
		t.Errorf("after the name moved: %+v, %v", list, err)
	}
}

// Images of one root filesystem that say other things of its VMs are several, and none changes
// another.
func TestSameRootfs(t *testing.T) {
	c := testCatalog(t)
	kernel := withKernel(t, c)
	ids := map[string]string{}
	for name, m := range map[string]Manifest{
		"plain": {}, "ls": {Defaults: api.ImageDefaults{Cmd: []string{"ls"}}}, "sh": {Defaults: api.ImageDefaults{Cmd: []string{"sh"}}}, "kernel": {Kernel: kernel},
	} {
		made, err := c.Make(t.Context(), name, making("x", m))
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := ids[made.ID]; ok {
			t.Errorf("%s and %s are one image", name, other)
		}
		ids[made.ID] = name
	}
	for name, want := range map[string]string{"plain": "", "ls": "ls", "sh": "sh", "kernel": ""} {
		got, err := c.Inspect(t.Context(), name)
		if strings.Join(got.Defaults.Cmd, " ") != want || (got.KernelID != "") != (name == "kernel") || err != nil {
			t.Errorf("%s is %+v, %v", name, got, err)
		}
		if err := c.Verify(t.Context(), got.ID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain, err := c.Inspect(t.Context(), "plain")
	if err != nil {
		t.Fatal(err)
	}
	if sum, _, err := disk.SHA256(t.Context(), c.Rootfs(plain.ID)); sum != plain.ID || err != nil {
		t.Errorf("the plain image's id is not its hash, %s, %v", sum, err)
	}
}

// Makers of one name take turns, also with the same content; makers of one content under two names
// share it.
func TestMakeAtOnce(t *testing.T) {
	c := testCatalog(t)
	var wait sync.WaitGroup
	for i, name := range []string{"a", "a", "b", "a", "b"} {
		wait.Go(func() {
			if _, err := c.Make(t.Context(), name, making(map[bool]string{true: "x", false: "y"}[i == 3], Manifest{})); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, name := range []string{"a", "b"} {
		record, err := c.Ensure(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if label, err := disk.Label(c.Rootfs(record.ID)); label != disk.LabelImage || err != nil {
			t.Errorf("image %s has the label %q, %v", name, label, err)
		}
	}
}

func TestMakeFails(t *testing.T) {
	c := testCatalog(t)
	broken := errors.New("broken")
	for name, make := range map[string]func(context.Context, string) (Manifest, error){
		"ErrMaker":    func(context.Context, string) (Manifest, error) { return Manifest{}, broken },
		"ErrNoRootfs": func(context.Context, string) (Manifest, error) { return Manifest{}, nil },
		"ErrNotExt4": func(_ context.Context, dir string) (Manifest, error) {
			return Manifest{}, os.WriteFile(RootfsPath(dir), []byte("text"), 0o600)
		},
		"ErrNoKernel": making("x", Manifest{Kernel: "none"}),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.Make(t.Context(), "x", make); err == nil {
				t.Error("no error")
			}
			if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("recorded all the same: %+v, %v", list, err)
			}
		})
	}
	for _, name := range []string{"", "-x", "a b", "../x\x00", "é"} {
		if _, err := c.Make(t.Context(), name, making("x", Manifest{})); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("name %q: %v, want invalid", name, err)
		}
	}
	folders, _ := filepath.Glob(filepath.Join(c.Root, "[0-9a-f]*"))
	if len(folders) != 0 {
		t.Errorf("left: %v", folders)
	}
}

// An image of a banger of before is read as it is.
func TestManifestVersion1(t *testing.T) {
	dir := t.TempDir()
	text := `{"version": 1, "id": "abc", "name": "debian:trixie", "source": "s", "architecture": "amd64", "packages": ["a 1"], "size_bytes": 3}`
	if err := os.WriteFile(filepath.Join(dir, manifestName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := load(dir)
	want := Manifest{Version: 1, ID: "abc", Name: "debian:trixie", Source: "s", Architecture: "amd64", Packages: []string{"a 1"}, SizeBytes: 3}
	if diff := cmp.Diff(want, m); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
