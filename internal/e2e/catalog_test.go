package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cavaliergopher/cpio"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/hostinfo"
)

// image returns an image as the API shows it.
func (h *home) image(name string) api.Image {
	h.t.Helper()
	var images []api.Image
	if err := json.Unmarshal([]byte(h.banger("image", "inspect", name)), &images); err != nil || len(images) != 1 {
		h.t.Fatalf("inspect image %s: %v, %d images", name, err, len(images))
	}
	return images[0]
}

// kernel returns a kernel as the API shows it.
func (h *home) kernel(name string) api.Kernel {
	h.t.Helper()
	var kernels []api.Kernel
	if err := json.Unmarshal([]byte(h.banger("kernel", "inspect", name)), &kernels); err != nil || len(kernels) != 1 {
		h.t.Fatalf("inspect kernel %s: %v, %d kernels", name, err, len(kernels))
	}
	return kernels[0]
}

// nothingHalfMade fails the test when images or kernels hold a folder that is none.
func (h *home) nothingHalfMade() {
	h.t.Helper()
	for _, kind := range []string{"images", "kernels"} {
		if left, _ := filepath.Glob(filepath.Join(h.dir, kind, ".new-*")); len(left) != 0 {
			h.t.Errorf("left: %v", left)
		}
	}
}

// TestSaveLoadNames: an image goes to another home under the same id and boots there as the
// default; names come and go, and what a machine uses stays.
func TestSaveLoadNames(t *testing.T) {
	from, to := newHome(t), newHome(t)
	archive := filepath.Join(from.dir, "image.tar.zst")
	from.banger("image", "save", "debian:trixie", "-o", archive)
	want := from.image("debian:trixie")

	to.banger("image", "rm", "debian:trixie")
	to.banger("image", "load", "--name", "work", archive)
	if got := to.image("work"); got.ID != want.ID || got.SizeBytes != want.SizeBytes {
		t.Errorf("loaded %s of %d bytes, want %s of %d", got.ID, got.SizeBytes, want.ID, want.SizeBytes)
	}
	to.banger("image", "default", "work")
	if out := to.banger("config", "show"); !strings.Contains(out, "config.toml") {
		t.Errorf("the settings do not say where the default is from:\n%s", out)
	}
	to.banger("run", "-d", "--name", "user")
	if vm := to.vm("user"); vm.ImageID != want.ID || vm.Image != "work" {
		t.Errorf("the machine has image %s, %s", vm.Image, vm.ImageID)
	}
	to.banger("image", "tag", "work", "also/it:1")
	to.banger("image", "rm", "work") // only the name
	to.fails(1, "image is in use by user", "image", "rm", "also/it:1")
	to.fails(1, "image is in use by user", "image", "rm", want.ID)
	if out := to.banger("image", "prune"); out != "" {
		t.Errorf("pruned %q", out)
	}
	to.banger("rm", "-f", "user")
	to.banger("image", "rm", "also/it:1")
	if out := to.banger("image", "ls"); strings.Contains(out, want.ID[:12]) {
		t.Errorf("the image is left:\n%s", out)
	}
	to.nothingHalfMade()
}

// TestRegister: a user's own filesystem and kernel boot, with a foreign label, a foreign initrd,
// and without a copy; promoted they are banger's own. A changed file is refused.
func TestRegister(t *testing.T) {
	h := newHome(t)
	rootfs, kernel := filepath.Join(h.dir, "mine.img"), h.kernel("debian:trixie")
	if err := disk.Copy(t.Context(), filepath.Join(h.image("debian:trixie").Dir, "rootfs.ext4"), rootfs); err != nil {
		t.Fatal(err)
	}
	modules, initrd := filepath.Join(h.dir, "modules"), filepath.Join(h.dir, "initrd.gz")
	writeInitrd(t, initrd)
	if err := os.Mkdir(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"e2label", rootfs, "banger-disk"}, // a label that would be mistaken
		{"tune2fs", "-U", "random", rootfs},
		{"debugfs", "-R", "rdump / " + modules, filepath.Join(kernel.Dir, "modules.ext4")},
	} {
		path, err := hostinfo.FindTool(command[0], "e2fsprogs")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), path, command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command[0], err, out)
		}
	}
	h.banger("image", "register", "mine", "--rootfs", rootfs, "--kernel", filepath.Join(kernel.Dir, "vmlinux"), "--modules", modules, "--initrd", initrd)
	image := h.image("mine")
	if image.InPlace != rootfs || image.KernelID == "" || image.KernelID == kernel.ID {
		t.Errorf("registered %+v", image)
	}
	h.fails(1, "kernel is in use by image mine", "kernel", "rm", image.KernelID)
	h.banger("create", "--name", "vm", "--image", "mine")
	if vm := h.vm("vm"); vm.KernelID != image.KernelID {
		t.Errorf("the machine boots kernel %s, want the image's, %s", vm.KernelID, image.KernelID)
	}
	h.banger("start", "vm")
	if out := h.banger("exec", "vm", "--", "sh", "-c", "uname -r; modprobe dummy && grep -c ^dummy /proc/modules"); out != kernel.Release+"\n1\n" {
		t.Errorf("the machine says %q", out)
	}
	h.banger("rm", "-f", "vm")

	h.banger("image", "promote", "mine")
	if got := h.image("mine"); got.ID != image.ID || got.InPlace != "" {
		t.Errorf("promoted %+v", got)
	}
	file, err := os.OpenFile(rootfs, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.banger("image", "register", "changing", "--rootfs", rootfs)
	_, err = file.WriteAt([]byte("changed"), 1<<20)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	h.fails(1, "has changed or is gone since it was registered", "create", "--image", "changing")
}

