package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"banger/internal/disk"
	"banger/internal/hostinfo"
)

// TestKilledWhileMaking: a daemon that is killed while it makes an image or a kernel leaves what
// there was, and the next one removes what is half made.
func TestKilledWhileMaking(t *testing.T) {
	h := newHome(t)
	in := func(name string) string { return filepath.Join(h.dir, name) }
	kernel := h.kernel("debian:trixie").Dir
	// Large, so that there is time to kill; and of holes, so that they cost none on the disk.
	err := errors.Join(
		disk.CreateExt4(t.Context(), in("mine.img"), 1<<30, "mine"), disk.CreateExt4(t.Context(), in("registered.img"), 512<<20, "registered"),
		os.MkdirAll(in("root/var"), 0o755), os.WriteFile(in("root/var/large"), nil, 0o600), os.Truncate(in("root/var/large"), 500<<20), os.Mkdir(in("modules"), 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	debugfs, err := hostinfo.FindTool("debugfs", "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"tar", "--sparse", "--format=posix", "-C", in("root"), "-cf", in("root.tar"), "."},
		{debugfs, "-R", "rdump / " + in("modules"), filepath.Join(kernel, "modules.ext4")},
	} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command[0], err, out)
		}
	}
	h.banger("image", "register", "registered", "--rootfs", in("registered.img"))
	for _, test := range []struct {
		name, kind string
		args       []string
	}{
		{"Register", "images", []string{"image", "register", "mine", "--rootfs", in("mine.img")}},
		{"Promote", "images", []string{"image", "promote", "registered"}},
		{"PullTar", "images", []string{"image", "pull", "tar:" + in("root.tar")}},
		{"ImportKernel", "kernels", []string{"kernel", "import", "mine", "--vmlinux", filepath.Join(kernel, "vmlinux"), "--modules", in("modules")}},
	} {
		t.Run(test.name, func(t *testing.T) { h.in(t).killedWhile(test.kind, test.args) })
	}
	h.banger("image", "promote", "registered") // no lock and no record is in the way
	h.banger("image", "pull", "tar:"+in("root.tar"))
	if image := h.image("root"); image.OwnBytes > 16<<20 || image.SizeBytes < 500<<20 {
		t.Errorf("the image of a sparse file takes %d bytes of %d", image.OwnBytes, image.SizeBytes)
	}
}

// killedWhile kills the daemon as soon as the command has begun to fill a folder of that kind.
func (h *home) killedWhile(kind string, args []string) {
	h.t.Helper()
	listed := func() string { return h.banger("image", "ls", "--json") + h.banger("kernel", "ls", "--json") }
	before, daemon := listed(), h.daemon().PID
	_, wait := h.begin(args...)
	eventually(h.t, "a half-made folder", func() bool {
		half, _ := filepath.Glob(filepath.Join(h.dir, kind, ".new-*", "*"))
		return len(half) > 0
	})
	if err := syscall.Kill(daemon, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	if r := wait(); r.code != 1 {
		h.t.Errorf("without its daemon: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if now := listed(); now != before { // by a new daemon, which has swept
		h.t.Errorf("listed is\n%s\nwas\n%s", now, before)
	}
	h.nothingHalfMade()
}
