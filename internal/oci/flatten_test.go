package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/compression"
	"banger/internal/disk"
	"banger/internal/hostinfo"
)

var rootLine = "5 755 0:0 ./"

func TestFlatten(t *testing.T) {
	const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, test := range []struct {
		name   string
		layers [][]entry
		want   []string // after the root
	}{
		{"Everything", [][]entry{{
			{name: "./"},
			{name: "./bin/", mode: 0o1777, uid: 7},
			{name: "./bin/su", mode: 0o4755, uid: 1000, content: "su"},
			{name: "./bin/empty"},
			{name: "./bin/ls", kind: tar.TypeSymlink, mode: 0o777, link: "/bin/../su"},
			{name: "./null", kind: tar.TypeChar, mode: 0o666, major: 1, minor: 3},
			{name: "./sda", kind: tar.TypeBlock, mode: 0o660, major: 8},
			{name: "./pipe", kind: tar.TypeFifo, mode: 0o600},
			{name: "./bin/sudo", kind: tar.TypeLink, link: "./bin/su"},
		}}, []string{
			"5 1777 7:7 bin/", `0 644 0:0 bin/empty ""`, "2 777 0:0 bin/ls -> /bin/../su",
			"3 666 0:0 null 1,3", "6 600 0:0 pipe", "4 660 0:0 sda 8,0",
			`0 4755 1000:1000 bin/su "su"`, "1 0 0:0 bin/sudo -> bin/su",
		}},
		{"Attributes", [][]entry{{
			{name: "ping", content: "x", xattrs: map[string]string{"security.capability": capability, "security.selinux": "u", "trusted.overlay.opaque": "y", "user.overlay.x": "y", "system.posix_acl_access": "z"}},
		}}, []string{fmt.Sprintf(`0 644 0:0 ping "x" SCHILY.xattr.security.capability=%q`, capability)}},
		{"UpperWins", [][]entry{
			{{name: "a/", mode: 0o700}, {name: "a/f", content: "old"}, {name: "a/g", content: "stays"}},
			{{name: "a/", mode: 0o711, uid: 5}, {name: "a/f", content: "new", uid: 3}},
		}, []string{"5 711 5:5 a/", `0 644 0:0 a/g "stays"`, `0 644 3:3 a/f "new"`}},
		{"Whiteout", [][]entry{
			{{name: "a/"}, {name: "a/f", content: "1"}, {name: "a/g", content: "2"}, {name: "b/"}, {name: "b/c/"}, {name: "b/c/d", content: "3"}},
			{{name: "a/.wh.f"}, {name: ".wh.b"}, {name: ".wh.never"}, {name: "none/.wh.never"}},
		}, []string{"5 755 0:0 a/", `0 644 0:0 a/g "2"`}},
		{"WhiteoutSparesItsOwnLayer", [][]entry{
			{{name: "a/"}, {name: "a/old", content: "1"}},
			{{name: "a/new", content: "2"}, {name: ".wh.a"}, {name: "f", content: "3"}, {name: ".wh.f"}},
		}, []string{"5 755 0:0 a/", `0 644 0:0 a/new "2"`, `0 644 0:0 f "3"`}},
		{"Opaque", [][]entry{
			{{name: "a/", mode: 0o700}, {name: "a/old", content: "1"}, {name: "a/sub/"}, {name: "a/sub/x", content: "2"}},
			{{name: "a/"}, {name: "a/new", content: "3"}, {name: "a/.wh..wh..opq"}, {name: "a/.wh..wh.plnk"}, {name: "a/later", content: "4"}},
		}, []string{"5 755 0:0 a/", `0 644 0:0 a/new "3"`, `0 644 0:0 a/later "4"`}},
		{"WhiteoutThenAgain", [][]entry{
			{{name: "a/"}, {name: "a/x", content: "1"}}, {{name: ".wh.a"}}, {{name: "a", content: "file"}},
		}, []string{`0 644 0:0 a "file"`}},
		{"HardLinkToLowerLayer", [][]entry{
			{{name: "lib/"}, {name: "lib/so", content: "code", mode: 0o755, uid: 2}},
			{{name: "a", kind: tar.TypeLink, link: "/lib/so"}, {name: "lib/.wh.so"}},
		}, []string{"5 755 0:0 lib/", `0 755 2:2 a "code"`}},
		{"HardLinksPartWhenOneIsReplaced", [][]entry{
			{{name: "a", content: "one"}, {name: "b", kind: tar.TypeLink, link: "a"}, {name: "c", kind: tar.TypeLink, link: "b"}},
			{{name: "a", content: "two"}},
		}, []string{`0 644 0:0 b "one"`, `0 644 0:0 a "two"`, "1 0 0:0 c -> b"}},
		{"HardLinkToSymlinkAndDevice", [][]entry{{
			{name: "l", kind: tar.TypeSymlink, link: "x"},
			{name: "m", kind: tar.TypeLink, link: "l"},
			{name: "tty", kind: tar.TypeChar, major: 5},
			{name: "tty2", kind: tar.TypeLink, link: "tty"},
		}}, []string{"2 644 0:0 l -> x", "3 644 0:0 tty 5,0", "1 0 0:0 m -> l", "1 0 0:0 tty2 -> tty"}},
		{"ReplacedKinds", [][]entry{
			{{name: "d/"}, {name: "d/x", content: "1"}, {name: "f", content: "2"}, {name: "l", kind: tar.TypeSymlink, link: "d"}},
			{{name: "d", content: "file now"}, {name: "f/"}, {name: "f/y", content: "3"}, {name: "l/"}, {name: "l/z", content: "4"}},
		}, []string{"5 755 0:0 f/", "5 755 0:0 l/", `0 644 0:0 d "file now"`, `0 644 0:0 f/y "3"`, `0 644 0:0 l/z "4"`}},
		{"ThroughSymlinkInside", [][]entry{
			{{name: "usr/"}, {name: "usr/lib/"}, {name: "lib", kind: tar.TypeSymlink, link: "usr/lib"}, {name: "abs", kind: tar.TypeSymlink, link: "/usr"}},
			{{name: "lib/so", content: "1"}, {name: "abs/lib/two", content: "2"}, {name: "hard", kind: tar.TypeLink, link: "lib/so"}},
		}, []string{"2 644 0:0 abs -> /usr", "2 644 0:0 lib -> usr/lib", "5 755 0:0 usr/", "5 755 0:0 usr/lib/", `0 644 0:0 hard "1"`, `0 644 0:0 usr/lib/two "2"`, "1 0 0:0 usr/lib/so -> hard"}},
		{"LinksOutStayInside", [][]entry{{
			{name: "out", kind: tar.TypeSymlink, link: "../../../etc"}, {name: "out/passwd", content: "mine"}, {name: "/abs/file", content: "2"},
		}}, []string{"5 755 0:0 abs/", "5 755 0:0 etc/", "2 644 0:0 out -> ../../../etc", `0 644 0:0 etc/passwd "mine"`, `0 644 0:0 abs/file "2"`}},
		{"RootChanges", [][]entry{{{name: "./", mode: 0o711}}, {{name: "/", mode: 0o755}}}, nil},
		{"Backslashes", [][]entry{{{name: `a\x2db.slice`, content: "1"}}}, []string{`0 644 0:0 a\x2db.slice "1"`}},
		{"LongNames", [][]entry{{{name: strings.Repeat("d/", 200), kind: tar.TypeDir}, {name: strings.Repeat("n", 255), content: "1"}}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range test.layers {
				layers = append(layers, tarOf(t, l...))
			}
			out, err := flatten(t.Context(), imageOf(layers...))
			if err != nil {
				t.Fatal(err)
			}
			got := listing(t, out)
			if got[0] != rootLine {
				t.Errorf("first is %q", got[0])
			}
			if diff := cmp.Diff(test.want, got[1:]); test.want != nil && diff != "" {
				t.Error(diff)
			}
			again, err := flatten(t.Context(), imageOf(layers...))
			if err != nil || !bytes.Equal(out, again) {
				t.Errorf("a second time it is another tar, %v", err)
			}
			toExt4(t, imageOf(layers...))
		})
	}
}

