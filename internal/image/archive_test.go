package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/kernel"
)

// withKernel gives a catalog its kernels and returns the id of one of them, made of a file that is
// an ELF header and no more.
func withKernel(t *testing.T, c *Catalog) string {
	t.Helper()
	c.Kernels = &kernel.Catalog{Root: filepath.Join(filepath.Dir(c.Root), "kernels"), Store: c.Store}
	elf := make([]byte, 64)
	copy(elf, "\x7fELF\x02\x01\x01")
	elf[16], elf[18], elf[20], elf[52] = 2, 62, 1, 64 // ET_EXEC, EM_X86_64, EV_CURRENT, header size
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, append(elf, "Linux version 6.1.0 (test)"...), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := c.Kernels.Import(t.Context(), api.ImportKernel{Name: "own", Vmlinux: path})
	if err != nil {
		t.Fatal(err)
	}
	return k.ID
}

func TestSaveAndLoad(t *testing.T) {
	from, to := testCatalog(t), testCatalog(t)
	withKernel(t, to)
	want := Manifest{Source: "test", Kernel: withKernel(t, from), Defaults: api.ImageDefaults{WorkDir: "/srv"}}
	made, err := from.Make(t.Context(), "dev", func(ctx context.Context, dir string) (Manifest, error) {
		return want, errors.Join(disk.CreateExt4(ctx, RootfsPath(dir), 64<<20, disk.LabelImage))
	})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := from.Save(t.Context(), "dev", &archive); err != nil {
		t.Fatal(err)
	}
	if archive.Len() > 1<<20 {
		t.Errorf("an empty filesystem takes %d bytes", archive.Len())
	}
	var wait sync.WaitGroup
	for _, name := range []string{"", "other", ""} { // at once; the two of one name take turns
		wait.Go(func() {
			got, err := to.Load(t.Context(), bytes.NewReader(archive.Bytes()), name)
			if err != nil || got.ID != made.ID || got.KernelID != want.Kernel || got.Defaults.WorkDir != "/srv" {
				t.Errorf("loaded %+v, %v", got, err)
			}
		})
	}
	wait.Wait()
	got, err := to.Inspect(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	if got.OwnBytes > 8<<20 {
		t.Errorf("the loaded file takes %d bytes: its holes are gone", got.OwnBytes)
	}
	if err := to.Verify(t.Context(), got.ID); err != nil {
		t.Error(err)
	}
	if err := to.Kernels.Verify(t.Context(), got.KernelID); err != nil {
		t.Error(err)
	}
}

// rewrite returns the archive with its files changed: each gets header and content, and may return
// other ones.
func rewrite(t *testing.T, archive []byte, change func(name string, data []byte) (string, []byte)) []byte {
	t.Helper()
	packed, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	r, w := tar.NewReader(packed), tar.NewWriter(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name, data := change(h.Name, data)
		if name == "" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// withHead changes what the archive says that it holds.
func withHead(t *testing.T, archive []byte, change func(*contents)) []byte {
	return rewrite(t, archive, func(name string, data []byte) (string, []byte) {
		if name != contentsName {
			return name, data
		}
		var head contents
		if err := json.Unmarshal(data, &head); err != nil {
			t.Fatal(err)
		}
		change(&head)
		data, err := json.Marshal(head)
		if err != nil {
			t.Fatal(err)
		}
		return name, data
	})
}

func TestLoadErrors(t *testing.T) {
	c, to := testCatalog(t), testCatalog(t)
	own := withKernel(t, to)
	if _, err := c.Make(t.Context(), "dev", making("x", Manifest{Kernel: withKernel(t, c)})); err != nil {
		t.Fatal(err)
	}
	var buffer bytes.Buffer
	if err := c.Save(t.Context(), "dev", &buffer); err != nil {
		t.Fatal(err)
	}
	good := buffer.Bytes()
	renamed := func(from, to string) []byte {
		return rewrite(t, good, func(name string, data []byte) (string, []byte) {
			if name == from {
				name = to
			}
			return name, data
		})
	}
	head := func(change func(*contents)) []byte { return withHead(t, good, change) }
	for _, tt := range []struct {
		name    string
		archive []byte
		says    string
	}{
		{"ErrEmpty", nil, "load image"},
		{"ErrText", []byte("hello, this is no archive"), "load image"},
		{"ErrCut", good[:len(good)-100], "unexpected EOF"},
		{"ErrCutEarly", good[:50], "unexpected EOF"},
		{"ErrTar", rewrite(t, good, func(name string, data []byte) (string, []byte) { return "etc/passwd", data }), "it begins with"},
		{"ErrOutside", renamed(rootfsName, "../rootfs.ext4"), "should be"},
		{"ErrAbsolute", renamed(rootfsName, "/etc/passwd"), "should be"},
		{"ErrNoKernelFile", renamed(kernelFolder+"vmlinux", ""), "should be"},
		{"ErrChanged", rewrite(t, good, func(name string, data []byte) (string, []byte) {
			if name == rootfsName {
				data[5000] ^= 1
			}
			return name, data
		}), "sha256"},
		{"ErrChangedKernel", rewrite(t, good, func(name string, data []byte) (string, []byte) {
			if name == kernelFolder+"vmlinux" {
				data[len(data)-1] ^= 1
			}
			return name, data
		}), "not those of its manifest"},
		{"ErrVersion", head(func(h *contents) { h.Version = 2 }), "archive of version 2"},
		{"ErrManifestVersion", head(func(h *contents) { h.Image.Version = 99 }), "manifest of version 99"},
		{"ErrID", head(func(h *contents) { h.Image.ID = "../../x" }), "bad image id"},
		{"ErrOtherID", head(func(h *contents) { h.Image.ID = own }), "not that of what"},
		{"ErrOtherRootfs", head(func(h *contents) {
			h.Image.RootfsSHA256 = own
			h.Image.ID, _ = h.Image.identity()
		}), "sha256"},
		{"ErrOtherDefaults", head(func(h *contents) { h.Image.Defaults.Cmd = []string{"rm", "-rf", "/"} }), "not that of what"},
		{"ErrSize", head(func(h *contents) { h.Image.SizeBytes++ }), "should be"},
		{"ErrHuge", head(func(h *contents) { h.Image.SizeBytes = 1 << 60 }), "bytes"},
		{"ErrBomb", head(func(h *contents) { h.DataBytes = 4096 }), "more data than was announced"},
		{"ErrMuchData", head(func(h *contents) { h.DataBytes = 400 << 30 }), "not enough space"},
		{"ErrInPlace", head(func(h *contents) { h.Image.InPlace = "/etc/shadow" }), "registered"},
		{"ErrOtherKernel", head(func(h *contents) { h.Image.Kernel = own[:63] + "x" }), "not the one that the image names"},
		{"ErrKernelFile", head(func(h *contents) {
			h.Kernel.Files[0].Name = "../vmlinux"
			h.Image.Kernel = h.Kernel.ID()
			h.Image.ID, _ = h.Image.identity()
		}), "manifest of kernel"},
		{"ErrName", head(func(h *contents) { h.Image.Name = "../x" }), "cannot be a name"},
		{"ErrTrailing", append(bytes.Clone(good), good...), "something follows"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := to.Load(t.Context(), bytes.NewReader(tt.archive), "")
			if code := api.CodeOf(err); err == nil || code == api.CodeInternal || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v (%s), want %q", err, code, tt.says)
			}
			images, imagesErr := to.List(t.Context())
			kernels, kernelsErr := to.Kernels.List(t.Context())
			if len(images) != 0 || len(kernels) != 1 || imagesErr != nil || kernelsErr != nil {
				t.Errorf("left: %+v %+v, %v %v", images, kernels, imagesErr, kernelsErr)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("user went away")
	cancel(gone)
	if _, err := to.Load(ctx, bytes.NewReader(good), ""); !errors.Is(err, gone) {
		t.Errorf("cancelled: %v", err)
	}
	nothingLeft(t, to)
}

// An archive of before version 3, when an id told nothing but the root filesystem, gives the image
// that it would be now.
func TestLoadVersion2(t *testing.T) {
	c, to := testCatalog(t), testCatalog(t)
	made, err := c.Make(t.Context(), "dev", making("x", Manifest{Defaults: api.ImageDefaults{User: "app"}}))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := c.Save(t.Context(), "dev", &archive); err != nil {
		t.Fatal(err)
	}
	old := withHead(t, archive.Bytes(), func(h *contents) { h.Image.Version, h.Image.ID, h.Image.RootfsSHA256 = 2, h.Image.RootfsSHA256, "" })
	if got, err := to.Load(t.Context(), bytes.NewReader(old), ""); got.ID != made.ID || got.Defaults.User != "app" || err != nil {
		t.Errorf("%+v, %v; want id %s", got, err, made.ID)
	}
}

func FuzzReadContents(f *testing.F) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	text := `{"version": 1, "image": {"version": 2, "id": "` + strings.Repeat("a", 64) + `", "size_bytes": 5}, "data_bytes": 3}`
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: contentsName, Size: int64(len(text))}); err != nil {
		f.Fatal(err)
	}
	_, _ = io.WriteString(w, text)
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		head, err := readContents(tar.NewReader(bytes.NewReader(data)))
		if err == nil && (head.sizeBytes() <= 0 || !idPattern.MatchString(head.Image.ID)) {
			t.Errorf("accepted %+v", head)
		}
	})
}

