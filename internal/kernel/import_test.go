package kernel

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"

	"banger/api"
)

// archiveOf is a newc archive with those files.
func archiveOf(t testing.TB, files ...cpioFile) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := writeCPIO(&out, files); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func aFile(name, text string) cpioFile {
	return cpioFile{name: name, mode: cpio.TypeReg | 0o644, data: []byte(text)}
}

func TestPlainInitrd(t *testing.T) {
	one, two := archiveOf(t, aFile("one", "1")), archiveOf(t, aFile("two", "22"))
	gz := through(t, two, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	for name, data := range map[string][]byte{
		"Plain": two, "TwoPlain": slices.Concat(one, two), "Gzip": gz, "GzipPadded": append(slices.Clone(gz), make([]byte, 900)...),
		"Zstd": zstdOf(t, two), "XZ": xzOf(t, two, "--check=crc32"), "MicrocodeFirst": slices.Concat(one, zstdOf(t, two)),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := plainInitrd(data)
			if err != nil {
				t.Fatal(err)
			}
			if len(got)%512 != 0 || !bytes.Contains(got, []byte("two\x00")) {
				t.Errorf("%d bytes without the file", len(got))
			}
			if n, err := archiveLength(got); err != nil || n > len(got) {
				t.Errorf("length %d of %d, %v", n, len(got), err)
			}
		})
	}
	for name, data := range map[string][]byte{
		"ErrEmpty": nil, "ErrZeroes": make([]byte, 4096), "ErrText": []byte("hello"), "ErrCut": one[:150], "ErrCutGzip": gz[:len(gz)/2],
		"ErrTwoPacked": zstdOf(t, zstdOf(t, two)), "ErrBadSize": bytes.ReplaceAll(one, []byte("00000001"), []byte("zzzzzzzz")), "ErrTextAfter": append(slices.Clone(one), "text"...),
		"ErrHugeFile": slices.Concat(one[:newcSizeOffset], []byte("ffffffff"), one[newcSizeOffset+8:]),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := plainInitrd(data); err == nil {
				t.Errorf("%d bytes and no error", len(got))
			}
		})
	}
}

func FuzzPlainInitrd(f *testing.F) {
	one := archiveOf(f, aFile("one", "1"))
	f.Add(one)
	f.Add(slices.Concat(one, zstdOf(f, one)))
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := plainInitrd(data)
		if err == nil && (len(plain) == 0 || len(plain)%512 != 0) {
			t.Errorf("%d bytes and no error", len(plain))
		}
	})
}

// unpackedKernel writes the parts of a kernel as files: vmlinux, and modules/RELEASE.
func unpackedKernel(t *testing.T, saidRelease string) string {
	t.Helper()
	dir := t.TempDir()
	p, err := unpack(t.Context(), debFile(t), filepath.Join(dir, "tree"))
	if err != nil {
		t.Fatal(err)
	}
	if saidRelease != "" {
		saidRelease = "Linux version " + saidRelease + " (builder)"
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "vmlinux"), append(fakeVmlinux(t), saidRelease...), 0o600),
		os.WriteFile(filepath.Join(dir, "bzImage"), p.kernel, 0o600),
		os.Rename(filepath.Join(dir, "tree/lib/modules"), filepath.Join(dir, "modules")),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func debFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "linux-image-x.deb")
	if err := os.WriteFile(path, kernelDeb(t, "one"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImport(t *testing.T) {
	dir := unpackedKernel(t, testRelease)
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, zstdOf(t, archiveOf(t, aFile("init", "theirs"), aFile("etc/theirs", "x"))), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		want  api.ImportKernel
		files []string
	}{
		{"Deb", api.ImportKernel{Deb: debFile(t)}, bundleFiles},
		{"ModulesOfRelease", api.ImportKernel{Vmlinux: dir + "/vmlinux", Modules: dir + "/modules/" + testRelease}, bundleFiles},
		{"ModulesAbove", api.ImportKernel{Vmlinux: dir + "/bzImage", Modules: dir + "/modules"}, bundleFiles},
		{"NoModules", api.ImportKernel{Vmlinux: dir + "/vmlinux", Initrd: initrd}, bundleFiles[:2]},
	}
	deb := kernelDeb(t, "one")
	c, _ := catalogWith(t, &deb)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Name = "own"
			got, err := c.Import(t.Context(), tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if got.Release != testRelease || got.Name != "own" {
				t.Errorf("kernel %+v", got)
			}
			b, err := Load(got.Dir)
			if err != nil {
				t.Fatal(err)
			}
			var files []string
			for _, f := range b.Files {
				files = append(files, f.Name)
			}
			if diff := cmp.Diff(tt.files, files); diff != "" {
				t.Error(diff)
			}
			if has := c.Modules(got.ID) != ""; has != (len(files) == 3) {
				t.Errorf("modules drive: %t", has)
			}
			if err := c.Verify(t.Context(), got.ID); err != nil {
				t.Error(err)
			}
			data, err := os.ReadFile(filepath.Join(got.Dir, initrdName))
			if err != nil || bytes.Contains(data, []byte("etc/theirs")) != (tt.want.Initrd != "") {
				t.Errorf("the user's initrd, %v", err)
			}
			guest := filepath.Join(t.TempDir(), "guest")
			if err := os.WriteFile(guest, []byte("ours"), 0o600); err != nil {
				t.Fatal(err)
			}
			whole, err := c.Initrd(t.Context(), got.ID, guest)
			if err != nil {
				t.Fatal(err)
			}
			if data, err = os.ReadFile(whole); err != nil || bytes.LastIndex(data, []byte("ours")) < bytes.LastIndex(data, []byte("theirs")) {
				t.Errorf("our init does not come last, %v", err)
			}
		})
	}
}

