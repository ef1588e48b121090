package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/progress"
)

// scan applies all layers to a tree, reading each to its end and checking its digests.
func (i *Image) scan(ctx context.Context) (_ *tree, err error) {
	if t := i.scanned; t != nil {
		i.scanned = nil // whoever writes a tree changes it
		return t, nil
	}
	if err := i.Fetch(ctx); err != nil {
		return nil, err
	}
	stage := progress.Start(ctx, "read layers")
	defer func() { stage.End(err) }()
	stage.SetTotal(i.CompressedBytes())
	t := newTree(i.limits, i.CompressedBytes())
	for n, l := range i.layers { // l is as it was announced
		if err := i.scanLayer(ctx, t, n, l); err != nil {
			return nil, l.explain(ctx, n, err)
		}
		stage.Add(l.size)
	}
	// Docker makes the folder that commands start in when it starts a container; nobody does it
	// here.
	if _, err := t.folder(i.Config.WorkingDir, len(i.layers), true); err != nil {
		return nil, refuse("working directory %.200q: %w", i.Config.WorkingDir, err)
	}
	return t, nil
}

// explain tells which layer is bad. One that has rotted in the cache is removed from there first.
func (l layer) explain(ctx context.Context, n int, err error) error {
	removed, removeErr := l.removeRotten(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case l.digest == "" && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader)):
		return api.Errorf(api.CodeInvalid, "bad image: layer %d: %w", n+1, err).
			WithHint("it must be a whole tar, plain or packed by gzip, zstd, xz or bzip2")
	case l.digest == "":
		return refuse("layer %d: %w", n+1, err)
	case removed:
		err = errors.Join(err, removeErr)
		return api.Errorf(api.CodeUnavailable, "cached layer sha256:%.12s was damaged and is removed: %w", l.digest, err).
			WithHint("try again: it is fetched anew")
	}
	return refuse("layer %d (sha256:%.12s): %w", n+1, l.digest, err)
}

// removeRotten removes a layer from the cache when it is not what it was when it was fetched, and
// reports whether it has tried.
func (l layer) removeRotten(ctx context.Context) (tried bool, err error) {
	if l.digest == "" || l.forget == nil || l.intact(ctx) {
		return false, nil
	}
	if ctx.Err() != nil { // a look that was broken off proves nothing
		return false, nil
	}
	return true, l.forget(l.digest)
}

// intact reports whether the blob is what it was when it was fetched.
func (l layer) intact(ctx context.Context) bool {
	sum := sha256.New()
	_, err := io.Copy(sum, disk.WithContext(ctx, io.NewSectionReader(l.blob, 0, l.size)))
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == l.digest
}

func (i *Image) scanLayer(ctx context.Context, t *tree, n int, l layer) error {
	in, err := l.openHashed(i.limits.unpacked(i.CompressedBytes()) + maxTarOverhead(i.limits))
	if err != nil {
		return err
	}
	defer func() { _ = in.close() }()
	in.Reader = disk.WithContext(ctx, in.Reader)
	err = eachEntry(in, func(entry int, h *tar.Header, _ io.Reader) error {
		if err := t.add(h, place{layer: n, entry: entry, whiteouts: i.whiteouts}); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	i.layers[n].digest, err = in.verify()
	t.tarBytes += in.tarBytes()
	return err
}

// maxTarOverhead is what headers and padding may add to the contents: three records of 512 bytes
// for an entry.
func maxTarOverhead(l Limits) int64 { return int64(l.Entries)*3*512 + l.MetadataBytes }

// eachEntry calls do for each entry of a tar, numbered from 0.
func eachEntry(r io.Reader, do func(entry int, h *tar.Header, contents io.Reader) error) error {
	in := tar.NewReader(r)
	for entry := 0; ; entry++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are judged by the tree
			return err
		}
		if err := do(entry, h, in); err != nil {
			return err
		}
	}
}

// Flatten writes the image as one tar: folders first, parents before children, then files in the
// order of their layers, then hard links. The same image gives the same bytes. It returns the
// image's errors and w's.
func (i *Image) Flatten(ctx context.Context, w io.Writer) error {
	t, err := i.scan(ctx)
	if err != nil {
		return err
	}
	return i.write(ctx, t, w)
}