// toExt4 writes the image's filesystem and lets e2fsck judge it. Of the padding of the inode
// bitmap, which hcsshim leaves as it is, it always complains; nothing reads it.
func toExt4(t *testing.T, i *Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	if err := i.WriteExt4(t.Context(), path, "x"); err != nil {
		t.Fatal(err)
	}
	tool, err := hostinfo.FindTool("e2fsck", "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), tool, "-fn", path).CombinedOutput()
	if !strings.Contains(string(out), "Pass 5") || strings.Count(string(out), "? no") > strings.Count(string(out), "Padding at end of inode bitmap is not set. Fix? no") {
		t.Errorf("e2fsck:\n%s", out)
	}
	return path
}

func run(t *testing.T, tool string, args ...string) string {
	t.Helper()
	found, err := hostinfo.FindTool(tool, "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), found, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", tool, err, out)
	}
	return string(out)
}

// A whiteout is an ordinary name in the tar of a root filesystem.
func TestTarHasNoWhiteouts(t *testing.T) {
	for name, pack := range map[string]func(testing.TB, []byte) []byte{
		"Plain": func(_ testing.TB, b []byte) []byte { return b }, "Gzip": gzipOf, "Zstd": zstdOf,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "root.tar")
			if err := os.WriteFile(path, pack(t, tarOf(t, entry{name: "a"}, entry{name: ".wh.a"})), 0o600); err != nil {
				t.Fatal(err)
			}
			i, err := OpenTar(path, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			out, err := flatten(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{rootLine, `0 644 0:0 .wh.a ""`, `0 644 0:0 a ""`}, listing(t, out)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a guest sees of owners, modes, capabilities and links is what debugfs sees in the
// filesystem.
func TestExt4Content(t *testing.T) {
	path := toExt4(t, imageOf(tarOf(t,
		entry{name: "bin/"}, entry{name: "bin/ping", content: "elf", mode: 0o4755, uid: 70000, xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02abcdefghijklmnop", "user.note": "mine"}},
		entry{name: "bin/again", kind: tar.TypeLink, link: "bin/ping"}, entry{name: "tty", kind: tar.TypeChar, major: 4, minor: 300},
	)))
	for _, test := range []struct{ request, want string }{
		{"stat /bin/again", "User: 70000"},
		{"stat /bin/again", "Mode:  04755"},
		{"stat /bin/ping", "Links: 2"},
		{"ea_get -x /bin/ping security.capability", "01 00 00 02 61"},
		{"ea_get /bin/ping user.note", "mine"},
		{"cat /bin/ping", "elf"},
		{"stat /tty", "04:300"},
	} {
		if got := run(t, "debugfs", "-R", test.request, path); !strings.Contains(got, test.want) {
			t.Errorf("%s: %q is not in\n%s", test.request, test.want, got)
		}
	}
}

// gnuSparse is a tar with a sparse file in GNU's old format: 3 bytes at 1 MiB, of size bytes.
func gnuSparse(size int64) []byte {
	block := make([]byte, 512)
	copy(block, "holes")
	copy(block[100:], "0000644\x000000000\x000000000\x0000000000003\x0000000000000\x00")
	block[156] = 'S'
	copy(block[257:], "ustar  \x00")
	copy(block[386:], fmt.Sprintf("%011o\x00%011o\x00", 1<<20, 3))
	copy(block[386+24:], fmt.Sprintf("%011o\x00%011o\x00", size, 0))
	copy(block[483:], fmt.Sprintf("%011o\x00", size))
	copy(block[148:], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	data := make([]byte, 512)
	copy(data, "abc")
	return append(append(block, data...), make([]byte, 1024)...)
}

// A sparse file stays sparse: it takes neither space nor, before, room for its size.
func TestSparseEntry(t *testing.T) {
	path := toExt4(t, imageOf(gnuSparse(4<<20)))
	if usage, err := disk.UsageOf(path); err != nil || usage.AllocatedBytes > 1<<20 || usage.ApparentBytes < 4<<20 {
		t.Errorf("usage %+v, %v", usage, err)
	}
	out := filepath.Join(t.TempDir(), "holes")
	run(t, "debugfs", "-R", "dump /holes "+out, path)
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4<<20)
	copy(want[1<<20:], "abc")
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d with abc in the middle", len(got), len(want))
	}
}

func TestHostileLayers(t *testing.T) {
	many := make([]entry, 20)
	for n := range many {
		many[n] = entry{name: fmt.Sprintf("f%d", n)}
	}
	var loop []entry
	for n := range 60 {
		loop = append(loop, entry{name: fmt.Sprintf("l%d", n), kind: tar.TypeSymlink, link: fmt.Sprintf("l%d", n+1)})
	}
	for _, test := range []struct {
		name    string
		entries []entry
		limits  Limits
		want    string
	}{
		{"ErrDotDot", []entry{{name: "a/../../etc/passwd"}}, Limits{}, "leads out of the image"},
		{"ErrDotDotAlone", []entry{{name: ".."}}, Limits{}, "leads out"},
		{"ErrLinkOut", []entry{{name: "a", kind: tar.TypeLink, link: "../../etc/shadow"}}, Limits{}, "leads out"},
		{"ErrLinkToHost", []entry{{name: "a", kind: tar.TypeLink, link: "/etc/shadow"}}, Limits{}, "which is not there"},
		{"ErrLinkToFolder", []entry{{name: "d/"}, {name: "a", kind: tar.TypeLink, link: "d"}}, Limits{}, "to the folder"},
		{"ErrLinkToRoot", []entry{{name: "a", kind: tar.TypeLink, link: "/"}}, Limits{}, "which is not there"},
		{"ErrBelowFile", []entry{{name: "a"}, {name: "a/b"}}, Limits{}, "is not a folder"},
		{"ErrSymlinkLoop", []entry{{name: "a", kind: tar.TypeSymlink, link: "a"}, {name: "a/b"}}, Limits{}, "too many symlinks"},
		{"ErrSymlinkChain", append(loop, entry{name: "l0/x"}), Limits{}, "too many symlinks"},
		{"ErrRootIsFile", []entry{{name: "./", kind: tar.TypeSymlink, link: "x"}}, Limits{}, "root is not a folder"},
		{"ErrEmptySymlink", []entry{{name: "a", kind: tar.TypeSymlink}}, Limits{}, "a symlink to"},
		{"ErrLongName", []entry{{name: strings.Repeat("n", 256)}}, Limits{}, "a name of 256 bytes"},
		{"ErrLongPath", []entry{{name: strings.Repeat("n/", 2050)}}, Limits{}, "a name of 4100 bytes"},
		{"ErrLongImplicitName", []entry{{name: "a", kind: tar.TypeSymlink, link: strings.Repeat("n", 300)}, {name: "a/b"}}, Limits{}, "a name of 300 bytes"},
		{"ErrDeep", []entry{{name: "a", kind: tar.TypeSymlink, link: strings.Repeat("d/", 2000)}, {name: "a/b", kind: tar.TypeSymlink, link: strings.Repeat("e/", 2000)}, {name: "a/b/c"}}, Limits{}, "nested too deep"},
		{"ErrOwner", []entry{{name: "a", uid: -2}}, Limits{}, "an owner -2"},
		{"ErrDevice", []entry{{name: "a", kind: tar.TypeChar, major: 5000}}, Limits{}, "a device 5000"},
		{"ErrWhiteoutOfNothing", []entry{{name: ".wh."}}, Limits{}, "whiteout of nothing"},
		{"ErrWhiteoutOfParent", []entry{{name: "a/.wh..."}}, Limits{}, ""},
		{"ErrUnknownType", []entry{{name: "a", kind: 'Z'}}, Limits{}, "of type"},
		{"ErrAttributes", []entry{{name: "a", xattrs: map[string]string{"user.x": strings.Repeat("v", 4000)}}}, Limits{}, "more than ext4 can hold"},
		{"ErrManyEntries", many, Limits{Entries: 19}, "more than 19 entries"},
		{"ErrManyImplicit", []entry{{name: strings.Repeat("d/", 30) + "f"}}, Limits{Entries: 20}, "more than 20 entries"},
		{"ErrManyNames", []entry{{name: strings.Repeat("n", 200)}}, Limits{MetadataBytes: 100}, "of names"},
		{"ErrLarge", []entry{{name: "a", content: strings.Repeat("x", 100)}}, Limits{Bytes: 50}, "a file of 100 bytes"},
		{"ErrLargeTogether", []entry{{name: "a", content: strings.Repeat("x", 40)}, {name: "b", content: strings.Repeat("x", 40)}}, Limits{Bytes: 50}, "unpacks to more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := imageOf(tarOf(t, test.entries...))
			i.limits = test.limits.withDefaults()
			_, err := flatten(t.Context(), i)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

// A sparse file of 8 EiB in 2 KiB, and a gzip of much more than is allowed for its size.
func TestBombs(t *testing.T) {
	zeroes := gzipOf(t, make([]byte, 4<<20))
	for name, layer := range map[string][]byte{"Sparse": gnuSparse(1 << 32), "Gzip": bytes.Repeat(zeroes, 4)} {
		t.Run(name, func(t *testing.T) {
			i := imageOf(layer)
			i.layers[0].diffID = ""
			i.limits = Limits{Entries: 100, MetadataBytes: 100, Ratio: 1, FreeBytes: 1 << 20}.withDefaults()
			_, err := flatten(t.Context(), i)
			if !errors.Is(err, compression.ErrTooLarge) {
				t.Errorf("error %v, want %v", err, compression.ErrTooLarge)
			}
		})
	}
}

func TestDamagedLayers(t *testing.T) {
	good := tarOf(t, entry{name: "a", content: strings.Repeat("x", 2000)}, entry{name: "b", content: "y"})
	packed := gzipOf(t, good)
	for _, test := range []struct {
		name   string
		layer  layer
		want   string
		cached bool
	}{
		{"ErrDigest", layer{blob: bytes.NewReader(good), size: int64(len(good)), digest: sumOf(packed)}, "sha256", false},
		{"ErrDiffID", layer{blob: bytes.NewReader(packed), size: int64(len(packed)), digest: sumOf(packed), diffID: sumOf(packed)}, "of what is in it", false},
		{"ErrTruncatedTar", layer{blob: bytes.NewReader(good), size: 1000}, "unexpected EOF", false},
		{"ErrTruncatedGzip", layer{blob: bytes.NewReader(packed), size: int64(len(packed)) - 20}, "unexpected EOF", false},
		{"ErrText", layer{blob: strings.NewReader("no tar at all, but text"), size: 23}, "EOF", false},
		{"ErrRotInCache", layer{blob: bytes.NewReader(good), size: int64(len(good)), digest: sumOf(packed)}, "was damaged and is removed", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			forgot := ""
			if test.cached {
				test.layer.forget = func(digest string) error { forgot = digest; return nil }
			}
			_, err := flatten(t.Context(), &Image{layers: []layer{test.layer}, limits: Limits{}.withDefaults()})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if test.cached && forgot != sumOf(packed) {
				t.Errorf("removed %q from the cache", forgot)
			}
		})
	}
}

// cancelling is a blob whose second reading ends the context.
type cancelling struct {
	blob   []byte
	reads  *int
	cancel context.CancelFunc
}

func (c cancelling) ReadAt(p []byte, off int64) (int, error) {
	if off == 0 {
		*c.reads++
	}
	if *c.reads > 1 {
		c.cancel()
	}
	return bytes.NewReader(c.blob).ReadAt(p[:min(len(p), 100)], off)
}

// Whether a layer has rotted is not known when the look at it is broken off: the layer stays.
func TestCancelledWhileLookedAt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	good := tarOf(t, entry{name: "a", content: strings.Repeat("x", 2000)})
	l := layer{
		blob: cancelling{good, new(int), cancel}, size: int64(len(good)), digest: sumOf(good), diffID: sumOf(nil),
		forget: func(digest string) error { t.Errorf("%s was removed from the cache", digest); return nil },
	}
	_, err := flatten(ctx, &Image{layers: []layer{l}, limits: Limits{}.withDefaults()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

// changing is a blob that is another one when it is read again.
type changing struct {
	blobs [2][]byte
	reads *int
}

func (c changing) ReadAt(p []byte, off int64) (int, error) {
	if off == 0 {
		*c.reads++
	}
	return bytes.NewReader(c.blobs[min(*c.reads, 2)-1]).ReadAt(p, off)
}

func TestChangedWhileRead(t *testing.T) {
	first := tarOf(t, entry{name: "a", content: "one"}, entry{name: "b", content: "two"})
	second := tarOf(t, entry{name: "a", content: "three"}, entry{name: "b", content: "x"})
	reads := 0
	i := &Image{layers: []layer{{blob: changing{[2][]byte{first, second}, &reads}, size: int64(len(first))}}, limits: Limits{}.withDefaults()}
	if _, err := flatten(t.Context(), i); !errors.Is(err, errChanged) {
		t.Errorf("error %v, want %v", err, errChanged)
	}
}

// failing writes n bytes, then fails.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errors.New("no more")
	}
	return len(p), nil
}

func TestWriterFails(t *testing.T) {
	layer := tarOf(t, entry{name: "a", content: strings.Repeat("x", 5000)})
	for _, left := range []int{0, 600, 3000} {
		if err := imageOf(layer).Flatten(t.Context(), &failing{left}); err == nil || !strings.Contains(err.Error(), "no more") {
			t.Errorf("after %d bytes: %v", left, err)
		}
	}
}

func TestCanceled(t *testing.T) {
	gone := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	dir := t.TempDir()
	if err := imageOf(tarOf(t, entry{name: "a"})).WriteExt4(ctx, filepath.Join(dir, "x"), "x"); !errors.Is(err, gone) {
		t.Errorf("error %v, want %v", err, gone)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
}

func FuzzFlatten(f *testing.F) {
	f.Add(tarOf(f, entry{name: "a/"}, entry{name: "a/b", content: "x"}), tarOf(f, entry{name: "a/.wh.b"}, entry{name: "c", kind: tar.TypeLink, link: "a/b"}))
	f.Add(gzipOf(f, tarOf(f, entry{name: "l", kind: tar.TypeSymlink, link: "../x"}, entry{name: "l/y"})), gnuSparse(1<<20))
	f.Add(zstdOf(f, tarOf(f, entry{name: "a", xattrs: map[string]string{"user.x": "y"}})), tarOf(f, entry{name: "a/.wh..wh..opq"}))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		i := imageOf(lower, upper)
		i.layers[0].diffID, i.layers[1].diffID = "", ""
		i.limits = Limits{Entries: 1000, MetadataBytes: 1 << 20, Bytes: 1 << 20, Ratio: 10}.withDefaults()
		out, err := flatten(t.Context(), i)
		if err != nil {
			return
		}
		// What came out needs no judging any more: each name once, its parent before it, links to
		// what is there.
		seen := map[string]byte{}
		in := tar.NewReader(bytes.NewReader(out))
		for {
			h, err := in.Next()
			if err != nil {
				break
			}
			name := strings.TrimSuffix(h.Name, "/")
			if _, twice := seen[name]; twice {
				t.Fatalf("%q comes twice", name)
			}
			if parent := filepath.Dir(name); name != "." && seen[parent] != tar.TypeDir {
				t.Fatalf("%q comes before its folder", name)
			}
			if h.Typeflag == tar.TypeLink && (seen[h.Linkname] == 0 || seen[h.Linkname] == tar.TypeDir) {
				t.Fatalf("%q links to %q", name, h.Linkname)
			}
			seen[name] = h.Typeflag
		}
		again, err := flatten(t.Context(), i)
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("a second time: %v", err)
		}
	})
}
