package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/store"
)

const testRelease = "6.12.0-test-amd64"

// kernelDeb is a kernel package with all modules built in but one and what that needs.
func kernelDeb(t *testing.T, marker string) []byte {
	t.Helper()
	plain := append(fakeVmlinux(t), marker...)
	builtin := ""
	for _, name := range slices.Concat(initrdModules, initrdModulesLater) {
		if name != "overlay" {
			builtin += "kernel/" + name + ".ko\n"
		}
	}
	dir := "./usr/lib/modules/" + testRelease + "/"
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"./boot/vmlinuz-" + testRelease, bzImageOf(zstdOf(t, plain), len(plain))},
		{dir + "kernel/fs/overlay.ko.xz", xzOf(t, moduleFile(t, "", "helper_function"))},
		{dir + "kernel/lib/helper.ko.xz", xzOf(t, moduleFile(t, "helper_function", ""))},
		{dir + "modules.builtin", []byte(builtin)},
		{dir + "modules.order", []byte("kernel/fs/overlay.ko\nkernel/lib/helper.ko\n")},
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: time.Unix(1e9, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	member := through(t, data.Bytes(), func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	deb := fmt.Sprintf("!<arch>\n%-16s%-12d%-6d%-6d%-8s%-10d`\n", "data.tar.gz", 0, 0, 0, "100644", len(member))
	return append([]byte(deb), member...)
}

// catalogWith serves a signed archive with that kernel package and returns a catalog that pulls from it, and how
// often the package was asked for.
func catalogWith(t *testing.T, deb *[]byte) (*Catalog, *atomic.Int32) {
	t.Helper()
	key, err := openpgp.NewEntity("Test", "", "t@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	hash := func(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
	var pulls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		index := xzOf(t, fmt.Appendf(nil, "Package: %s\nVersion: 1\nDepends: linux-image-x (= 1)\nFilename: pool/meta.deb\nSize: 1\nSHA256: %s\n\n"+
			"Package: linux-image-x\nVersion: 1\nFilename: pool/x.deb\nSize: %d\nSHA256: %s\n", DefaultPackage, hash(nil), len(*deb), hash(*deb)))
		switch {
		case strings.HasSuffix(r.URL.Path, "/InRelease"):
			signed, err := clearsign.Encode(w, key.PrivateKey, nil)
			if err == nil {
				fmt.Fprintf(signed, "Codename: trixie\nDate: Sat, 12 Sep 2020 07:55:41 UTC\nSHA256:\n %s %d main/binary-amd64/Packages.xz\n", hash(index), len(index))
				err = signed.Close()
			}
			if err != nil {
				t.Error(err)
			}
		case strings.HasSuffix(r.URL.Path, "/Packages.xz"):
			_, _ = w.Write(index)
		case r.URL.Path == "/pool/x.deb":
			pulls.Add(1)
			_, _ = w.Write(*deb)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	root := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(root, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &Catalog{
		Root: filepath.Join(root, "kernels"), Store: s,
		Archive: debian.Archive{Mirror: server.URL, Keys: openpgp.EntityList{key}, Client: server.Client(), Backoff: time.Millisecond, Now: func() time.Time { return time.Now().Add(time.Second) }},
	}, &pulls
}

func TestEnsure(t *testing.T) {
	deb := kernelDeb(t, "one")
	c, pulls := catalogWith(t, &deb)
	var wait sync.WaitGroup
	ids := make([]string, 3)
	for i := range ids { // at once: one pulls, the others find its result
		wait.Go(func() {
			record, err := c.Ensure(t.Context(), "debian:trixie")
			if err != nil {
				t.Error(err)
			}
			ids[i] = record.ID
		})
	}
	wait.Wait()
	if pulls.Load() != 1 || ids[0] == "" || ids[0] != ids[1] || ids[1] != ids[2] {
		t.Fatalf("%d pulls, ids %q; want one of each", pulls.Load(), ids)
	}
	dir := c.Dir(ids[0])
	image, err := os.ReadFile(filepath.Join(dir, vmlinuxName))
	if err != nil || !bytes.HasSuffix(image, []byte("one")) {
		t.Errorf("kernel of %d bytes, %v", len(image), err)
	}
	initrd, err := os.ReadFile(filepath.Join(dir, initrdName))
	if err != nil {
		t.Fatal(err)
	}
	if _, texts := cpioNames(t, initrd); texts["modules/order"] != "helper.ko\noverlay.ko\n" {
		t.Errorf("load order %q, want the real depmod's dependency first", texts["modules/order"])
	}
	if label, err := disk.Label(filepath.Join(dir, modulesName)); label != disk.LabelModules || err != nil {
		t.Errorf("modules drive has label %q, %v", label, err)
	}
	info, err := c.Inspect(t.Context(), ids[0][:8])
	if err != nil {
		t.Fatal(err)
	}
	want := api.Kernel{ID: ids[0], Name: "debian:trixie", Names: []string{"debian:trixie"}, Release: testRelease, Source: "linux-image-x 1 of debian:trixie", Dir: dir}
	info.SizeBytes, info.CreatedAt = 0, time.Time{}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Error(diff)
	}
	left, _ := filepath.Glob(filepath.Join(c.Root, ".new-*"))
	if len(left) != 0 {
		t.Errorf("half-made folders left: %v", left)
	}
}

func TestPullAgain(t *testing.T) {
	deb := kernelDeb(t, "one")
	c, _ := catalogWith(t, &deb)
	first, err := c.Pull(t.Context(), api.PullKernel{Source: "debian:trixie"})
	if err != nil {
		t.Fatal(err)
	}
	same, err := c.Pull(t.Context(), api.PullKernel{Source: "debian:trixie"})
	if err != nil || same.ID != first.ID {
		t.Errorf("same kernel: id %.8s, %v; want %.8s", same.ID, err, first.ID)
	}
	deb = kernelDeb(t, "two")
	second, err := c.Pull(t.Context(), api.PullKernel{Source: "debian:trixie"})
	if err != nil || second.ID == first.ID {
		t.Errorf("new kernel: id %.8s, %v", second.ID, err)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Errorf("list %+v, %v; want both", list, err)
	}
	if err := c.Verify(t.Context(), first.ID); err != nil {
		t.Errorf("old kernel: %v", err)
	}
	if err := c.Remove(t.Context(), "debian:trixie"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.Dir(second.ID)); !os.IsNotExist(err) {
		t.Errorf("folder of the removed kernel: %v", err)
	}
	if err := c.Remove(t.Context(), "debian:trixie"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("remove twice: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	deb := kernelDeb(t, "one")
	c, _ := catalogWith(t, &deb)
	record, err := c.Ensure(t.Context(), "debian:trixie")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{manifestName}, bundleFiles...) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(c.Dir(record.ID), name)
			if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := c.Verify(t.Context(), record.ID)
			if api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("error %v, want one that says it", err)
			}
			if _, err := c.Pull(t.Context(), api.PullKernel{Source: "debian:trixie"}); err != nil {
				t.Fatal(err)
			}
			if err := c.Verify(t.Context(), record.ID); err != nil {
				t.Errorf("after the repair that the hint names: %v", err)
			}
		})
	}
}