// writeInitrd writes a packed initrd whose /init would end the machine.
func writeInitrd(t *testing.T, path string) {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := cpio.NewWriter(z)
	for name, text := range map[string]string{"init": "not a program", "modules/order": "none.ko\n"} {
		if err := w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o755, Size: int64(len(text)), Links: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close(), os.WriteFile(path, packed.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestImportDeb: the package that a pull fetches gives the same kernel when a user has it as a
// file: its bzImage is unpacked the same way, to the byte.
func TestImportDeb(t *testing.T) {
	h := newHome(t)
	archive, err := debian.Open(debian.Archive{Suite: "trixie", Folder: h.dir})
	if err != nil {
		t.Fatal(err)
	}
	pulled := h.kernel("debian:trixie")
	name := "linux-image-" + pulled.Release
	packages, err := archive.Packages(t.Context(), func(n string) bool { return n == name })
	if err != nil {
		t.Fatal(err)
	}
	deb, err := archive.Fetch(t.Context(), packages[name], "")
	if err != nil {
		t.Fatal(err)
	}
	h.banger("kernel", "import", "own", "--deb", deb)
	if got := h.kernel("own"); got.ID != pulled.ID || len(got.Names) != 2 {
		t.Errorf("imported %s named %v, pulled %s", got.ID, got.Names, pulled.ID)
	}
	h.banger("kernel", "rm", "own")
	if got := h.kernel("debian:trixie"); len(got.Names) != 1 {
		t.Errorf("names left: %v", got.Names)
	}
}

// TestCatalogFaults: a daemon that is killed in the middle, a broken archive and a full disk leave
// nothing.
func TestCatalogFaults(t *testing.T) {
	h := newHome(t)
	root := filepath.Join(h.dir, "bare.tar")
	if err := os.WriteFile(root, busyboxTar(t), 0o600); err != nil {
		t.Fatal(err)
	}
	h.banger("image", "pull", "tar:"+root, "--name", "bare")
	archive := filepath.Join(h.dir, "bare.tar.zst")
	h.banger("image", "save", "bare", "-o", archive)
	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	h.killedLoad(whole)
	cut := filepath.Join(h.dir, "cut.tar.zst")
	if err := os.WriteFile(cut, whole[:len(whole)-len(whole)/4], 0o600); err != nil {
		t.Fatal(err)
	}
	h.fails(1, "unexpected EOF", "image", "load", "--name", "cut", cut)
	h.nothingHalfMade()
	fullDisk(t, root, archive, filepath.Join(h.image("debian:trixie").Dir, "rootfs.ext4"))
}

// killedLoad kills the daemon while it waits for the archive's second half.
func (h *home) killedLoad(archive []byte) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), commandTimeout)
	defer cancel()
	load := h.command(ctx, "image", "load", "--name", "half", "-")
	stdin, err := load.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := load.Start(); err != nil {
		h.t.Fatal(err)
	}
	if _, err := stdin.Write(archive[:len(archive)/2]); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "a half-made folder", func() bool {
		left, _ := filepath.Glob(filepath.Join(h.dir, "images", ".new-*", "rootfs.ext4"))
		return len(left) == 1
	})
	if err := syscall.Kill(h.daemon().PID, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	_ = stdin.Close() // the reader may be gone
	if err := load.Wait(); err == nil {
		h.t.Error("load succeeded without a daemon")
	}
	h.fails(1, `no image named "half"`, "image", "inspect", "half") // a new daemon, which has swept
	h.nothingHalfMade()
}

// fullDisk makes images in a home on a small filesystem. Space is looked at before most work; a
// promotion runs into it.
func fullDisk(t *testing.T, root, archive, rootfs string) {
	t.Helper()
	h := emptyHome(t)
	if err := unix.Mount("banger-test", h.dir, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the home's own end
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		if r := h.run(ctx, nil, "daemon", "stop"); r.code != 0 {
			t.Errorf("stop daemon: %s", r.stderr)
		}
		// It holds its log open, a moment longer than it has a name.
		eventually(t, "the daemon's end", func() bool { return len(h.processes()) == 0 && unix.Unmount(h.dir, 0) == nil })
	})
	h.banger("image", "register", "mine", "--rootfs", rootfs)
	h.fails(1, "disk full", "image", "promote", "mine")
	h.nothingHalfMade()
	if got := h.image("mine"); got.InPlace != rootfs {
		t.Errorf("after the failure: %+v", got)
	}
	free, err := disk.FreeBytes(h.dir)
	if err != nil || free < 8<<20 {
		t.Errorf("%d bytes are free, %v", free, err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "ballast"), make([]byte, free-1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.fails(1, "not enough space", "image", "load", archive)
	h.fails(1, "not enough space", "image", "pull", "tar:"+root, "--name", "x")
	h.fails(1, "not enough space", "image", "pull", "debian:bookworm")
	h.fails(1, "not enough space", "kernel", "import", "x", "--vmlinux", root) // space is looked at first
	h.fails(1, "no space left", "image", "save", "mine", "-o", filepath.Join(h.dir, "saved"))
	h.nothingHalfMade()
	if saved, _ := filepath.Glob(filepath.Join(h.dir, "*saved*")); len(saved) != 0 {
		t.Errorf("left: %v", saved)
	}
}
