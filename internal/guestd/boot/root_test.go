package boot

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/nstest"
)

// The root is joined of plain folders here; all but the ext4 mounts is as in a VM. The second boot
// must find what the first one's user left, and not what a newer image brings to the VM's own
// folders.
func TestJoinRoot(t *testing.T) {
	if !nstest.In(t, 0) {
		return
	}
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	plan := rootPlan{image: base + "/image", disk: base + "/disk", root: base + "/root"}
	for path, content := range map[string]string{"etc/motd": "image", "root/.profile": "profile", "usr/bin/tool": "tool"} {
		write(t, filepath.Join(plan.image, path), content)
	}
	for _, dir := range []string{plan.disk, plan.image + "/home"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	boot := func() {
		t.Helper()
		if err := plan.join(); err != nil {
			t.Fatal(err)
		}
		for _, f := range ownFolders {
			if err := plan.bindOwn(f); err != nil {
				t.Fatalf("%s: %v", f.path, err)
			}
		}
	}
	halt := func() {
		t.Helper()
		for _, dir := range []string{"/var/lib/docker", "/root", "/home", ""} {
			if err := unix.Unmount(plan.root+dir, 0); err != nil {
				t.Fatalf("unmount %s: %v", dir, err)
			}
		}
	}
	boot()
	write(t, plan.root+"/home/user/file", "kept")
	write(t, plan.root+"/etc/motd", "changed")
	if info, err := os.Stat(plan.root + "/var/lib/docker"); err != nil || info.Mode().Perm() != 0o710 {
		t.Errorf("docker's folder: %v, %v", info, err)
	}
	halt()
	write(t, plan.image+"/home/new", "not seen")
	write(t, plan.disk+"/own/var-lib-docker.new/junk", "of a boot cut short")
	boot()
	for path, want := range map[string]string{
		"/home/user/file": "kept", "/etc/motd": "changed",
		"/root/.profile": "profile", "/usr/bin/tool": "tool",
	} {
		if b, err := os.ReadFile(plan.root + path); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", path, b, err, want)
		}
	}
	if _, err := os.Stat(plan.root + "/home/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("home was filled twice: %v", err)
	}
	if b, _ := os.ReadFile(plan.image + "/etc/motd"); string(b) != "image" {
		t.Errorf("the image was written: %q", b)
	}
	halt()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCopyTree(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	stamp := time.Unix(1_500_000_000, 5000)
	write(t, from+"/dir/file", "content")
	write(t, from+"/run", "program")
	if err := errors.Join(
		os.Symlink("/dangling", from+"/link"),
		unix.Mkfifo(from+"/fifo", 0o600),
		os.Chmod(from+"/run", os.ModeSetuid|0o711),
		os.Chmod(from+"/dir", os.ModeSticky|0o777),
		os.Chtimes(from+"/dir/file", stamp, stamp),
		os.Chtimes(from+"/dir", stamp, stamp),
	); err != nil {
		t.Fatal(err)
	}
	xattr := unix.Setxattr(from+"/run", "user.banger", []byte("value"), 0)
	if os.Getuid() == 0 {
		if err := os.Lchown(from+"/link", 1234, 2345); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyTree(from, to); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "/dir", "/dir/file", "/run", "/link", "/fifo"} {
		want, err := os.Lstat(from + name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.Lstat(to + name)
		if err != nil {
			t.Error(err)
			continue
		}
		w, g := want.Sys().(*syscall.Stat_t), got.Sys().(*syscall.Stat_t)
		if g.Mode != w.Mode || g.Uid != w.Uid || g.Gid != w.Gid || g.Mtim != w.Mtim {
			t.Errorf("%q: got %+v, want %+v", name, g, w)
		}
	}
	if b, err := os.ReadFile(to + "/dir/file"); string(b) != "content" {
		t.Errorf("content %q, %v", b, err)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(to+"/run", "user.banger", value); xattr == nil &&
		(err != nil || string(value[:n]) != "value") {
		t.Errorf("attribute %q, %v", value[:max(n, 0)], err)
	}
	if err := copyTree(from, to); !errors.Is(err, os.ErrExist) {
		t.Errorf("copy over a copy: %v, want ErrExist", err)
	}
}
