package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
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

func TestPullTar(t *testing.T) {
	c, _ := fakeHost(t, "exit 1")
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "srv/", Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root.v1.tar")
	if err := os.WriteFile(path, root.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	named, err := c.Pull(t.Context(), "tar:"+path, "mine")
	if err != nil {
		t.Fatal(err)
	}
	unnamed, err := c.Pull(t.Context(), "tar:"+path, "")
	if err != nil {
		t.Fatal(err)
	}
	if unnamed.ID != named.ID || strings.Join(unnamed.Names, " ") != "mine root.v1" || unnamed.Source != "tar:"+path {
		t.Errorf("%+v after %+v", unnamed, named)
	}
	if label, err := disk.Label(c.Rootfs(named.ID)); label != disk.LabelImage || err != nil {
		t.Errorf("label %q, %v", label, err)
	}
	if err := os.WriteFile(path, root.Bytes()[:300], 0o600); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]api.Code{"tar:" + path: api.CodeInvalid, "tar:/none": api.CodeNotFound, "docker-archive:" + path: api.CodeInvalid, "mine": api.CodeUnsupported} {
		if _, err := c.Pull(t.Context(), source, "bad"); api.CodeOf(err) != want {
			t.Errorf("pull %s: %v, want code %s", source, err, want)
		}
	}
	if images, err := c.List(t.Context()); len(images) != 1 || err != nil {
		t.Errorf("%d images, %v", len(images), err)
	}
}

func TestNameOf(t *testing.T) {
	for source, want := range map[string]string{
		"oci:localhost:5000/a:1": "oci:localhost:5000/a:1", "debian:trixie": "debian:trixie",
		"tar:/a/root.tar.gz": "root", "tar:/a/root.tgz": "root", "docker-archive:/a/app-1.2.tar": "app-1.2", "tar:/a/plain": "plain",
	} {
		kind, rest, err := parseSource(source)
		if err != nil {
			t.Fatal(err)
		}
		if got := nameOf(kind, source, rest); got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
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
