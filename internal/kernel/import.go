package kernel

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/progress"
)

// maxModulesFolderBytes bounds what is copied from a folder of modules; a distribution's have half
// a GiB.
const maxModulesFolderBytes = 4 << 30

// Import makes a bundle of the user's own files and gives it the name, if it has one: of a kernel
// package, or of a kernel with an initrd and modules as it likes. What was checked about a .deb is
// only that it is well-formed.
func (c *Catalog) Import(ctx context.Context, want api.ImportKernel) (api.Kernel, error) {
	if err := checkImport(want); err != nil {
		return api.Kernel{}, err
	}
	record, err := c.repository().Make(ctx, want.Name, c.filled(func(ctx context.Context, dir string) (Bundle, error) {
		work, err := workFolder(dir)
		if err != nil {
			return Bundle{}, err
		}
		defer os.RemoveAll(work)
		m := Manifest{Name: want.Name}
		if want.Deb != "" {
			m, err = importDeb(ctx, want.Deb, work, dir, m)
		} else {
			m, err = importFiles(ctx, want, work, dir, m)
		}
		if err != nil {
			return Bundle{}, fmt.Errorf("import kernel: %w", badFile(dir, err))
		}
		return Bundle{Dir: dir, Manifest: m}, nil
	}))
	if err != nil {
		return api.Kernel{}, err
	}
	return c.Inspect(ctx, record.ID)
}

func checkImport(want api.ImportKernel) error {
	if (want.Vmlinux == "") == (want.Deb == "") || want.Deb != "" && want.Initrd+want.Modules != "" {
		return api.Errorf(
			api.CodeInvalid,
			"a kernel is imported either from a package or from a file, which may have an initrd and modules",
		)
	}
	for _, file := range []string{want.Vmlinux, want.Initrd, want.Modules, want.Deb} {
		if file != "" && !filepath.IsAbs(file) {
			return api.Errorf(api.CodeInvalid, "%q is not an absolute path", file)
		}
	}
	return nil
}

func importDeb(ctx context.Context, deb, work, dir string, m Manifest) (Manifest, error) {
	sum, _, err := disk.SHA256(ctx, deb)
	if err != nil {
		return Manifest{}, err
	}
	m.Source = fmt.Sprintf("%s, sha256 %s", filepath.Base(deb), sum)
	return assembleDeb(ctx, deb, work, dir, m)
}

func importFiles(ctx context.Context, want api.ImportKernel, work, dir string, m Manifest) (Manifest, error) {
	p, err := readParts(ctx, want, work)
	if err != nil {
		return Manifest{}, err
	}
	m.Source = want.Vmlinux
	return assemble(ctx, p, dir, m)
}

// badFile is what is wrong with a user's file, as the user's to repair. What has a code already
// keeps it, and a full disk is no fault of the file.
func badFile(dir string, err error) error {
	err = disk.ExplainFull(dir, err)
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, coded := errors.AsType[*api.Error](err); coded {
		return err
	}
	return api.Errorf(api.CodeInvalid, "%w", err)
}

// readParts reads kernel and initrd and copies the modules below work.
func readParts(ctx context.Context, want api.ImportKernel, work string) (parts, error) {
	var p parts
	kernel, err := readFile(want.Vmlinux, maxVmlinuxBytes)
	if err != nil {
		return p, err
	}
	if p.kernel, err = vmlinux(kernel); err != nil { // once more in assemble, where it costs nothing
		return p, fmt.Errorf("%s: %w", filepath.Base(want.Vmlinux), err)
	}
	info, err := os.Stat(want.Vmlinux)
	if err != nil {
		return p, err
	}
	p.built = info.ModTime().UTC().Truncate(time.Second)
	if want.Initrd != "" {
		packed, err := readFile(want.Initrd, maxInitrdBytes)
		if err != nil {
			return p, err
		}
		if p.initrd, err = plainInitrd(packed); err != nil {
			return p, fmt.Errorf("%s: %w", filepath.Base(want.Initrd), err)
		}
	}
	p.release = releaseOf(p.kernel)
	if want.Modules == "" {
		if p.release == "" {
			return p, errors.New("the kernel does not say its release, and there are no modules that would")
		}
		return p, nil
	}
	p.tree = filepath.Join(work, "tree")
	p.release, err = copyModules(ctx, want.Modules, p.release, p.tree)
	return p, err
}

func readFile(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("read %s: not a file of at most %d MiB", name, limit>>20)
	}
	return io.ReadAll(io.LimitReader(file, limit+1))
}

