package disk

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/hostinfo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fsck runs the real e2fsck on a filesystem and fails the test when it finds damage.
func fsck(t *testing.T, path string) {
	t.Helper()
	tool, err := hostinfo.FindTool("e2fsck", "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck %s: %v\n%s", path, err, out)
	}
}

func TestCreateExt4(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.ext4")
	const size = 16 << 30
	if err := CreateExt4(t.Context(), path, size, "banger-disk"); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	usage, err := UsageOf(path)
	if err != nil {
		t.Fatal(err)
	}
	if usage.ApparentBytes != size {
		t.Errorf("apparent size %d, want %d", usage.ApparentBytes, int64(size))
	}
	if usage.AllocatedBytes > 32<<20 {
		t.Errorf("an empty disk takes %d bytes, want a sparse file", usage.AllocatedBytes)
	}
	if got, err := Label(path); got != "banger-disk" || err != nil {
		t.Errorf("label %q, %v", got, err)
	}
}

func TestCreateExt4Errors(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name  string
		ctx   context.Context
		path  string
		size  int64
		label string
		want  string
	}{
		{"ErrTooSmall", t.Context(), filepath.Join(dir, "a"), 1 << 20, "x", "multiple of 4096"},
		{"ErrNotWholeBlocks", t.Context(), filepath.Join(dir, "a"), 64<<20 + 1, "x", "multiple of 4096"},
		{"ErrLongLabel", t.Context(), filepath.Join(dir, "a"), 64 << 20, "seventeen-letters", "1 to 16 bytes"},
		{"ErrNoFolder", t.Context(), filepath.Join(dir, "none", "a"), 64 << 20, "x", "no such file"},
		{"ErrExists", t.Context(), taken, 64 << 20, "x", "file exists"},
		{"ErrCanceled", canceled, filepath.Join(dir, "a"), 64 << 20, "x", "canceled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := CreateExt4(test.ctx, test.path, test.size, test.label)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 {
		t.Errorf("files left: %v", entries)
	}
	if got, _ := os.ReadFile(taken); string(got) != "mine" {
		t.Errorf("the file in the way was changed to %q", got)
	}
}

