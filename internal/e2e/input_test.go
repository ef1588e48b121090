package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/store"
)

// TestBadInput wants a clear error and the right exit code for what cannot work; none of it starts
// a VM.
func TestBadInput(t *testing.T) {
	h := newHome(t)
	h.banger("create", "--name", "taken")
	for _, row := range []struct {
		name  string
		code  int
		words string
		args  []string
	}{
		{"unknown image", 1, `no image named "nowhere"`, []string{"create", "--image", "nowhere"}},
		{"unknown suite", 1, "", []string{"create", "--image", "debian:potato"}},
		{"unknown kernel", 1, `no kernel named "nowhere"`, []string{"create", "--kernel", "nowhere"}},
		{"name taken", 1, `"taken" exists already`, []string{"create", "--name", "taken"}},
		{"bad name", 1, `bad machine name "Not_A_Label"`, []string{"create", "--name", "Not_A_Label"}},
		{"bad size", 2, "--memory", []string{"create", "--memory", "lots"}},
		{"odd size", 2, "whole number of MiB", []string{"create", "--memory", "1000000"}},
		{"no CPUs", 2, "--cpus", []string{"create", "--cpus", "0"}},
		{"too many CPUs", 1, "1 to 32", []string{"create", "--cpus", "33"}},
		{"too much memory", 1, "this host has", []string{"create", "--memory", "100000GiB"}},
		{"too little memory", 1, "at least", []string{"create", "--memory", "1MiB"}},
		{"bad environment", 1, "NAME=VALUE", []string{"create", "--env", "=x"}},
		{"unknown flag", 2, "unknown flag: --frob", []string{"run", "--frob"}},
		{"unknown command", 2, `unknown command "frob"`, []string{"frob"}},
		{"unknown subcommand", 2, `unknown command "frob"`, []string{"image", "frob"}},
		{"command without dashes", 2, "behind --", []string{"run", "ls"}},
		{"bad wait", 2, "--wait", []string{"run", "--wait", "later"}},
		{"missing name", 2, "usage:", []string{"start"}},
		{"no such machine", 1, "banger ls", []string{"start", "nobody"}},
		{"bad condition", 1, "cannot wait for", []string{"wait", "taken", "--for", "lunch"}},
		{"copy within the host", 2, "one end", []string{"cp", "a", "b"}},
		{"bad signal", 1, `unknown signal "HELLO"`, []string{"kill", "--signal", "HELLO", "taken"}},
		{"image in use", 1, "in use by taken", []string{"image", "rm", "debian:trixie"}},
		{"kernel in use", 1, "in use by taken", []string{"kernel", "rm", "debian:trixie"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t).fails(row.code, row.words, row.args...)
		})
	}
	if vms := h.banger("ls", "--json"); strings.Count(vms, `"id"`) != 1 {
		t.Errorf("machines are left: %s", vms)
	}
}

// TestDamagedFiles writes into an image, a kernel and removes a disk: the start refuses each.
func TestDamagedFiles(t *testing.T) {
	h := emptyHome(t)
	if err := os.CopyFS(h.dir, os.DirFS(golden)); err != nil { // hard links would damage the other tests' files
		t.Fatal(err)
	}
	h.banger("create", "--name", "fine")
	vm := h.vm("fine")
	for _, file := range []string{
		filepath.Join(h.dir, "images", vm.ImageID, "rootfs.ext4"),
		filepath.Join(h.dir, "kernels", vm.KernelID, "vmlinux"),
		filepath.Join(h.dir, "kernels", vm.KernelID, "modules.ext4"),
	} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			back := flip(t, file)
			defer back()
			h.in(t).fails(1, "damaged", "start", "fine")
		})
	}
	if err := os.Remove(filepath.Join(vm.Dir, "disk.ext4")); err != nil {
		t.Fatal(err)
	}
	h.fails(1, "the disk of machine fine is gone", "start", "fine")
}

// flip changes one byte in the middle of a file and returns what changes it back.
func flip(t *testing.T, path string) (back func()) {
	t.Helper()
	change := func() {
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := file.ReadAt(b[:], info.Size()/2); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 0xff
		if _, err := file.WriteAt(b[:], info.Size()/2); err != nil {
			t.Fatal(err)
		}
	}
	change()
	return change
}

