package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger/internal/hostinfo"
	"banger/internal/progress"
)

// parts are what a bundle is made of.
type parts struct {
	release string
	kernel  []byte    // ELF or bzImage
	initrd  []byte    // plain archives of the user's own initrd; nil for none
	tree    string    // folder with lib/modules/RELEASE; empty when there are no modules
	built   time.Time // of the kernel, for reproducible drives
}

// assemble turns the parts into the bundle's files in dir, and seals it.
func assemble(ctx context.Context, p parts, dir string, m Manifest) (_ Manifest, err error) {
	stage := progress.Start(ctx, "make kernel bundle")
	defer func() { stage.End(err) }()
	m.Release = p.release
	image, err := vmlinux(p.kernel)
	if err != nil {
		return Manifest{}, err
	}
	if said := releaseOf(image); said != "" && said != p.release {
		return Manifest{}, fmt.Errorf("the kernel is %s, its modules are of %s", said, p.release)
	}
	if err := os.WriteFile(filepath.Join(dir, vmlinuxName), image, 0o644); err != nil {
		return Manifest{}, err
	}
	modules, err := prepareModules(ctx, p)
	if err != nil {
		return Manifest{}, err
	}
	initrd, err := bundleInitrd(filepath.Join(p.tree, "lib/modules", p.release), modules)
	if err != nil {
		return Manifest{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, initrdName), append(p.initrd, initrd...), 0o644); err != nil {
		return Manifest{}, err
	}
	if p.tree != "" {
		if err := modulesDrive(ctx, filepath.Join(p.tree, "lib/modules"), filepath.Join(dir, modulesName), p.built); err != nil {
			return Manifest{}, err
		}
	}
	return seal(ctx, dir, m)
}

// prepareModules indexes the modules and returns those that the initrd needs. Without any the
// kernel must have built in what a boot takes.
func prepareModules(ctx context.Context, p parts) ([]module, error) {
	if p.tree == "" {
		return nil, nil
	}
	depmod, err := hostinfo.FindTool("depmod", "kmod")
	if err != nil {
		return nil, err
	}
	if err := runDepmod(ctx, depmod, p.tree, p.release); err != nil {
		return nil, err
	}
	index, err := readModuleIndex(filepath.Join(p.tree, "lib/modules", p.release))
	if err != nil {
		return nil, err
	}
	return index.plan(initrdModules, initrdModulesIfAny, initrdModulesLater)
}

// releaseOf returns the release that a kernel says it is, or "" when it does not say so where Linux
// does: in the text that it prints first.
func releaseOf(vmlinux []byte) string {
	const banner = "Linux version "
	for rest := vmlinux; ; {
		i := bytes.Index(rest, []byte(banner))
		if i < 0 {
			return ""
		}
		rest = rest[i+len(banner):]
		word, _, found := bytes.Cut(rest[:min(len(rest), 128)], []byte(" "))
		if found && releasePattern.Match(word) {
			return string(word)
		}
	}
}