// copyModules copies a kernel's modules to tree/lib/modules/RELEASE and returns the release. dir is
// the release's own folder, or one such as /lib/modules that holds it: release says which, and
// without one there must be only one.
func copyModules(ctx context.Context, dir, release, tree string) (string, error) {
	from, err := releaseFolder(dir, release)
	if err != nil {
		return "", err
	}
	release = filepath.Base(from)
	var total int64
	root := filepath.Join(tree, "lib/modules", release)
	err = filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeDir}
		if entry.IsDir() {
			return writeEntry(filepath.Join(root, relative), h, nil)
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err // links lead to the kernel's headers
		}
		if total += info.Size(); total > maxModulesFolderBytes {
			return fmt.Errorf("modules in %s have more than %d MiB", from, maxModulesFolderBytes>>20)
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		h.Typeflag = tar.TypeReg
		return writeEntry(filepath.Join(root, relative), h, file)
	})
	if err != nil {
		return "", fmt.Errorf("copy modules: %w", err)
	}
	return release, nil
}

// releaseFolder returns the folder in or at dir that holds the modules of that release, or of the
// only one.
func releaseFolder(dir, release string) (string, error) {
	if isReleaseFolder(dir) {
		if !releasePattern.MatchString(filepath.Base(dir)) {
			return "", fmt.Errorf("the modules in %s: the folder's name is no kernel release", dir)
		}
		return dir, nil
	}
	if release != "" && isReleaseFolder(filepath.Join(dir, release)) {
		return filepath.Join(dir, release), nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	found := ""
	for _, entry := range entries {
		if releasePattern.MatchString(entry.Name()) && isReleaseFolder(filepath.Join(dir, entry.Name())) {
			if found != "" {
				return "", fmt.Errorf("%s holds the modules of more than one kernel, and none of %s", dir, cmp.Or(release, "this one"))
			}
			found = filepath.Join(dir, entry.Name())
		}
	}
	if found == "" {
		return "", fmt.Errorf("no kernel modules in %s: it has no modules.builtin, nor has a folder in it", dir)
	}
	return found, nil
}

// isReleaseFolder reports whether dir is what `make modules_install` leaves.
func isReleaseFolder(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "modules.builtin"))
	return err == nil
}

var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

func isURL(source string) bool {
	return strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}

// fetch downloads a kernel (a .deb, an ELF or a bzImage), checks its hash and makes the bundle of
// it in dir.
func (c *Catalog) fetch(ctx context.Context, url, sha256, dir string, m Manifest) (Bundle, error) {
	work, err := workFolder(dir)
	if err != nil {
		return Bundle{}, err
	}
	defer os.RemoveAll(work)
	archive := c.Archive
	archive.Folder = work
	file, err := debian.FetchFile(ctx, archive, url, sha256, "download kernel")
	if err != nil {
		return Bundle{}, fmt.Errorf("pull kernel: %w", err)
	}
	isDeb, err := beginsWith(file, "!<arch>\n")
	if err != nil {
		return Bundle{}, err
	}
	if isDeb {
		m, err = assembleDeb(ctx, file, work, dir, m)
	} else {
		stage := progress.Start(ctx, "unpack kernel")
		var p parts
		p, err = readParts(ctx, api.ImportKernel{Vmlinux: file}, work)
		stage.End(err)
		if err == nil {
			m, err = assemble(ctx, p, dir, m)
		}
	}
	return Bundle{Dir: dir, Manifest: m}, badFile(dir, err)
}

func beginsWith(name, magic string) (bool, error) {
	file, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer file.Close()
	begin := make([]byte, len(magic))
	n, err := io.ReadFull(file, begin)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Equal(begin[:n], []byte(magic)), nil
}

// Load makes the bundle of a manifest that came with an image; next writes its next file into dir.
// The bundle gets no name: the image that names it keeps it.
func (c *Catalog) Load(ctx context.Context, m Manifest, next func(ctx context.Context, dir, name string, size int64) error) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("read manifest of kernel: %w", err)
	}
	_, err := c.repository().Make(ctx, "", c.filled(func(ctx context.Context, dir string) (Bundle, error) {
		want := m.ID()
		for _, f := range m.Files {
			if err := next(ctx, dir, f.Name, f.SizeBytes); err != nil {
				return Bundle{}, err
			}
		}
		m, err := seal(ctx, dir, m)
		if err == nil && m.ID() != want {
			err = errors.New("the kernel's files are not those of its manifest")
		}
		return Bundle{Dir: dir, Manifest: m}, err
	}))
	return err
}