func TestRegisterAndPromote(t *testing.T) {
	c := testCatalog(t)
	withKernel(t, c)
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := disk.CreateExt4(t.Context(), path, 32<<20, "mine"); err != nil {
		t.Fatal(err)
	}
	image, err := c.Register(t.Context(), api.RegisterImage{Name: "mine", Rootfs: path})
	if err != nil {
		t.Fatal(err)
	}
	uuid, err := c.ForeignUUID(image.ID)
	if image.InPlace != path || len(uuid) != 32 || err != nil {
		t.Errorf("in place %q, UUID %q, %v", image.InPlace, uuid, err)
	}
	if err := c.Verify(t.Context(), image.ID); err != nil {
		t.Error(err)
	}
	poke := func(at int64) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		_, readErr := file.ReadAt(b[:], at)
		_, writeErr := file.WriteAt([]byte{^b[0]}, at)
		if err := errors.Join(readErr, writeErr, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	poke(20 << 20)
	for _, err := range []error{c.Verify(t.Context(), image.ID), func() error { _, err := c.Promote(t.Context(), "mine"); return err }()} {
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.CodeUnavailable || len(e.Remedies) != 1 || !strings.Contains(e.Remedies[0].Text, path+" has changed") {
			t.Errorf("a changed file: %#v", err)
		}
	}
	poke(20 << 20) // as it was
	promoted, err := c.Promote(t.Context(), "mine")
	if err != nil || promoted.ID != image.ID || promoted.InPlace != "" {
		t.Fatalf("promoted %+v, %v", promoted, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(t.Context(), image.ID); err != nil {
		t.Errorf("after the user's file is gone: %v", err)
	}
	if _, err := c.Promote(t.Context(), "mine"); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("promoted twice: %v", err)
	}
}

func TestRegisterErrors(t *testing.T) {
	c := testCatalog(t)
	withKernel(t, c)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"cut", "unclean", "nameless"} {
		if err := disk.CreateExt4(t.Context(), path(name), 32<<20, "mine"); err != nil {
			t.Fatal(err)
		}
	}
	patch := func(name string, at int64, data []byte) {
		file, err := os.OpenFile(path(name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.WriteAt(data, at)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	patch("unclean", 1024+0x60, []byte{0x46})
	patch("nameless", 1024+0x68, make([]byte, 16))
	if err := errors.Join(os.Truncate(path("cut"), 1<<20), os.WriteFile(path("text"), []byte("text"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		want api.RegisterImage
		says string
	}{
		{"ErrRelative", api.RegisterImage{Name: "x", Rootfs: "cut"}, "not an absolute path"},
		{"ErrMissing", api.RegisterImage{Name: "x", Rootfs: path("none")}, "no such file"},
		{"ErrFolder", api.RegisterImage{Name: "x", Rootfs: dir}, "not a file"},
		{"ErrText", api.RegisterImage{Name: "x", Rootfs: path("text")}, "not an ext4"},
		{"ErrCut", api.RegisterImage{Name: "x", Rootfs: path("cut")}, "is cut"},
		{"ErrUnclean", api.RegisterImage{Name: "x", Rootfs: path("unclean")}, "not unmounted cleanly"},
		{"ErrNoUUID", api.RegisterImage{Name: "x", Rootfs: path("nameless")}, "neither the label"},
		{"ErrName", api.RegisterImage{Name: "a b", Rootfs: path("cut")}, "cannot be a name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := c.Register(t.Context(), tt.want); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want invalid with %q", err, tt.says)
			}
		})
	}
}

func TestTagRemovePrune(t *testing.T) {
	c := testCatalog(t)
	first, err := c.Make(t.Context(), "dev", making("one", Manifest{}))
	if err != nil {
		t.Fatal(err)
	}
	if image, err := c.Tag(t.Context(), "dev", "also"); err != nil || len(image.Names) != 2 {
		t.Errorf("tagged %+v, %v", image, err)
	}
	if err := c.Remove(t.Context(), "dev"); err != nil {
		t.Fatal(err)
	}
	if image, err := c.Inspect(t.Context(), "also"); err != nil || image.ID != first.ID {
		t.Errorf("under the other name: %+v, %v", image, err)
	}
	if _, err := c.Make(t.Context(), "also", making("two", Manifest{})); err != nil { // first is left without a name
		t.Fatal(err)
	}
	for _, dryRun := range []bool{true, false} {
		pruned, err := c.Prune(t.Context(), dryRun)
		if diff := cmp.Diff(api.Pruned{Removed: []string{first.ID}, FreedBytes: pruned.FreedBytes, DryRun: dryRun}, pruned); err != nil || diff != "" || pruned.FreedBytes < 4096 {
			t.Errorf("dry run %t: %d bytes freed, %v\n%s", dryRun, pruned.FreedBytes, err, diff)
		}
	}
	if pruned, err := c.Prune(t.Context(), false); err != nil || len(pruned.Removed) != 0 {
		t.Errorf("once more: %+v, %v", pruned, err)
	}
	if err := c.Remove(t.Context(), "also"); err != nil {
		t.Fatal(err)
	}
	if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
}
