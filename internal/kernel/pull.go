package kernel

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/progress"
)

const (
	// DefaultPackage depends on the newest cloud kernel of a suite: small, with all that virtual
	// machines need.
	DefaultPackage = "linux-image-cloud-amd64"

	// sourcePrefix begins the only kind of source there is.
	sourcePrefix = "debian:"

	// workBytes is the space a pull takes at its most: package, unpacked tree and bundle.
	workBytes = 512 << 20

	maxBzImageBytes = 128 << 20
)

// releasePattern is what a kernel release may look like: it becomes part of paths and of depmod's
// command line.
var releasePattern = regexp.MustCompile(`^[0-9][0-9A-Za-z.+~_-]{0,100}$`)

// suiteOf returns the suite in a source "debian:SUITE".
func suiteOf(source string) (string, error) {
	suite, ok := strings.CutPrefix(source, sourcePrefix)
	if !ok {
		return "", api.Errorf(api.CodeInvalid, "unknown kernel source %q", source).
			WithHint("sources are debian:SUITE, for example debian:trixie, and URLs with their sha256").
			WithRemedy(api.OpImportKernel.Remedy(api.ImportKernel{}, "files are imported"))
	}
	return suite, debian.CheckSuite(suite)
}

// Pull makes the bundle of a source ("debian:trixie") in dir, an empty folder that the caller
// publishes. From archive it takes mirror, client and keys; suite and folder are Pull's own. meta
// is the package that depends on the kernel, or empty for DefaultPackage. On an error the folder's
// content is of no use.
func Pull(ctx context.Context, archive debian.Archive, meta, source, dir string) (Bundle, error) {
	suite, err := suiteOf(source)
	if err != nil {
		return Bundle{}, err
	}
	work, err := workFolder(dir)
	if err != nil {
		return Bundle{}, fmt.Errorf("pull kernel: %w", err)
	}
	defer os.RemoveAll(work)
	archive.Suite, archive.Folder = suite, work
	pkg, deb, err := fetchKernel(ctx, archive, cmp.Or(meta, DefaultPackage))
	if err != nil {
		return Bundle{}, fmt.Errorf("pull kernel %s: %w", source, err)
	}
	m := Manifest{Name: source, Source: fmt.Sprintf("%s %s of %s", pkg.Name, pkg.Version, source)}
	if m, err = assembleDeb(ctx, deb, work, dir, m); err != nil {
		return Bundle{}, fmt.Errorf("make bundle of %s: %w", pkg.Name, err)
	}
	return Bundle{Dir: dir, Manifest: m}, nil
}

// workFolder makes a folder in dir for what is not to stay.
func workFolder(dir string) (string, error) {
	if err := disk.RequireFree(dir, workBytes); err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, "work-")
}

// fetchKernel downloads the package the suite's meta package stands for.
func fetchKernel(ctx context.Context, archive debian.Archive, meta string) (pkg debian.Package, deb string, err error) {
	a, err := debian.Open(archive)
	if err != nil {
		return debian.Package{}, "", err
	}
	stage := progress.Start(ctx, "read package index")
	packages, err := a.Packages(ctx, func(name string) bool { return strings.HasPrefix(name, "linux-image-") })
	stage.End(err)
	if err != nil {
		return debian.Package{}, "", err
	}
	pkg, err = kernelOf(packages, meta)
	if err != nil {
		return debian.Package{}, "", err
	}
	deb, err = a.Fetch(ctx, pkg, "download kernel")
	return pkg, deb, err
}

// kernelOf returns the package that meta depends on, or meta itself when it depends on no kernel.
func kernelOf(packages map[string]debian.Package, meta string) (debian.Package, error) {
	pkg, ok := packages[meta]
	if !ok {
		return debian.Package{}, api.Errorf(api.CodeNotFound, "archive has no package %s", meta).
			WithRemedy(api.OpStatus.Remedy(api.None{}, "see the setting sources.kernel_package"))
	}
	for _, name := range pkg.Depends {
		if kernel, ok := packages[name]; ok {
			return kernel, nil
		}
	}
	return pkg, nil
}

// assembleDeb makes the bundle of a kernel package.
func assembleDeb(ctx context.Context, deb, work, dir string, m Manifest) (_ Manifest, err error) {
	stage := progress.Start(ctx, "unpack kernel")
	p, err := unpack(ctx, deb, filepath.Join(work, "tree"))
	stage.End(err)
	if err != nil {
		return Manifest{}, err
	}
	return assemble(ctx, p, dir, m)
}

// unpack reads a kernel package: the kernel into memory, its modules below tree/lib/modules.
func unpack(ctx context.Context, deb, tree string) (parts, error) {
	p := parts{tree: tree}
	err := debian.ReadDeb(ctx, deb, func(h *tar.Header, r io.Reader) error {
		if release, ok := strings.CutPrefix(h.Name, "boot/vmlinuz-"); ok {
			if h.Size > maxBzImageBytes {
				return fmt.Errorf("kernel of %d bytes", h.Size)
			}
			var err error
			p.release, p.built = release, h.ModTime
			p.kernel, err = io.ReadAll(r)
			return err
		}
		name := strings.TrimPrefix(h.Name, "usr/") // Debian 13 has /usr/lib/modules, Debian 12 /lib/modules
		if !strings.HasPrefix(name, "lib/modules/") {
			return nil
		}
		return writeEntry(filepath.Join(tree, name), h, r)
	})
	if err != nil {
		return parts{}, err
	}
	if !releasePattern.MatchString(p.release) {
		return parts{}, fmt.Errorf("package has no kernel, or of a bad release %.100q", p.release)
	}
	return p, nil
}

// writeEntry writes a folder or a file of the modules tree. Links are left out: the ones there are
// (build, source) lead to kernel headers.
func writeEntry(target string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(target, 0o755)
	case tar.TypeReg:
		if err := os.MkdirAll(path.Dir(target), 0o755); err != nil {
			return err
		}
		file, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, r)
		return errors.Join(err, file.Close())
	}
	return nil
}