// TestNewerDatabase: a database of a newer banger is refused and not touched.
func TestNewerDatabase(t *testing.T) {
	h := emptyHome(t)
	path := filepath.Join(h.dir, "state.db")
	makeNewer(t, path)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h.fails(1, "of a newer banger", "ls")
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the database was changed (%v)", err)
	}
}

func makeNewer(t *testing.T, path string) {
	t.Helper()
	s, err := store.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// The user version is a big-endian number at offset 60 of the header:
	// https://www.sqlite.org/fileformat.html#the_database_header
	if _, err := file.WriteAt([]byte{0, 0, 3, 0xe7}, 60); err != nil {
		t.Fatal(err)
	}
}

// TestLongSocketPath: a home folder in which sockets cannot be made is refused with a hint.
func TestLongSocketPath(t *testing.T) {
	h := emptyHome(t)
	long := filepath.Join(h.dir, strings.Repeat("x", 90))
	h.env = []string{"BANGER_HOME=" + long}
	h.fails(1, "set BANGER_HOME to a shorter path", "ls")
	h.env = nil
}

// TestTwoDaemons: a second one on the same home folder is refused and says who is first.
func TestTwoDaemons(t *testing.T) {
	h := newHome(t)
	h.banger("ls")
	h.fails(1, "another daemon (pid ", "daemon", "run")
}

// TestUnfitQEMU: without a QEMU that works the error says which to install, and so does the doctor.
func TestUnfitQEMU(t *testing.T) {
	old := filepath.Join(t.TempDir(), "old-qemu")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho QEMU emulator version 7.2.22\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, qemu, words string }{
		{"Missing", "/nonexistent/qemu", "find QEMU"},
		{"TooOld", old, "QEMU 7.2.22 is too old"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHome(t, "FIRECRACKER_QEMU_BINARY="+row.qemu)
			h.fails(1, row.words, "run", "--rm", "--", "true")
			h.fails(1, "bookworm-backports", "run", "--rm", "--", "true")
			if r := h.try("doctor"); r.code != 1 || !strings.Contains(r.stdout, row.words) || !strings.Contains(r.stdout, "repair: ") {
				t.Errorf("doctor: %+v", r)
			}
		})
	}
}

// TestDiskFull: there is no room for a VM's disk; the error says so and nothing is left of the VM.
// Where the room ends later the guest sees errors of its disk, and goes on answering.
func TestDiskFull(t *testing.T) {
	h := newHome(t)
	defer h.limitVMs("1m")()
	h.fails(1, "not enough space", "create", "--name", "big")
	if out := h.banger("ls", "--json"); strings.TrimSpace(out) != "[]" || len(h.vmFolders()) != 0 {
		t.Errorf("left: %s, %v", out, h.vmFolders())
	}
	if err := unix.Mount("tmpfs", filepath.Join(h.dir, "vms"), "tmpfs", unix.MS_REMOUNT, "size=80m"); err != nil {
		t.Fatal(err)
	}
	h.banger("run", "-d", "--name", "full", "--memory", "256MiB", "--net", "none")
	h.fails(1, "dd: ", "exec", "full", "--", "dd", "if=/dev/zero", "of=/root/file", "bs=1M", "count=100", "conv=fsync")
	h.banger("exec", "full", "--", "true")
	h.banger("rm", "-f", "full")
}

// limitVMs gives the VMs' folders a filesystem of that size; the function that it returns takes it
// away.
func (h *home) limitVMs(size string) (end func()) {
	h.t.Helper()
	if os.Geteuid() != 0 {
		h.t.Skip("only root mounts a small filesystem; CI runs this as root")
	}
	vms := filepath.Join(h.dir, "vms")
	if err := os.MkdirAll(vms, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", vms, "tmpfs", 0, "size="+size); err != nil {
		h.t.Fatal(err)
	}
	return func() { // a VMM that was killed holds its files for moments more
		eventually(h.t, "an unmount", func() bool { return unix.Unmount(vms, 0) == nil })
	}
}
