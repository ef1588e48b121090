package boot

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/identity"
	"banger/internal/guestd/netcfg"
	"banger/internal/guestd/nstest"
	"banger/internal/guestd/system"
)

// inInitramfs makes a file system in memory the root of the second run, as the kernel does with an
// initramfs: /init and /modules are there, and a newRoot with those of an image's files that the
// test gives, "path>target" for a symlink.
func inInitramfs(t *testing.T, image ...string) *state {
	t.Helper()
	base := t.TempDir()
	if err := (mount{"tmpfs", base, "tmpfs", 0, "mode=0755"}).do(); err != nil {
		t.Fatal(err)
	}
	write(t, base+"/init", "of the initramfs")
	if err := (mount{"tmpfs", base + newRoot, "tmpfs", 0, "mode=0755"}).do(); err != nil {
		t.Fatal(err)
	}
	for _, file := range image {
		path, target, link := strings.Cut(file, ">")
		if !link {
			write(t, base+newRoot+path, "of the image")
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(base+newRoot+path), 0o755),
			os.Symlink(target, base+newRoot+path)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{
		"/proc", "/sys", "/dev",
		"/run",
	} { // those of this machine stay out of reach but for /proc
		source := mount{"tmpfs", base + dir, "tmpfs", 0, ""}
		if dir == "/proc" {
			source = mount{"/proc", base + dir, "", unix.MS_BIND | unix.MS_REC, ""}
		}
		if err := source.do(); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Chroot(base); err != nil {
		t.Fatal(err)
	}
	if err := os.Chdir("/"); err != nil { //nolint:usetesting // nobody comes back: the process is the test's alone
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/init"); string(b) != "of the initramfs" { // all that follows removes and mounts at /
		t.Fatalf("not in the initramfs: %q, %v", b, err)
	}
	return &state{log: slog.New(slog.DiscardHandler)}
}

// The image's root is the root afterwards, with the kernel's file systems on it, this program on
// /run, and nothing left of the initramfs. A mount point that is a symlink does not lead elsewhere.
func TestSwitchRoot(t *testing.T) {
	if !nstest.In(t, 0) {
		return
	}
	s := inInitramfs(t, "/usr/lib/systemd/systemd", "/sbin/init>../usr/lib/systemd/systemd", "/etc/os-release",
		"/run>/etc")
	write(t, initramfs+"/order", "a.ko")
	write(t, "/run/left-by-boot", "kept")
	if err := os.Chmod(newRoot+"/usr/lib/systemd/systemd", 0o755); err != nil {
		t.Fatal(err)
	}
	before, err := os.Open("/") // what the root is then can not be asked by its path any more
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := s.switchRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := (Init{"/sbin/init", system.InitSystemd}); s.init != want || s.record.Init != want.Kind {
		t.Errorf("the init is %+v, in the record %q, want %+v", s.init, s.record.Init, want)
	}
	for path, want := range map[string]string{"/etc/os-release": "of the image", "/run/left-by-boot": "kept"} {
		if got, err := os.ReadFile(path); string(got) != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	if _, err := os.Lstat("/etc/left-by-boot"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("/run was moved to where the image's symlink leads: %v", err)
	}
	program, err := os.Stat(system.Binary)
	if err != nil || program.Mode().Perm() != 0o755 || program.Size() == 0 {
		t.Errorf("the program on /run: %v, %v", program, err)
	}
	if names, err := before.Readdirnames(-1); err != nil || strings.Contains(strings.Join(names, " "), "init") ||
		strings.Contains(strings.Join(names, " "), "modules") {
		t.Errorf("of the initramfs are left %q, %v", names, err)
	}
	if dir, err := os.Getwd(); dir != "/" || err != nil {
		t.Errorf("working folder %q, %v", dir, err)
	}
}

func TestSwitchRootErrors(t *testing.T) {
	if !nstest.In(t, 0) {
		return
	}
	s := inInitramfs(t, "/etc/os-release")
	if err := unix.Unmount("/dev", 0); err != nil {
		t.Fatal(err)
	}
	checkErr(t, s.switchRoot(t.Context()), "mount /dev at /newroot/dev: invalid argument")
	write(t, "/run/banger-file", "")
	if err := errors.Join(os.RemoveAll(system.RunDir), os.Rename("/run/banger-file", system.RunDir)); err != nil {
		t.Fatal(err)
	}
	checkErr(t, s.switchRoot(t.Context()), "keep program on /run: mkdir /run/banger: not a directory")
}

// Identity and network go to the new root's /etc, wherever a symlink of the image leads it, and to
// this kernel.
func TestWriteIdentityAndNetwork(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWUTS|unix.CLONE_NEWNET) {
		return
	}
	s := inInitramfs(t, "/etc>/elsewhere", "/elsewhere/os-release")
	s.cmdline.Identity = identity.Spec{Hostname: "box"}
	if err := s.writeIdentity(t.Context()); err != nil {
		t.Fatal(err)
	}
	if name, err := os.Hostname(); name != "box" || err != nil {
		t.Errorf("host name %q, %v", name, err)
	}
	for _, name := range []string{"hostname", "hosts", "machine-id"} {
		if _, err := os.Stat(newRoot + "/elsewhere/" + name); err != nil {
			t.Error(err)
		}
	}
	if err := s.setUpNetwork(t.Context()); err != nil {
		t.Errorf("a machine without a network: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.cmdline.Network = netcfg.Config{Address: testAddress}
	checkErr(t, s.setUpNetwork(ctx), "no virtio-net card")
}

func TestMountKernelFilesystems(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWPID|unix.CLONE_NEWNET) {
		return
	}
	s := inInitramfs(t)
	usual := kernelFilesystems
	defer func() { kernelFilesystems = usual }()
	// Devices are the real machine's alone.
	kernelFilesystems = []mount{usual[0], usual[1], usual[4], usual[5], {"tmpfs", "/made/here", "tmpfs", 0, ""}}
	if err := s.mountKernelFilesystems(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, magic := range map[string]int64{
		"/proc": unix.PROC_SUPER_MAGIC, "/sys": unix.SYSFS_MAGIC, "/dev/shm": unix.TMPFS_MAGIC, "/run": unix.TMPFS_MAGIC,
		"/made/here": unix.TMPFS_MAGIC,
	} {
		var got unix.Statfs_t
		if err := unix.Statfs(path, &got); err != nil || got.Type != magic {
			t.Errorf("%s is of type %x, %v, want %x", path, got.Type, err, magic)
		}
	}
	if err := s.readCmdline(t.Context()); err != nil {
		t.Errorf("the kernel command line: %v", err)
	}
	kernelFilesystems = []mount{{"none", "/x", "nosuch", 0, ""}}
	checkErr(t, s.mountKernelFilesystems(t.Context()), "mount none at /x: no such device")
	write(t, "/file", "")
	kernelFilesystems = []mount{{"tmpfs", "/file/x", "tmpfs", 0, ""}}
	checkErr(t, s.mountKernelFilesystems(t.Context()), "make mount point: mkdir /file: not a directory")
}

// Modules that do not load are told of and passed over: what was needed for them says so by itself.
func TestLoadModules(t *testing.T) {
	if !nstest.In(t, 0) {
		return
	}
	s := inInitramfs(t)
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := s.loadModules(t.Context()); err != nil {
		t.Errorf("a kernel with all of it built in: %v", err)
	}
	write(t, initramfs+"/order", "first.ko ../../init # later\nsecond.ko")
	write(t, initramfs+"/second.ko", "no module")
	if err := errors.Join(s.loadModules(t.Context()), s.finishModules(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"module=first.ko", "module=../../init", "module=second.ko"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s: %s", want, log.String())
		}
	}
	if got := log.String(); strings.Contains(got, "open /init") ||
		!strings.Contains(got, "open /modules/init: no such file") {
		t.Errorf("a name led out of the folder: %s", got)
	}
	write(t, initramfs+"/order", strings.Repeat(" ", maxOrderBytes+1))
	checkErr(t, s.loadModules(t.Context()), "too long")
}

// Without a modules drive the boot goes on; a drive that is none ends it.
func TestMountModules(t *testing.T) {
	if !nstest.In(t, 0) {
		return
	}
	s := inInitramfs(t, "/lib>usr/lib", "/usr/lib/os-release")
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := s.mountModules(t.Context()); err != nil || !strings.Contains(log.String(), "no modules drive") {
		t.Errorf("without a drive: %v, log %s", err, log.String())
	}
	s.disks.Modules = "/init"
	checkErr(t, s.mountModules(t.Context()), "modules drive: mount /init at /newroot/usr/lib/modules")
	s.disks.Image, s.cmdline.OwnRoot = "/init", true
	checkErr(t, s.joinRoot(t.Context()), "mount /init at /newroot")
	s.cmdline.OwnRoot = false
	checkErr(t, s.joinRoot(t.Context()), "mount /init at /image")
}
