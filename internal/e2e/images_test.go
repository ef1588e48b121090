package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/image"
	"banger/internal/store"
)

// TestNothingButShell boots an image that holds busybox and no init: the agent stays PID 1 and reaps.
func TestNothingButShell(t *testing.T) {
	h := newHome(t)
	h.addImage("bare", busyboxTar(t))
	h.banger("run", "-d", "--name", "bare", "--image", "bare", "--memory", "256MiB")
	if out := h.banger("exec", "bare", "--", "sh", "-c", "cat /proc/1/comm; hostname; echo $HOME"); out != "banger-guest\nbare\n/root\n" && out != "init\nbare\n/root\n" {
		t.Errorf("the VM says %q", out)
	}
	h.banger("exec", "bare", "--", "sh", "-c", "(sleep 0.2 &) ; true") // an orphan, which PID 1 has to reap
	eventually(t, "no zombies", func() bool {
		return strings.TrimSpace(h.banger("exec", "bare", "--", "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")) == "0"
	})
	h.banger("wait", "bare", "--for", "booted")
	h.banger("exec", "bare", "--", "sh", "-c", "echo kept > /root/file")
	h.banger("stop", "bare")
	h.wantState("bare", api.StateStopped, "stopped")
	h.banger("start", "bare")
	if out := h.banger("exec", "bare", "--", "cat", "/root/file"); out != "kept\n" {
		t.Errorf("after stop and start the file holds %q", out)
	}
}

// TestOpenRC boots an image whose init is sysvinit's, with OpenRC's services.
func TestOpenRC(t *testing.T) {
	h := newHome(t)
	h.addImage("openrc", bootstrap(t, "sysvinit-core", "openrc", "iproute2"))
	h.banger("run", "-d", "--name", "rc", "--image", "openrc", "--memory", "512MiB", "--wait", "booted")
	if out := h.banger("exec", "rc", "--", "sh", "-c", "cat /proc/1/comm; hostname; rc-status -r"); !strings.HasPrefix(out, "init\nrc\n") {
		t.Errorf("the VM says %q", out)
	}
	h.banger("exec", "rc", "--", "sh", "-c", "echo kept > /var/tmp/file")
	h.banger("stop", "rc")
	h.wantState("rc", api.StateStopped, "stopped")
	h.banger("start", "rc")
	if out := h.banger("exec", "rc", "--", "cat", "/var/tmp/file"); out != "kept\n" {
		t.Errorf("after stop and start the file holds %q", out)
	}
}

// addImage puts an image made from a tar into a home whose daemon has not started yet.
func (h *home) addImage(name string, root io.Reader) {
	h.t.Helper()
	folder, err := disk.NewFolder(filepath.Join(h.dir, "images"))
	if err != nil {
		h.t.Fatal(err)
	}
	rootfs := filepath.Join(folder, "rootfs.ext4")
	if err := disk.FromTar(h.t.Context(), root, rootfs, disk.LabelImage); err != nil {
		h.t.Fatal(err)
	}
	sum, size, err := disk.SHA256(h.t.Context(), rootfs)
	if err != nil {
		h.t.Fatal(err)
	}
	m := image.Manifest{Version: 1, ID: sum, Name: name, Source: "test", Architecture: "amd64", SizeBytes: size, CreatedAt: time.Now()}
	if err := disk.WriteManifest(filepath.Join(folder, "manifest.json"), m); err != nil {
		h.t.Fatal(err)
	}
	if err := disk.Publish(folder, filepath.Join(h.dir, "images", sum)); err != nil {
		h.t.Fatal(err)
	}
	s, err := store.Open(h.t.Context(), filepath.Join(h.dir, "state.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Close()
	if err := s.PutArtifact(h.t.Context(), store.KindImage, store.Artifact{ID: sum, Name: name, Source: "test", SizeBytes: size, CreatedAt: time.Now()}); err != nil {
		h.t.Fatal(err)
	}
}

// busyboxTar is a root with the host's static busybox and its applets, and nothing else.
func busyboxTar(t *testing.T) io.Reader {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	applets, err := exec.CommandContext(t.Context(), path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	add := func(h tar.Header, data []byte) {
		t.Helper()
		h.Size, h.ModTime = int64(len(data)), time.Unix(1e9, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" && applet != "init" && applet != "linuxrc" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, nil)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buffer
}

// bootstrap makes a Debian root with those packages and without systemd.
func bootstrap(t *testing.T, packages ...string) io.Reader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	command := exec.CommandContext(t.Context(), "mmdebstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), "trixie", path, "http://deb.debian.org/debian")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}
