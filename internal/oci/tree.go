package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"banger/internal/compression"
)

const (
	maxNameBytes = 255  // of one part of a path, as ext4 has it
	maxPathBytes = 4095 // of a path or a link's target, as Linux has it
	maxDepth     = maxPathBytes / 2
	maxHops      = 40 // symlinks on the way to one name, as Linux has it

	// maxXattrBytes is what surely fits beside an inode: ext4 has one block for it.
	maxXattrBytes = 3 << 10

	// maxSteps bounds the work that names full of symlinks, or a folder hidden again and again, can
	// cause.
	maxSteps = 200_000_000

	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // aufs's own files
)

// tree is the root filesystem that layers add up to. A layer's entries are applied in order:
//
//   - a folder over a folder changes its owner, mode, time and attributes; anything else replaces what was there;
//   - parents that are missing are made, root's and 0755; parents that are symlinks are followed, inside the tree;
//   - a hard link shares the file that its target has at that moment, also one of a lower layer;
//   - a whiteout removes what lower layers have there, and nothing of its own layer.
type tree struct {
	root   *node
	limits Limits
	stored int64 // size of all layers

	entries  int
	metadata int64
	bytes    int64 // of all files
	tarBytes int64 // of all layers, unpacked
	steps    int
}

// node is a name. Hard links are several nodes of one inode.
type node struct {
	inode    *inode
	children map[string]*node // not nil for folders alone
	layer    int              // the last one that has an entry for it
}

// inode is what names stand for. Contents stay where they are: in an entry of a layer.
type inode struct {
	kind         byte // a type of package tar
	mode         int64
	uid, gid     int
	modified     time.Time
	size         int64
	link         string // target of a symlink
	major, minor int64
	xattrs       map[string]string // as PAX records
	layer, entry int               // where the contents are

	name string // first name it was written under
}

func newTree(limits Limits, stored int64) *tree {
	return &tree{root: &node{inode: &inode{kind: tar.TypeDir, mode: 0o755}, children: map[string]*node{}}, limits: limits, stored: stored}
}

// place is where an entry goes.
type place struct {
	layer, entry int
	whiteouts    bool
}

// add applies one entry of a layer.
func (t *tree) add(h *tar.Header, at place) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if err := t.charge(h); err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("its root is not a folder")
		}
		t.root.inode, err = inodeOf(h, at)
		return err
	}
	dir, base := path.Split(name)
	if at.whiteouts && strings.HasPrefix(base, whiteoutPrefix) {
		return t.whiteout(dir, base, at.layer)
	}
	parent, err := t.folder(dir, at.layer, true)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return t.hardLink(parent, base, h.Linkname, at.layer)
	}
	inode, err := inodeOf(h, at)
	if err != nil {
		return err
	}
	old := parent.children[base]
	switch {
	case inode.kind == tar.TypeDir && old != nil && old.children != nil:
		old.inode, old.layer = inode, at.layer
	case inode.kind == tar.TypeDir:
		parent.children[base] = &node{inode: inode, children: map[string]*node{}, layer: at.layer}
	default:
		parent.children[base] = &node{inode: inode, layer: at.layer}
	}
	return nil
}

// charge counts an entry against the limits.
func (t *tree) charge(h *tar.Header) error {
	t.entries++
	t.metadata += int64(len(h.Name) + len(h.Linkname))
	for key, value := range h.PAXRecords {
		t.metadata += int64(len(key) + len(value))
	}
	switch {
	case t.entries > t.limits.Entries:
		return fmt.Errorf("more than %d entries", t.limits.Entries)
	case t.metadata > t.limits.MetadataBytes:
		return fmt.Errorf("more than %d MiB of names", t.limits.MetadataBytes>>20)
	}
	if h.Size < 0 || h.Size > t.limits.Bytes {
		return fmt.Errorf("a file of %d bytes", h.Size)
	}
	if t.bytes += h.Size; t.bytes > t.limits.unpacked(t.stored) {
		return compression.ErrTooLarge
	}
	return nil
}

// cleanName returns the name without "./" and without leading or trailing slashes; "." is the root.
func cleanName(name string) (string, error) {
	if len(name) > maxPathBytes {
		return "", fmt.Errorf("a name of %d bytes", len(name))
	}
	if strings.ContainsRune(name, 0) {
		return "", errors.New("a name with a zero byte")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("the name leads out of the image")
		}
		if len(part) > maxNameBytes {
			return "", fmt.Errorf("a name of %d bytes", len(part))
		}
	}
	return path.Clean("./" + strings.TrimLeft(name, "/")), nil
}