func TestImportErrors(t *testing.T) {
	dir, other := unpackedKernel(t, testRelease), unpackedKernel(t, "5.0-other")
	silent := unpackedKernel(t, "")
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	deb := kernelDeb(t, "one")
	c, _ := catalogWith(t, &deb)
	for _, tt := range []struct {
		name string
		want api.ImportKernel
		says string
	}{
		{"ErrName", api.ImportKernel{Name: "-x", Vmlinux: dir + "/vmlinux"}, "cannot be a name"},
		{"ErrNothing", api.ImportKernel{Name: "x"}, "either from a package or from a file"},
		{"ErrBoth", api.ImportKernel{Name: "x", Vmlinux: text, Deb: text}, "either from a package or from a file"},
		{"ErrDebAndModules", api.ImportKernel{Name: "x", Deb: text, Modules: dir}, "either from a package or from a file"},
		{"ErrRelative", api.ImportKernel{Name: "x", Vmlinux: "vmlinux"}, "not an absolute path"},
		{"ErrMissing", api.ImportKernel{Name: "x", Vmlinux: dir + "/nothing"}, "no such file"},
		{"ErrText", api.ImportKernel{Name: "x", Vmlinux: text}, "an x86 bzImage"},
		{"ErrFolder", api.ImportKernel{Name: "x", Vmlinux: dir}, "not a file"},
		{"ErrInitrd", api.ImportKernel{Name: "x", Vmlinux: dir + "/vmlinux", Initrd: text}, "not an initrd"},
		{"ErrNoModules", api.ImportKernel{Name: "x", Vmlinux: dir + "/vmlinux", Modules: t.TempDir()}, "no kernel modules in"},
		{"ErrOtherModules", api.ImportKernel{Name: "x", Vmlinux: other + "/vmlinux", Modules: dir + "/modules"}, "the kernel is 5.0-other, its modules are of " + testRelease},
		{"ErrNoRelease", api.ImportKernel{Name: "x", Vmlinux: silent + "/vmlinux"}, "does not say its release"},
		{"ErrNotADeb", api.ImportKernel{Name: "x", Deb: text}, "not a Debian package"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Import(t.Context(), tt.want)
			if api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want invalid with %q", err, tt.says)
			}
		})
	}
	if list, err := c.List(t.Context()); len(list) != 0 || err != nil {
		t.Errorf("recorded all the same: %+v, %v", list, err)
	}
}

func TestPullURL(t *testing.T) {
	deb := kernelDeb(t, "one")
	elf := append(fakeVmlinux(t), "Linux version 6.1.0 (x)"...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/linux-image-x.deb":
			_, _ = w.Write(deb)
		case "/vmlinux":
			_, _ = w.Write(elf)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	c, _ := catalogWith(t, &deb)
	sum := func(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
	for _, tt := range []struct {
		name string
		want api.PullKernel
		got  string // name and release
		says string
	}{
		{"Deb", api.PullKernel{Source: server.URL + "/linux-image-x.deb", SHA256: sum(deb)}, "linux-image-x " + testRelease, ""},
		{"ELF", api.PullKernel{Source: server.URL + "/vmlinux", SHA256: sum(elf), Name: "mine"}, "mine 6.1.0", ""},
		// the same content
		{"ArchiveNamed", api.PullKernel{Source: "debian:trixie", Name: "also"}, "linux-image-x " + testRelease, ""},
		{"ErrHash", api.PullKernel{Source: server.URL + "/vmlinux", SHA256: sum(deb)}, "", "not " + sum(deb)[:12]},
		{"ErrNoHash", api.PullKernel{Source: server.URL + "/vmlinux"}, "", "not the sha256"},
		{"ErrHashOfArchive", api.PullKernel{Source: "debian:trixie", SHA256: sum(deb)}, "", "a sha256 is for a URL"},
		{"Err404", api.PullKernel{Source: server.URL + "/x", SHA256: sum(deb)}, "", "404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.Pull(t.Context(), tt.want)
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v, want %q", err, tt.says)
				}
				return
			}
			if err != nil || got.Name+" "+got.Release != tt.got {
				t.Errorf("kernel %s %s, %v; want %s", got.Name, got.Release, err, tt.got)
			}
		})
	}
}