func (i *Image) write(ctx context.Context, t *tree, w io.Writer) (err error) {
	stage := progress.Start(ctx, "write root filesystem")
	defer func() { stage.End(err) }()
	out := writer{tar: tar.NewWriter(w), contents: make([]map[int]*inode, len(i.layers)), stage: stage}
	if err := out.folder("", t.root); err != nil {
		return err
	}
	stage.SetTotal(out.bytes)
	for n, l := range i.layers {
		if err := out.layer(ctx, l, out.contents[n]); err != nil {
			return fmt.Errorf("read layer %d again: %w", n+1, err)
		}
	}
	for _, link := range out.links {
		head := &tar.Header{Typeflag: tar.TypeLink, Name: link.name, Linkname: link.to.name, Format: tar.FormatPAX}
		if err := out.tar.WriteHeader(head); err != nil {
			return fmt.Errorf("write %.200q: %w", link.name, err)
		}
	}
	return out.tar.Close()
}

// writer writes a tree as a tar.
type writer struct {
	tar      *tar.Writer
	contents []map[int]*inode // for each layer: the files to be taken from it, by entry
	links    []link
	bytes    int64 // of all contents
	stage    *progress.Stage
}

type link struct {
	name string
	to   *inode
}

// folder writes all below n that has no contents, and notes what has.
func (w *writer) folder(name string, n *node) error {
	n.inode.name = name + "/" // the root is "/"
	if err := w.header(n.inode); err != nil {
		return err
	}
	for _, base := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[base]
		childName := base
		if name != "" {
			childName = name + "/" + base
		}
		if len(childName) > maxPathBytes {
			return refuse("a name of %d bytes", len(childName))
		}
		if err := w.child(childName, child); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) child(name string, n *node) error {
	switch {
	case n.children != nil:
		return w.folder(name, n)
	case n.inode.name != "":
		w.links = append(w.links, link{name, n.inode})
		return nil
	}
	n.inode.name = name
	if n.inode.size == 0 {
		return w.header(n.inode)
	}
	if w.contents[n.inode.layer] == nil {
		w.contents[n.inode.layer] = map[int]*inode{}
	}
	w.contents[n.inode.layer][n.inode.entry] = n.inode
	w.bytes += n.inode.size
	return nil
}

func (w *writer) header(n *inode) error {
	name := n.name
	if name == "/" {
		name = "./"
	}
	h := &tar.Header{
		Typeflag: n.kind, Name: name, Linkname: n.link, Size: n.size, Mode: n.mode, Uid: n.uid, Gid: n.gid,
		ModTime: n.modified, Devmajor: n.major, Devminor: n.minor, PAXRecords: n.xattrs, Format: tar.FormatPAX,
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write %.200q: %w", name, err)
	}
	return nil
}

// errChanged says that a file was written to while it was read.
var errChanged = errors.New("it has changed since it was checked")

// layer copies the contents of files from a layer, which scan has checked.
func (w *writer) layer(ctx context.Context, l layer, files map[int]*inode) error {
	if len(files) == 0 {
		return nil
	}
	var blob io.Reader = io.NewSectionReader(l.blob, 0, l.size)
	plain, err := unpack(disk.WithContext(ctx, blob))
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	missing := len(files)
	done := errors.New("all are copied")
	err = eachEntry(plain, func(entry int, h *tar.Header, contents io.Reader) error {
		n := files[entry]
		if n == nil {
			return nil
		}
		if h.Size != n.size {
			return errChanged
		}
		if err := w.header(n); err != nil {
			return err
		}
		if _, err := io.Copy(w.tar, w.stage.Reader(disk.WithContext(ctx, contents))); err != nil {
			return fmt.Errorf("write %.200q: %w", n.name, err)
		}
		if missing--; missing == 0 {
			return done
		}
		return nil
	})
	switch {
	case errors.Is(err, done):
		return nil
	case err == nil:
		return errChanged
	}
	return err
}

// WriteExt4 writes the image as a read-only ext4 filesystem to path, which must not exist; on an
// error nothing stays there.
func (i *Image) WriteExt4(ctx context.Context, path, label string) error {
	t, err := i.scan(ctx)
	if err != nil {
		return err
	}
	// Of sparse files the tars hold less than their size, and the rest takes no space here either.
	if err := disk.RequireFree(filepath.Dir(path), min(t.bytes, t.tarBytes)); err != nil {
		return err
	}
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := i.write(ctx, t, w)
		w.CloseWithError(err) // nil means the end of the file
		written <- err
	}()
	err = disk.FromTar(ctx, r, path, label)
	r.CloseWithError(err) // the writer stops, if it has not
	if werr := <-written; werr != nil && errors.Is(err, werr) {
		return werr // it is the cause, not the filesystem
	}
	return err
}
