// Package tarcopy copies files and folders as a tar stream between the host and a guest, as `cp`
// names them. Both ends use it: Pack where the files are, Unpack where they go.
//
// Kept are modes, modification times, symlinks as they are and, inside one stream, hard links that
// the sender's tar holds. Owners are not: what is unpacked belongs to whoever unpacks. Memory does
// not grow with the copy.
package tarcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Pack writes path as a tar stream. The root entry is path's base name, or "." when path ends in
// "/." and so means the content of a folder. A symlink as path is followed when it ends in a slash,
// as cp does. Sockets are left out; a file that vanishes or shrinks during the copy is an error.
func Pack(w io.Writer, path string) error {
	name := filepath.Base(path)
	if content := strings.HasSuffix(path, "/.") || path == "."; content {
		name = "."
	}
	if strings.HasSuffix(path, "/") {
		path += "." // follows a symlink, and refuses a file
	}
	if name == "/" {
		name = "."
	}
	// filepath.Clean would drop the "/." that makes the kernel follow.
	tw := tar.NewWriter(w)
	root, err := os.Lstat(path)
	if err != nil {
		return err
	}
	p := packer{tw: tw, buf: make([]byte, 64<<10)}
	if err := p.add(path, name, root); err != nil {
		return err
	}
	return tw.Close()
}

type packer struct {
	tw  *tar.Writer
	buf []byte
}

func (p *packer) add(path, name string, info fs.FileInfo) error {
	if info.Mode().Type() == fs.ModeSocket {
		return nil
	}
	if err := p.writeHeader(path, name, info); err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		return p.addContent(path, info.Size())
	case info.IsDir():
		return p.addEntries(path, name)
	}
	return nil
}

func (p *packer) writeHeader(path, name string, info fs.FileInfo) error {
	var target string
	if info.Mode().Type() == fs.ModeSymlink {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("describe %s: %w", path, err)
	}
	h.Name = name
	if info.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.Format = tar.FormatPAX // times with nanoseconds, names and sizes of any length
	return p.tw.WriteHeader(h)
}

func (p *packer) addContent(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// A file that grows is cut at the size its header says.
	n, err := io.CopyBuffer(p.tw, struct{ io.Reader }{io.LimitReader(f, size)}, p.buf)
	if err == nil && n < size {
		err = fmt.Errorf("read %s: file shrank during the copy", path)
	}
	return err
}

func (p *packer) addEntries(path, name string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return err
			}
			if err := p.add(path+"/"+e.Name(), name+"/"+e.Name(), info); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