// TestDiskFull fills a real small tmpfs in a mount namespace of its own.
func TestDiskFull(t *testing.T) {
	if os.Getenv("DISK_FULL_DIR") == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
			`mount -t tmpfs -o size=1m none "$DISK_FULL_DIR" && exec "$0" -test.run=^TestDiskFull$`, os.Args[0])
		cmd.Env = append(os.Environ(), "DISK_FULL_DIR="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("in the namespace: %v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv("DISK_FULL_DIR")
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, bytes.Repeat([]byte{1}, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Copy":        Copy(t.Context(), source, filepath.Join(dir, "copy")),
		"FromTar":     FromTar(t.Context(), bytes.NewReader(tarOf(t, 8<<20)), filepath.Join(dir, "tar"), "x"),
		"RequireFree": RequireFree(dir, 8<<20),
	} {
		if api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("%s: %v, want an error of code %s", name, err, api.CodeUnavailable)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
}

func TestSetLabel(t *testing.T) {
	dir := t.TempDir()
	withChecksums, fromTar := filepath.Join(dir, "mkfs"), filepath.Join(dir, "tar")
	if err := CreateExt4(t.Context(), withChecksums, MinExt4Bytes, "sixteen-letters-"); err != nil {
		t.Fatal(err)
	}
	if err := FromTar(t.Context(), bytes.NewReader(tarOf(t, 10)), fromTar, "before"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{withChecksums, fromTar} {
		if err := SetLabel(path, "after"); err != nil {
			t.Fatal(err)
		}
		if got, err := Label(path); got != "after" || err != nil {
			t.Errorf("%s: label %q, %v", path, got, err)
		}
	}
	fsck(t, withChecksums) // checks the superblock's checksum
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := SetLabel(text, "x"); !errors.Is(err, ErrNotExt4) {
		t.Errorf("label of zeroes: %v, want %v", err, ErrNotExt4)
	}
	if _, err := Label(os.DevNull); !errors.Is(err, ErrNotExt4) {
		t.Errorf("label of nothing: %v, want %v", err, ErrNotExt4)
	}
}

// tarOf makes an archive with folders, a file of size bytes owned by 1000:1000, a link and a
// device.
func tarOf(tb testing.TB, size int) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "./home/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./home/file", Mode: 0o4750, Uid: 1000, Gid: 1000, Size: int64(size)},
		{Typeflag: tar.TypeSymlink, Name: "./home/link", Linkname: "file", Mode: 0o777},
		{Typeflag: tar.TypeChar, Name: "./null", Mode: 0o666, Devmajor: 1, Devminor: 3},
	} {
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(bytes.Repeat([]byte("banger "), size/7+1)[:size]); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestFromTar(t *testing.T) {
	dir := t.TempDir()
	archive := append(tarOf(t, 100_000), make([]byte, 64<<10)...) // tar pads to its record size
	r := bytes.NewReader(archive)
	path := filepath.Join(dir, "a")
	if err := FromTar(t.Context(), r, path, LabelImage); err != nil {
		t.Fatal(err)
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes of the stream were left: its writer would block", r.Len())
	}
	debugfs, err := hostinfo.FindTool("debugfs", "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), debugfs, "-R", "ls -p /home", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "/104750/1000/1000/file/100000/") {
		t.Errorf("listing lacks the file with mode and owner:\n%s", out)
	}
	again := filepath.Join(dir, "b")
	if err := FromTar(t.Context(), bytes.NewReader(archive), again, LabelImage); err != nil {
		t.Fatal(err)
	}
	first, _, _ := SHA256(t.Context(), path)
	second, _, _ := SHA256(t.Context(), again)
	if first != second {
		t.Error("the same stream gave different filesystems")
	}
}

// A file of zeroes takes no space on the host, and the filesystem is the same as one that was
// written in full.
func TestFromTarSparse(t *testing.T) {
	const size = 64 << 20
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	data := make([]byte, size)
	copy(data[size/2:], "in the middle")
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeroes", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, dense, out := filepath.Join(dir, "sparse"), filepath.Join(dir, "dense"), filepath.Join(dir, "out")
	if err := FromTar(t.Context(), bytes.NewReader(archive.Bytes()), path, LabelImage); err != nil {
		t.Fatal(err)
	}
	usage, err := UsageOf(path)
	if err != nil || usage.AllocatedBytes > 1<<20 || usage.ApparentBytes < size {
		t.Errorf("usage %+v, %v", usage, err)
	}
	err = createFile(dense, 0o600, func(file *os.File) error {
		err := tar2ext4.ConvertTarToExt4(bytes.NewReader(archive.Bytes()), file, tar2ext4.MaximumDiskSize(maxTarExt4Bytes))
		return errors.Join(err, setLabel(file, LabelImage))
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _, _ := SHA256(t.Context(), path)
	want, _, _ := SHA256(t.Context(), dense)
	if got != want {
		t.Error("holes have changed the filesystem")
	}
	debugfs, err := hostinfo.FindTool("debugfs", "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := exec.CommandContext(t.Context(), debugfs, "-R", "dump /zeroes "+out, path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if read, err := os.ReadFile(out); err != nil || !bytes.Equal(read, data) {
		t.Errorf("the file has %d bytes that differ, %v", len(read), err)
	}
}

// Whatever a writer does with a file, it reads as if no hole had been made.
func FuzzHoleWriter(f *testing.F) {
	f.Add([]byte{0, 9, 1, 0, 4, 0, 200, 9, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		file, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		h, want := &holeWriter{file: file}, []byte{}
		for ; len(steps) >= 3; steps = steps[3:] { // where, how much and of what
			at, n := int(steps[0])*1000, int(steps[1])*500
			if _, err := h.Seek(int64(at), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				want = append(want, make([]byte, max(0, at+n-len(want)))...)
				copy(want[at:], bytes.Repeat([]byte{steps[2] % 2}, n))
			}
			if wrote, err := h.Write(bytes.Repeat([]byte{steps[2] % 2}, n)); wrote != n || err != nil {
				t.Fatal(wrote, err)
			}
		}
		if err := h.finish(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file.Name())
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, want %d", len(got), len(want))
		}
	})
}

func TestFromTarTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	archive := tarOf(t, 100_000)
	if err := FromTar(t.Context(), bytes.NewReader(archive[:50_000]), path, "x"); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-made file stayed: %v", err)
	}
}

func TestCopyKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	file, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 20
	for _, at := range []int64{0, 100 << 20, size - 5} {
		if _, err := file.WriteAt([]byte("bytes"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(file.Truncate(size+4096), file.Close()); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), src, dst); err != nil {
		t.Fatal(err)
	}
	want, _, _ := SHA256(t.Context(), src)
	got, n, _ := SHA256(t.Context(), dst)
	if got != want || n != size+4096 {
		t.Errorf("copy of %d bytes differs", n)
	}
	usage, err := UsageOf(dst)
	if err != nil {
		t.Fatal(err)
	}
	if usage.AllocatedBytes > 1<<20 {
		t.Errorf("the copy takes %d bytes, want its holes kept", usage.AllocatedBytes)
	}
	if err := Copy(t.Context(), src, dst); !errors.Is(err, os.ErrExist) {
		t.Errorf("copy over a file: %v, want %v", err, os.ErrExist)
	}
}

func TestCopyCanceled(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.WriteFile(src, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := copySparse(ctx, in, out); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

func TestMkfsArgs(t *testing.T) {
	want := []string{"-q", "-F", "-L", "label", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=1", "--", "/a/disk"}
	if diff := cmp.Diff(want, mkfsArgs("/a/disk", "label")); diff != "" {
		t.Error(diff)
	}
}

// A full disk is explained once, where it is known best, and its cause can still be asked for.
func TestExplainFull(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		err := ExplainFull("/x", &os.PathError{Op: "write", Path: "/x/y", Err: cause})
		if api.CodeOf(err) != api.CodeUnavailable || !errors.Is(err, cause) || !errors.Is(err, ErrFull) {
			t.Errorf("%v: error %v of code %s, want the cause in it", cause, err, api.CodeOf(err))
		}
		if again := ExplainFull("/elsewhere", fmt.Errorf("make image: %w", err)); again.Error() != "make image: "+err.Error() {
			t.Errorf("explained again: %v, want %v", again, err)
		}
	}
	if err := ExplainFull("/x", os.ErrPermission); err != os.ErrPermission { //nolint:errorlint // it is the very same
		t.Errorf("another error became %v", err)
	}
	if err := ExplainFull("/x", nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// BenchmarkFromTar says how many MB of an archive become a filesystem in a second.
func BenchmarkFromTar(b *testing.B) {
	archive := tarOf(b, 64<<20)
	b.SetBytes(int64(len(archive)))
	for i := range b.N {
		path := filepath.Join(b.TempDir(), "fs")
		if err := FromTar(b.Context(), bytes.NewReader(archive), path, "x"); err != nil {
			b.Fatal(i, err)
		}
	}
}

// BenchmarkCreateExt4 is what a new VM's disk costs.
func BenchmarkCreateExt4(b *testing.B) {
	for range b.N {
		if err := CreateExt4(b.Context(), filepath.Join(b.TempDir(), "fs"), 16<<30, "x"); err != nil {
			b.Fatal(err)
		}
	}
}
