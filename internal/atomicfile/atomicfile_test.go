package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// killEnv tells this program to write the file of that path and to die in the middle.
const killEnv = "ATOMICFILE_TEST_KILL"

func TestMain(m *testing.M) {
	if path := os.Getenv(killEnv); path != "" {
		_ = Fill(path, 0o600, Durable, func(file *os.File) error {
			_, err := file.WriteString("new, and not")
			return errors.Join(err, syscall.Kill(os.Getpid(), syscall.SIGKILL))
		})
		os.Exit(1) // it lives: the parent sees that no signal ended it
	}
	os.Exit(m.Run())
}

// oldFile makes a folder with a file of that content and returns the file's path.
func oldFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantFile checks a file's content and that it is alone in its folder.
func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("the file holds %q, %v; want %q", got, err, want)
	}
	wantFolder(t, filepath.Dir(path), filepath.Base(path))
}

func wantFolder(t *testing.T, folder string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != strings.Join(want, " ") {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

func TestWrite(t *testing.T) {
	for _, d := range []Durability{Volatile, Durable} {
		path := oldFile(t, "an old content that is longer")
		if err := Write(path, []byte("new"), 0o600, d); err != nil {
			t.Fatal(err)
		}
		wantFile(t, path, "new")
		fresh := filepath.Join(t.TempDir(), "file")
		if err := Write(fresh, nil, 0o600, d); err != nil {
			t.Fatal(err)
		}
		wantFile(t, fresh, "")
	}
}

// The mode is the one that was asked for: neither the old file's, nor one with holes of the umask.
func TestWriteMode(t *testing.T) {
	old := unix.Umask(0o077)
	t.Cleanup(func() { unix.Umask(old) })
	for _, mode := range []fs.FileMode{0o600, 0o644, 0o666, 0o755} {
		path := oldFile(t, "old")
		err := Fill(path, mode, Volatile, func(file *os.File) error {
			if info, err := file.Stat(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("while it is written the file has mode %v, %v; want it private", info.Mode(), err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("mode %v, %v; want %v", info.Mode(), err, mode)
		}
	}
}

// Whatever goes wrong, the old file stays, whole, and nothing stands beside it.
func TestFillFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		fill func(*os.File) error
		want error
	}{
		{"ErrNoSpace", func(f *os.File) error {
			_, err := f.WriteString("new, and no")
			return errors.Join(err, unix.ENOSPC)
		}, unix.ENOSPC},
		{"ErrChmod", func(f *os.File) error { return f.Close() }, os.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := oldFile(t, "old")
			if err := Fill(path, 0o600, Durable, tt.fill); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			wantFile(t, path, "old")
		})
	}
}

// A write that the kernel cuts short is an error: what was written never takes the place of the old
// file.
func TestWriteCutShort(t *testing.T) {
	path := oldFile(t, "old")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	short := unix.Rlimit{Cur: 10, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &short); err != nil {
		t.Fatal(err)
	}
	err := Write(path, []byte("new, and longer than the limit"), 0o600, Durable)
	if restored := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); restored != nil {
		t.Fatal(restored)
	}
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("%v, want %v", err, unix.EFBIG)
	}
	wantFile(t, path, "old")
}

func TestRenameFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	err := Fill(path, 0o600, Volatile, func(*os.File) error { return os.Mkdir(path, 0o700) })
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want %v", err, fs.ErrExist)
	}
	wantFolder(t, filepath.Dir(path), "file")
}

// A program that dies while it writes leaves the old file, and beside it what Sweep removes.
func TestKilledWhileWriting(t *testing.T) {
	path := oldFile(t, "old")
	folder := filepath.Dir(path)
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), killEnv+"="+path)
	err := command.Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v, want a killed program", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the file holds %q, %v; want the old content", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(folder, tempPrefix+"*")); len(left) != 1 {
		t.Fatalf("%v is beside it, want one half-written file: nothing was tested", left)
	}
	if err := os.Mkdir(filepath.Join(folder, tempPrefix+"folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(folder); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder, tempPrefix+"folder", "file") // another package's folder stays
	if err := Sweep(filepath.Join(folder, "none")); err != nil {
		t.Errorf("no folder: %v", err)
	}
}

func TestTargets(t *testing.T) {
	for _, tt := range []struct {
		name    string
		target  func(path string) error // makes what stands at the path
		refused bool
	}{
		{"Link", func(path string) error { return os.Symlink("aim", path) }, false},
		{"DanglingLink", func(path string) error { return os.Symlink("none", path) }, false},
		{"ErrFolder", func(path string) error { return os.Mkdir(path, 0o700) }, true},
		{"ErrLinkToFolder", func(path string) error { return os.Symlink(filepath.Dir(path), path) }, true},
		{"ErrLinkToDevice", func(path string) error { return os.Symlink("/dev/null", path) }, true},
		{"ErrPipe", func(path string) error { return unix.Mkfifo(path, 0o600) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			aim := filepath.Join(t.TempDir(), "aim")
			path := filepath.Join(filepath.Dir(aim), "file")
			if err := errors.Join(os.WriteFile(aim, []byte("behind"), 0o600), tt.target(path)); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := Write(path, []byte("new"), 0o600, Volatile); (err != nil) != tt.refused {
				t.Errorf("%v, want refused %v", err, tt.refused)
			}
			if got, err := os.ReadFile(aim); err != nil || string(got) != "behind" {
				t.Errorf("what the link leads to holds %q, %v", got, err)
			}
			want := fs.FileMode(0) // a regular file
			if tt.refused {
				want = before.Mode().Type()
			}
			if info, err := os.Lstat(path); err != nil || info.Mode().Type() != want {
				t.Errorf("there is a %v, %v; want %v", info.Mode(), err, want)
			}
			wantFolder(t, filepath.Dir(path), "aim", "file")
		})
	}
	if err := Write(filepath.Join(t.TempDir(), "none", "file"), nil, 0o600, Volatile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v, want %v", err, fs.ErrNotExist)
	}
}

// Of callers at once one makes the file, and the others leave it alone.
func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	errs := make([]error, 8)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { errs[i] = Create(path, []byte{'0' + byte(i)}, 0o600, Durable) })
	}
	group.Wait()
	made := -1
	for i, err := range errs {
		switch {
		case err == nil && made >= 0:
			t.Errorf("both %d and %d made it", made, i)
		case err == nil:
			made = i
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("%d: %v, want %v", i, err, fs.ErrExist)
		}
	}
	wantFile(t, path, string(rune('0'+made)))
}
