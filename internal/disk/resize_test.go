package disk

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/hostinfo"
)

// debugfs runs one command of debugfs on a filesystem.
func debugfs(t *testing.T, path string, args ...string) string {
	t.Helper()
	tool, err := hostinfo.FindTool("debugfs", "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool, append(args, path)...).Output()
	if err != nil {
		t.Fatalf("debugfs %q: %v", args, err)
	}
	return string(out)
}

// An image's filesystem becomes writable and large, is written to, and becomes a small image again.
func TestMakeWritableAndBack(t *testing.T) {
	const size = 256 << 20
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "old", Mode: 0o640, Uid: 7, Size: 3}), errOf(w.Write([]byte("old"))), w.Close()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "rootfs.ext4")
	if err := FromTar(t.Context(), &buffer, path, LabelImage); err != nil {
		t.Fatal(err)
	}
	small, err := UsageOf(path)
	if err != nil {
		t.Fatal(err)
	}

	if err := MakeWritable(t.Context(), path, size); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	features := debugfs(t, path, "-R", "features")
	if !strings.Contains(features, "has_journal") || strings.Contains(features, "read-only") {
		t.Errorf("a writable filesystem has the features %s", features)
	}
	// A file that stays, and one that is removed again: its blocks are holes in the end.
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte("x"), 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"write " + large + " new", "write " + large + " gone", "rm gone"} {
		debugfs(t, path, "-w", "-R", command)
	}

	if err := MakeReadOnly(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	features = debugfs(t, path, "-R", "features")
	if strings.Contains(features, "has_journal") || !strings.Contains(features, "read-only") {
		t.Errorf("an image has the features %s", features)
	}
	if got := debugfs(t, path, "-R", "cat old"); got != "old" {
		t.Errorf("the old file holds %q", got)
	}
	if got := debugfs(t, path, "-R", "stat old"); !strings.Contains(got, "0640") || !strings.Contains(got, "User:     7") {
		t.Errorf("the old file: %s", got)
	}
	usage, err := UsageOf(path)
	if err != nil {
		t.Fatal(err)
	}
	if most := small.AllocatedBytes + 66<<20; usage.AllocatedBytes > most || usage.ApparentBytes > 2*most {
		t.Errorf("the image takes %d of %d bytes, want %d at most", usage.AllocatedBytes, usage.ApparentBytes, most)
	}
	if label, err := Label(path); label != LabelImage || err != nil {
		t.Errorf("label %q, %v", label, err)
	}
}

// What a guest could not write is missing; a repair would only hide that.
func TestMakeReadOnlyErr(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := CreateExt4(t.Context(), path, MinExt4Bytes, "x"); err != nil {
		t.Fatal(err)
	}
	debugfs(t, path, "-w", "-R", "set_super_value state 3") // clean, and with errors
	if err := MakeReadOnly(t.Context(), path); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v, want %v", err, ErrDamaged)
	}
	if err := MakeReadOnly(t.Context(), path+"none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want %v", err, os.ErrNotExist)
	}
}

func errOf(_ int, err error) error { return err }

func TestMakeWritableErr(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, bytes.Repeat([]byte("no filesystem "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeWritable(t.Context(), path, 1<<20); err == nil || !strings.Contains(err.Error(), "run e2fsck") {
		t.Errorf("no filesystem: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the user left")
	cancel(left)
	if err := MakeWritable(ctx, path, 1<<20); !errors.Is(err, left) {
		t.Errorf("cancelled: %v", err)
	}
}