func TestEnsureErrors(t *testing.T) {
	deb := kernelDeb(t, "one")
	c, _ := catalogWith(t, &deb)
	for ref, want := range map[string]api.Code{"nothing": api.CodeNotFound, "debian:buzz": api.CodeUnsupported} {
		if _, err := c.Ensure(t.Context(), ref); api.CodeOf(err) != want {
			t.Errorf("ensure %q: %v, want code %s", ref, err, want)
		}
	}
	if _, err := c.Pull(t.Context(), api.PullKernel{Source: "https://example.org/x"}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("pull of another source: %v", err)
	}
	deb = []byte("!<arch>\nnothing")
	if _, err := c.Ensure(t.Context(), "debian:trixie"); err == nil {
		t.Error("a package without a kernel was accepted")
	}
	if err := c.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	entries, _ := os.ReadDir(c.Root)
	for _, e := range entries {
		if e.IsDir() {
			t.Errorf("left: %s", e.Name())
		}
	}
}

func TestInitrd(t *testing.T) {
	deb := kernelDeb(t, "one")
	c, _ := catalogWith(t, &deb)
	record, err := c.Ensure(t.Context(), "debian:trixie")
	if err != nil {
		t.Fatal(err)
	}
	guest := filepath.Join(t.TempDir(), "guest")
	made := map[string]bool{}
	for _, text := range []string{"first guest", "second guest!", "first guest"} {
		if err := os.WriteFile(guest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		path, err := c.Initrd(t.Context(), record.ID, guest)
		if err != nil {
			t.Fatal(err)
		}
		made[path] = true
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(data)%initrdAlignment != 0 {
			t.Errorf("length %d: it could overwrite the ACPI tables of QEMU's microvm", len(data))
		}
		bundled, err := os.ReadFile(filepath.Join(c.Dir(record.ID), initrdName))
		if err != nil {
			t.Fatal(err)
		}
		last, found := bytes.CutPrefix(data, bundled)
		if !found || !bytes.Contains(bundled, []byte("modules/order\x00")) {
			t.Error("the bundle's part does not come first")
		}
		names, texts := cpioNames(t, last)
		if diff := cmp.Diff([]string{"0100755 init"}, names); diff != "" || texts["init"] != text {
			t.Errorf("init %q\n%s", texts["init"], diff)
		}
	}
	if len(made) != 2 {
		t.Errorf("%d initrds of two guests", len(made))
	}
	if _, err := c.Initrd(t.Context(), record.ID, guest+"x"); err == nil {
		t.Error("no error without a guest")
	}
}
