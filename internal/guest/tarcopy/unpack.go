package tarcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// maxDepth bounds the folders within folders of a stream, and with them what Unpack remembers.
const maxDepth = 1024

// ErrUnsafe says that a tar stream tries to write outside of its destination. What came before it
// is unpacked.
var ErrUnsafe = errors.New("leads out of the destination")

// Unpack writes a tar stream to dest with the semantics of cp: below dest when that is a folder,
// else as dest itself, whose parent must exist. A file replaces a file; a folder replaces nothing,
// it is joined with the folder of its name.
//
// A stream of several roots needs a folder as dest. Names with "..", absolute names, and paths
// through symlinks that leave dest are ErrUnsafe; a symlink itself may point anywhere. Devices are
// refused.
func Unpack(r io.Reader, dest string) error {
	tr := tar.NewReader(r)
	first, err := tr.Next()
	if errors.Is(err, io.EOF) {
		return errors.New("unpack: empty tar stream")
	}
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	u, err := newUnpacker(dest, first)
	if err != nil {
		return err
	}
	defer u.root.Close()
	for h := first; ; {
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpack %.200q: %w", h.Name, err)
		}
		if h, err = tr.Next(); err != nil {
			break
		}
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := u.leaveFolders(""); err != nil {
		return err
	}
	return drain(r)
}

// drain reads the padding behind a tar's end, so that the sender is not cut off while it still
// writes.
func drain(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

type unpacker struct {
	root    *os.Root // the folder below which all is written
	from    string   // the stream's root name that becomes to; empty to take names as they are
	to      string
	folders []folder // those open, outermost first
	buf     []byte
}

// folder is one whose mode and time are set when its content is complete: a read-only folder takes
// no content.
type folder struct {
	name string
	mode fs.FileMode
	time time.Time
}

// newUnpacker decides where the stream goes, by what dest is and by the stream's first entry.
func newUnpacker(dest string, first *tar.Header) (*unpacker, error) {
	u := &unpacker{buf: make([]byte, 64<<10)}
	info, err := os.Stat(dest)
	switch {
	case err == nil && info.IsDir():
		u.root, err = os.OpenRoot(dest)
		return u, err
	case err == nil && first.FileInfo().IsDir():
		return nil, fmt.Errorf("unpack: %s is not a folder, and a folder is to be copied there", dest)
	case err == nil && strings.HasSuffix(dest, "/"):
		return nil, fmt.Errorf("unpack: %s is not a folder", dest)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err != nil && strings.HasSuffix(dest, "/") && !first.FileInfo().IsDir():
		return nil, fmt.Errorf("unpack: there is no folder %s", dest)
	}
	clean := filepath.Clean(dest)
	u.from, _, _ = strings.Cut(path.Clean(first.Name), "/")
	u.to = filepath.Base(clean)
	if u.root, err = os.OpenRoot(filepath.Dir(clean)); err != nil {
		return nil, fmt.Errorf("open parent of destination: %w", err)
	}
	return u, nil
}

// name gives the place of an entry below the root.
func (u *unpacker) name(entry string) (string, error) {
	clean := path.Clean(entry)
	if !filepath.IsLocal(clean) || strings.Contains(entry, "\x00") {
		return "", ErrUnsafe
	}
	if strings.Count(clean, "/") > maxDepth {
		return "", errors.New("too many folders within folders")
	}
	if u.to == "" {
		return clean, nil
	}
	if u.from == "." {
		return path.Join(u.to, clean), nil
	}
	rest, ok := strings.CutPrefix(clean, u.from)
	if !ok || rest != "" && rest[0] != '/' {
		return "", errors.New("a second root in the stream: the destination must be a folder that exists")
	}
	return u.to + rest, nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := u.name(h.Name)
	if err != nil {
		return err
	}
	if err := u.leaveFolders(name); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.enterFolder(name, h)
	}
	if err := u.makeParents(name); err != nil {
		return err
	}
	if err := u.clear(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(name, h, content)
	case tar.TypeSymlink:
		return escape(u.root.Symlink(h.Linkname, name))
	case tar.TypeLink:
		target, err := u.name(h.Linkname)
		if err != nil {
			return err
		}
		return escape(u.root.Link(target, name))
	default:
		return fmt.Errorf("not a file, folder or link (tar type %q)", h.Typeflag)
	}
}

// clear takes away what stands at a name; a folder there stays and makes the write an error.
func (u *unpacker) clear(name string) error {
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return escape(err)
	}
	if info.IsDir() {
		return errors.New("a folder of this name is there")
	}
	return u.root.Remove(name)
}

func (u *unpacker) makeParents(name string) error {
	if dir := path.Dir(name); dir != "." {
		return escape(u.root.MkdirAll(dir, 0o755))
	}
	return nil
}

func (u *unpacker) file(name string, h *tar.Header, content io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return escape(err)
	}
	// ReaderFrom of a file would read the stream in chunks of its own; the buffer here is reused.
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{content}, u.buf)
	if err == nil {
		err = f.Chmod(h.FileInfo().Mode())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

func (u *unpacker) enterFolder(name string, h *tar.Header) error {
	if err := u.makeParents(name); err != nil {
		return err
	}
	if name != "." {
		if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return escape(err)
		}
		info, err := u.root.Stat(name) // follows: a symlink to a folder is joined with it, as cp does
		if err != nil {
			return escape(err)
		}
		if !info.IsDir() {
			return errors.New("a file of this name is there")
		}
	}
	u.folders = append(u.folders, folder{name, h.FileInfo().Mode(), h.ModTime})
	return nil
}

// leaveFolders completes the folders that name is not in. A tar of folders in the usual order
// visits each once.
func (u *unpacker) leaveFolders(name string) error {
	for len(u.folders) > 0 {
		last := u.folders[len(u.folders)-1]
		if name != "" && (last.name == "." || strings.HasPrefix(name, last.name+"/")) {
			return nil
		}
		u.folders = u.folders[:len(u.folders)-1]
		if last.name == "." {
			continue // the destination was there before, and keeps its mode
		}
		if err := u.root.Chmod(last.name, last.mode); err != nil {
			return escape(err)
		}
		if err := u.root.Chtimes(last.name, last.time, last.time); err != nil {
			return escape(err)
		}
	}
	return nil
}

// escape turns os.Root's refusal, which has no exported value, into ErrUnsafe.
func escape(err error) error {
	if err != nil && strings.Contains(err.Error(), "path escapes from parent") {
		return ErrUnsafe
	}
	return err
}
