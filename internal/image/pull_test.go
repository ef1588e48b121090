package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/store"
)

// The fake mmdebstrap is given Ubuntu's mirror and keys: no mirror of it is needed to see that.
func TestUbuntu(t *testing.T) {
	c, _ := fakeHost(t, `printf '%s\n' "$@" >"$FAKE_RUNS.args"; cp "${TMPDIR}/keyring.gpg" "$FAKE_RUNS.keys"`)
	c.UbuntuMirror = "http://mirror.example/ubuntu"
	record, err := c.Ensure(t.Context(), "ubuntu:noble")
	if err != nil {
		t.Fatal(err)
	}
	runs := os.Getenv("FAKE_RUNS")
	args, err := os.ReadFile(runs + ".args")
	if err != nil || !strings.Contains(string(args), "\ndeb http://mirror.example/ubuntu noble main universe\n") || !strings.Contains(string(args), "noble-security main universe") {
		t.Errorf("mmdebstrap was given %s, %v", args, err)
	}
	keys, err := os.ReadFile(runs + ".keys")
	if err != nil || !bytes.Equal(keys, debian.UbuntuKeyring) {
		t.Errorf("%d bytes of keys, %v", len(keys), err)
	}
	if record.Name != "ubuntu:noble" || record.Source != "mmdebstrap from http://mirror.example/ubuntu" {
		t.Errorf("record %+v", record)
	}
	ring, err := openpgp.ReadKeyRing(bytes.NewReader(debian.UbuntuKeyring))
	if err != nil || len(ring) < 2 {
		t.Errorf("%d keys, %v", len(ring), err)
	}
}

// tarWith writes the tar of a root with one empty folder.
func tarWith(t *testing.T, path, folder string) {
	t.Helper()
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755}), w.Close(), os.WriteFile(path, root.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// pullText pulls a source that is still to be parsed.
func pullText(ctx context.Context, c *Catalog, text, name string) (store.Image, error) {
	source, err := ParseSource(text)
	if err != nil {
		return store.Image{}, err
	}
	return c.Pull(ctx, source, name)
}

func TestPullTar(t *testing.T) {
	c, _ := fakeHost(t, "exit 1")
	path := filepath.Join(t.TempDir(), "root.v1.tar")
	tarWith(t, path, "srv")
	named, err := pullText(t.Context(), c, "tar:"+path, "mine")
	if err != nil {
		t.Fatal(err)
	}
	if named.Source != "tar:"+path {
		t.Errorf("%+v", named)
	}
	if label, err := disk.Label(c.Rootfs(named.ID)); label != disk.LabelImage || err != nil {
		t.Errorf("label %q, %v", label, err)
	}
	if err := os.Truncate(path, 300); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]api.Code{"tar:" + path: api.CodeInvalid, "tar:/none": api.CodeNotFound, "docker-archive:" + path: api.CodeInvalid, "mine": api.CodeUnsupported} {
		if _, err := pullText(t.Context(), c, source, "bad"); api.CodeOf(err) != want {
			t.Errorf("pull %s: %v, want code %s", source, err, want)
		}
	}
	if images, err := c.List(t.Context()); len(images) != 1 || err != nil {
		t.Errorf("%d images, %v", len(images), err)
	}
}

// What was pulled before only gets the name. It is made again when it is damaged, gone, or came
// from somewhere else.
func TestPullAgain(t *testing.T) {
	c, _ := fakeHost(t, "exit 1")
	path := filepath.Join(t.TempDir(), "root.v1.tar")
	tarWith(t, path, "srv")
	pull := func(name string) (image store.Image, made string) {
		t.Helper()
		image, err := pullText(t.Context(), c, "tar:"+path, name)
		if err != nil {
			t.Fatal(err)
		}
		if made, err = disk.Stamp(c.Dir(image.ID), rootfsName); err != nil {
			t.Fatal(err)
		}
		return image, made
	}
	first, made := pull("mine")
	again, kept := pull("")
	if again.ID != first.ID || kept != made || strings.Join(again.Names, " ") != "mine root.v1" {
		t.Errorf("%+v (%s) after %+v (%s)", again, kept, first, made)
	}
	file, err := os.OpenFile(c.Rootfs(first.ID), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = file.WriteAt([]byte("rot"), 8192); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Close(), c.Verify(t.Context(), first.ID)); api.CodeOf(err) != api.CodeUnavailable {
		t.Fatalf("the damage: %v", err)
	}
	repaired, _ := pull("mine")
	if err := c.Verify(t.Context(), repaired.ID); repaired.ID != first.ID || err != nil {
		t.Errorf("%+v, %v", repaired, err)
	}
	var archive bytes.Buffer
	if err := errors.Join(c.Save(t.Context(), "mine", &archive), c.Remove(t.Context(), first.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Load(t.Context(), &archive, "mine"); err != nil {
		t.Fatal(err)
	}
	_, made = pull("other")
	if _, kept := pull("other"); kept != made {
		t.Error("made again after it was loaded and pulled")
	}
	if m, err := load(c.Dir(first.ID)); err != nil || !strings.HasPrefix(m.Origin, conversion+"tar:") {
		t.Errorf("origin %q, %v", m.Origin, err)
	}
	tarWith(t, path, "another")
	if other, _ := pull("mine"); other.ID == first.ID {
		t.Error("another content is the same image")
	}
}

func TestPruneLayers(t *testing.T) {
	c, _ := fakeHost(t, "exit 1")
	layer := filepath.Join(c.Layers.Dir, strings.Repeat("0a", 32))
	if err := errors.Join(os.MkdirAll(c.Layers.Dir, 0o755), os.WriteFile(layer, make([]byte, 100), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, dryRun := range []bool{true, false} {
		pruned, err := c.Prune(t.Context(), dryRun)
		if err != nil || pruned.FreedBytes != 100 || len(pruned.Removed) != 0 {
			t.Errorf("dry run %v: %+v, %v", dryRun, pruned, err)
		}
		if _, err := os.Stat(layer); (err == nil) != dryRun {
			t.Errorf("dry run %v: layer %v", dryRun, err)
		}
	}
}