// folder returns the folder of that name, through symlinks. It is made when it is missing and
// create is true; else a missing one is nil.
func (t *tree) folder(name string, layer int, create bool) (*node, error) {
	way := []*node{t.root}
	ahead := strings.Split(name, "/")
	for hops := 0; len(ahead) > 0; {
		part := ahead[0]
		ahead = ahead[1:]
		if t.steps++; t.steps > maxSteps {
			return nil, errors.New("its names take too long to follow")
		}
		here := way[len(way)-1]
		switch part {
		case "", ".":
			continue
		case "..": // of a symlink; the root is its own parent
			way = way[:max(1, len(way)-1)]
			continue
		}
		next := here.children[part]
		switch {
		case next == nil && !create:
			return nil, nil
		case next == nil:
			if t.entries++; t.entries > t.limits.Entries {
				return nil, fmt.Errorf("more than %d entries", t.limits.Entries)
			}
			if len(part) > maxNameBytes {
				return nil, fmt.Errorf("a name of %d bytes", len(part))
			}
			next = &node{inode: &inode{kind: tar.TypeDir, mode: 0o755}, children: map[string]*node{}, layer: layer}
			here.children[part] = next
		case next.inode.kind == tar.TypeSymlink:
			if hops++; hops > maxHops {
				return nil, errors.New("too many symlinks on the way")
			}
			if strings.HasPrefix(next.inode.link, "/") {
				way = way[:1]
			}
			ahead = append(strings.Split(next.inode.link, "/"), ahead...)
			continue
		case next.children == nil:
			return nil, fmt.Errorf("%.100q on the way is not a folder", part)
		}
		if way = append(way, next); len(way) > maxDepth {
			return nil, errors.New("folders are nested too deep")
		}
	}
	return way[len(way)-1], nil
}

// hardLink makes base another name of the file that target has now.
func (t *tree) hardLink(parent *node, base, target string, layer int) error {
	name, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	dir, last := path.Split(name)
	folder, err := t.folder(dir, layer, false)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	var to *node
	if folder != nil {
		to = folder.children[last]
	}
	if to == nil {
		return fmt.Errorf("hard link to %.100q, which is not there", target)
	}
	if to.children != nil {
		return fmt.Errorf("hard link to the folder %.100q", target)
	}
	parent.children[base] = &node{inode: to.inode, layer: layer}
	return nil
}

// whiteout removes from dir what lower layers have: one name, or all when base is the opaque mark.
func (t *tree) whiteout(dir, base string, layer int) error {
	parent, err := t.folder(dir, layer, false)
	if err != nil || parent == nil {
		return err
	}
	switch hidden := strings.TrimPrefix(base, whiteoutPrefix); {
	case base == whiteoutOpaque:
		t.hide(parent, layer)
	case strings.HasPrefix(base, whiteoutMeta):
	case hidden == "" || hidden == "." || hidden == "..":
		return errors.New("a whiteout of nothing")
	case parent.children[hidden] != nil && !t.hide(parent.children[hidden], layer):
		delete(parent.children, hidden)
	}
	if t.steps > maxSteps {
		return errors.New("its whiteouts take too long to apply")
	}
	return nil
}

// hide removes everything below n that no entry of the layer made, and reports whether something of
// the layer is left there, n itself included.
func (t *tree) hide(n *node, layer int) bool {
	t.steps++
	for name, child := range n.children {
		if t.steps > maxSteps {
			return true // whiteout refuses the image
		}
		if !t.hide(child, layer) {
			delete(n.children, name)
		}
	}
	return n.layer == layer || len(n.children) > 0
}

// inodeOf checks an entry that is not a hard link.
func inodeOf(h *tar.Header, at place) (*inode, error) {
	n := &inode{
		kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, modified: h.ModTime, layer: at.layer, entry: at.entry,
	}
	const maxID = 1<<32 - 2 // the last one means "no id"
	if h.Uid < 0 || h.Uid > maxID || h.Gid < 0 || h.Gid > maxID {
		return nil, fmt.Errorf("an owner %d:%d", h.Uid, h.Gid)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.kind, n.size = tar.TypeReg, h.Size
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPathBytes || strings.ContainsRune(h.Linkname, 0) {
			return nil, fmt.Errorf("a symlink to %.100q", h.Linkname)
		}
		n.link = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("a device %d:%d", h.Devmajor, h.Devminor)
		}
		n.major, n.minor = h.Devmajor, h.Devminor
	default:
		return nil, fmt.Errorf("an entry of type %q", h.Typeflag)
	}
	var err error
	n.xattrs, err = xattrsOf(h)
	return n, err
}

// xattrsOf takes the attributes that mean something in another filesystem: capabilities and users'
// own. Others belong to the builder's machine (labels of SELinux, marks of overlayfs) or are
// encoded otherwise on ext4 (access lists).
func xattrsOf(h *tar.Header) (map[string]string, error) {
	const prefix = "SCHILY.xattr."
	var kept map[string]string
	sum := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok || name != "security.capability" && !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if len(name) > maxNameBytes {
			return nil, fmt.Errorf("an attribute with a name of %d bytes", len(name))
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[key] = value
		sum += len(key) + len(value)
	}
	if sum > maxXattrBytes {
		return nil, fmt.Errorf("%d bytes of attributes, more than ext4 can hold", sum)
	}
	return kept, nil
}
