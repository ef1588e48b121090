package tarcopy

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var stamp = time.Date(2020, 2, 3, 4, 5, 6, 789, time.UTC)

// tree lays out files below a fresh folder: a name ending in "/" is a folder, a content of "-> x" a
// symlink.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch target, isLink := strings.CutPrefix(content, "-> "); {
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// list is the reverse of tree.
func list(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		switch d.Type() {
		case fs.ModeDir:
			files[name+"/"] = ""
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			files[name] = "-> " + target
			return err
		default:
			b, err := os.ReadFile(path)
			files[name] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCopy(t *testing.T) {
	source := map[string]string{"dir/file": "content", "dir/sub/": "", "dir/link": "-> file", "dir/out": "-> /etc/passwd", "single": "one"}
	dir := map[string]string{"file": "content", "sub/": "", "link": "-> file", "out": "-> /etc/passwd"}
	under := func(prefix string, files map[string]string) map[string]string {
		m := map[string]string{prefix: ""}
		for name, content := range files {
			m[prefix+name] = content
		}
		return m
	}
	merge := func(a, b map[string]string) map[string]string {
		maps.Copy(a, b)
		return a
	}
	tests := []struct {
		name, from, to string
		there          map[string]string
		want           map[string]string
		wantErr        string
	}{
		{"FileToNew", "single", "new", nil, map[string]string{"new": "one"}, ""},
		{"FileToFile", "single", "old", map[string]string{"old": "before"}, map[string]string{"old": "one"}, ""},
		{"FileToFolder", "single", "d", map[string]string{"d/": ""}, map[string]string{"d/": "", "d/single": "one"}, ""},
		{
			"FileOverSymlink", "single", "d",
			map[string]string{"d/single": "-> ../victim", "victim": "safe"},
			map[string]string{"d/": "", "d/single": "one", "victim": "safe"},
			"",
		},
		{"FolderToNew", "dir", "new", nil, under("new/", dir), ""},
		{"FolderToFolder", "dir", "d", map[string]string{"d/": ""}, merge(map[string]string{"d/": ""}, under("d/dir/", dir)), ""},
		{"ContentToNew", "dir/.", "new", nil, under("new/", dir), ""},
		{"ContentToFolder", "dir/.", "d", map[string]string{"d/mine": "kept"}, merge(under("d/", dir), map[string]string{"d/mine": "kept"}), ""},
		{"SymlinkItself", "dir/link", "new", nil, map[string]string{"new": "-> file"}, ""},
		{"ErrFolderToFile", "dir", "f", map[string]string{"f": "file"}, nil, "is not a folder"},
		{"ErrNoParent", "single", "none/new", nil, nil, "no such file or directory"},
		{"ErrSlash", "single", "new/", nil, nil, "there is no folder"},
		{"ErrFileSlash", "single", "f/", map[string]string{"f": "file"}, nil, "not a directory"},
		{"ErrFileOverFolder", "single", "d", map[string]string{"d/single/": ""}, nil, "a folder of this name is there"},
		{"ErrFolderOverFile", "dir", "d", map[string]string{"d/dir": "file"}, nil, "a file of this name is there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from, to := tree(t, source), tree(t, tt.there)
			var stream bytes.Buffer
			if err := Pack(&stream, from+"/"+tt.from); err != nil {
				t.Fatal(err)
			}
			err := Unpack(&stream, to+"/"+tt.to)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, list(t, to)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCopyKeepsModesAndTimes(t *testing.T) {
	from, to := tree(t, map[string]string{"d/ro/file": "x", "d/run": "y"}), t.TempDir()
	modes := map[string]fs.FileMode{"d/run": 0o4755, "d/ro/file": 0o440, "d/ro": fs.ModeDir | 0o555, "d": fs.ModeDir | fs.ModeSticky | 0o770}
	modes["d/run"] = fs.ModeSetuid | 0o755
	for _, name := range []string{"d/run", "d/ro/file", "d/ro", "d"} {
		if err := os.Chmod(filepath.Join(from, name), modes[name]); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(from, name), stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.Chmod(from+"/d/ro", 0o755); os.Chmod(to+"/d/ro", 0o755) })
	var stream bytes.Buffer
	if err := Pack(&stream, from+"/d"); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(&stream, to); err != nil {
		t.Fatal(err)
	}
	for name, want := range modes {
		info, err := os.Stat(filepath.Join(to, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want || !info.ModTime().Equal(stamp) {
			t.Errorf("%s: got %v %v, want %v %v", name, info.Mode(), info.ModTime(), want, stamp)
		}
	}
}

// entries makes a tar stream by hand, of headers no honest Pack writes.
func entries(t testing.TB, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, 4
		}
		h.Mode = 0o644
		if h.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, "evil")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestUnpackErrUnsafe(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	link := func(name, target string) tar.Header {
		return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}
	}
	tests := []struct {
		name    string
		headers []tar.Header
		unsafe  bool
	}{
		{"DotDot", []tar.Header{{Name: "../evil"}}, true},
		{"DotDotInside", []tar.Header{{Name: "a/../../evil"}}, true},
		{"Absolute", []tar.Header{{Name: "/evil"}}, true},
		{"ThroughSymlink", []tar.Header{link("a", ".."), {Name: "a/evil"}}, true},
		{"ThroughAbsoluteSymlink", []tar.Header{link("a", "/tmp"), {Name: "a/evil"}}, true},
		{"FolderThroughSymlink", []tar.Header{link("a", ".."), dir("a/evil")}, true},
		{"HardLinkOut", []tar.Header{{Name: "a", Linkname: "../evil", Typeflag: tar.TypeLink}}, true},
		{"HardLinkThroughSymlink", []tar.Header{link("a", ".."), {Name: "b", Linkname: "a/victim", Typeflag: tar.TypeLink}}, true},
		{"Device", []tar.Header{{Name: "a", Typeflag: tar.TypeChar}}, false},
		{"Deep", []tar.Header{{Name: strings.Repeat("a/", maxDepth+1) + "evil"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			outer := tree(t, map[string]string{"victim": "safe", "dest/": ""})
			before := list(t, outer)
			err := Unpack(entries(t, tt.headers...), outer+"/dest")
			if err == nil || errors.Is(err, ErrUnsafe) != tt.unsafe {
				t.Errorf("got %v, want unsafe %v", err, tt.unsafe)
			}
			after := list(t, outer)
			for name := range after {
				if strings.HasPrefix(name, "dest/") && name != "dest/" {
					delete(after, name)
				}
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("outside of the destination (-before +after):\n%s", diff)
			}
		})
	}
}

func TestUnpackErrSecondRoot(t *testing.T) {
	err := Unpack(entries(t, tar.Header{Name: "a"}, tar.Header{Name: "b"}), t.TempDir()+"/new")
	if err == nil || !strings.Contains(err.Error(), "a second root") {
		t.Errorf("got %v, want an error about a second root", err)
	}
}

func TestUnpackErrTruncated(t *testing.T) {
	stream := entries(t, tar.Header{Name: "a"}).Bytes()
	for _, n := range []int{0, 100, 513} {
		if err := Unpack(bytes.NewReader(stream[:n]), t.TempDir()); err == nil {
			t.Errorf("stream cut at %d bytes: no error", n)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(entries(f, tar.Header{Name: "a/", Typeflag: tar.TypeDir}, tar.Header{Name: "a/b"}).Bytes())
	f.Add(entries(f, tar.Header{Name: "a", Linkname: "..", Typeflag: tar.TypeSymlink}, tar.Header{Name: "a/b"}).Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		outer := t.TempDir()
		if err := os.Mkdir(outer+"/dest", 0o755); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(bytes.NewReader(stream), outer+"/dest")
		entries, err := os.ReadDir(outer)
		if err != nil || len(entries) != 1 {
			t.Errorf("outside of the destination: %v, %v", entries, err)
		}
	})
}
