package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ownFolder is a folder of the root that lives on the VM's disk itself, because file systems made
// for it do not stack on an overlay (Docker's overlay2) or because it should outlive a change of
// image.
type ownFolder struct {
	path string
	mode os.FileMode // when the image has none
}

var ownFolders = []ownFolder{
	{"/home", 0o755},
	{"/root", 0o700},
	{"/var/lib/docker", 0o710},
}

// rootPlan says how the drives become one root.
type rootPlan struct {
	image, disk, root string // where the two file systems and the root are mounted
}

func (p rootPlan) upper() string { return filepath.Join(p.disk, "overlay/upper") }
func (p rootPlan) work() string  { return filepath.Join(p.disk, "overlay/work") }
func (p rootPlan) own(path string) string {
	return filepath.Join(p.disk, "own", strings.ReplaceAll(path[1:], "/", "-"))
}

func (p rootPlan) drives(d Disks) []mount {
	return []mount{
		{d.Image, p.image, "ext4", unix.MS_RDONLY | unix.MS_NOATIME, ""},
		{d.Disk, p.disk, "ext4", unix.MS_NOATIME, ""},
	}
}

// overlay lets folders of the image be renamed (redirect_dir); index stays off, so that a copied
// disk works under another image file with the same content.
func (p rootPlan) overlay() mount {
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on,index=off", p.image, p.upper(), p.work())
	return mount{"overlay", p.root, "overlay", unix.MS_NOATIME, data}
}

func (s *state) joinRoot(context.Context) error {
	if s.cmdline.OwnRoot {
		return mount{s.disks.Image, newRoot, "ext4", unix.MS_NOATIME, ""}.do()
	}
	plan := rootPlan{image: "/image", disk: "/disk", root: newRoot}
	for _, m := range plan.drives(s.disks) {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := plan.join(); err != nil {
		return err
	}
	for _, f := range ownFolders {
		if err := plan.bindOwn(f); err != nil {
			return fmt.Errorf("own folder %s: %w", f.path, err)
		}
	}
	for _, p := range []string{plan.image, plan.disk} { // the overlay and the binds hold them; nothing else should
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detach %s: %w", p, err)
		}
	}
	return nil
}

// join mounts the overlay, making its folders at first boot.
func (p rootPlan) join() error {
	for _, dir := range []string{p.upper(), p.work()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make overlay folder: %w", err)
		}
	}
	return p.overlay().do()
}

// bindOwn fills the folder on the disk once and mounts it over the root's. A path that is no folder
// in the image (a symlink elsewhere, say) is left as the image has it.
func (p rootPlan) bindOwn(f ownFolder) error {
	info, err := os.Lstat(filepath.Join(p.root, f.path))
	if err == nil && !info.IsDir() {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.fillOwn(f); err != nil {
		return err
	}
	target, err := makeInRoot(p.root, f.path, f.mode)
	if err != nil {
		return err
	}
	return mount{p.own(f.path), target, "", unix.MS_BIND, ""}.do()
}

// fillOwn copies the image's folder onto the disk: beside its name first, then renamed, so that a
// boot cut short starts over and a filled folder is never touched again.
func (p rootPlan) fillOwn(f ownFolder) error {
	own := p.own(f.path)
	if _, err := os.Lstat(own); err == nil {
		return nil
	}
	fresh := own + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("clear unfinished copy: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(own), 0o700); err != nil {
		return err
	}
	from, err := inRoot(p.image, f.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.Mkdir(fresh, f.mode); err != nil {
			return err
		}
		if err := os.Chmod(fresh, f.mode); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := copyTree(from, fresh); err != nil {
			return fmt.Errorf("copy from image: %w", err)
		}
	}
	return p.commitOwn(fresh, own)
}

// commitOwn makes the copy durable before its name is.
func (p rootPlan) commitOwn(fresh, own string) error {
	dir, err := os.Open(filepath.Dir(own))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	if err := os.Rename(fresh, own); err != nil {
		return err
	}
	return dir.Sync()
}

func splitPath(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
