package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/compression"
)

// initrdModules are what the guest needs before it has its modules drive: transports, disks,
// filesystems and the port that the agent answers on.
var initrdModules = []string{"virtio_mmio", "virtio_blk", "ext4", "overlay", "virtio_console"}

// initrdModulesIfAny are needed on some kernels and absent in others: PCI machines, and ext4's
// checksums, which newer kernels have in their core.
var initrdModulesIfAny = []string{"virtio_pci", "crc32c_generic"}

// initrdModulesLater are the other devices of a VM. The guest loads them beside the rest of its
// boot.
var initrdModulesLater = []string{"virtio_net", "virtio_rng", "virtio_balloon", "vsock", "vmw_vsock_virtio_transport"}

// laterMark stands in the load order between what the boot waits for and what it does not.
const laterMark = "# later"

const maxModuleBytes = 64 << 20

// module is one module to load: its name in the kernel's spelling and its file below the release's
// folder.
type module struct {
	name, file string
	later      bool // the boot does not wait for it
}

// moduleIndex is what depmod and the kernel's build say of a release.
type moduleIndex struct {
	files   map[string]string   // file by module name
	depends map[string][]string // direct and indirect dependencies by name, each before those it needs
	builtin map[string]bool
}

// plan returns the modules to load for those wanted, dependencies first, without built-in ones.
func (x moduleIndex) plan(wanted, ifAny, later []string) ([]module, error) {
	var order []module
	planned := map[string]bool{}
	isLater := false
	var add func(name string)
	add = func(name string) {
		if planned[name] || x.builtin[name] {
			return
		}
		planned[name] = true
		for _, dep := range x.depends[name] {
			add(dep)
		}
		order = append(order, module{name: name, file: x.files[name], later: isLater})
	}
	addAll := func(names []string) error {
		for _, name := range names {
			if x.files[name] == "" && !x.builtin[name] {
				return api.Errorf(api.CodeUnsupported, "kernel has no module %s", name).
					WithRemedy(api.OpPullKernel.Remedy(api.PullKernel{Source: "debian:trixie"}, "use another kernel"))
			}
			add(name)
		}
		return nil
	}
	if err := addAll(wanted); err != nil {
		return nil, err
	}
	for _, name := range ifAny {
		if x.files[name] != "" {
			add(name)
		}
	}
	isLater = true
	if err := addAll(later); err != nil {
		return nil, err
	}
	return order, nil
}

// readModuleIndex reads modules.dep and modules.builtin in the release's folder.
func readModuleIndex(releaseDir string) (moduleIndex, error) {
	dep, err := os.Open(filepath.Join(releaseDir, "modules.dep"))
	if err != nil {
		return moduleIndex{}, err
	}
	defer dep.Close()
	builtin, err := os.Open(filepath.Join(releaseDir, "modules.builtin"))
	if err != nil {
		return moduleIndex{}, err
	}
	defer builtin.Close()
	return parseModuleIndex(dep, builtin)
}

// parseModuleIndex reads modules.dep(5), "file: dependency…", and modules.builtin, a file a line.
func parseModuleIndex(dep, builtin io.Reader) (moduleIndex, error) {
	x := moduleIndex{files: map[string]string{}, depends: map[string][]string{}, builtin: map[string]bool{}}
	lines := bufio.NewScanner(dep)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		file, deps, ok := strings.Cut(lines.Text(), ":")
		if !ok || !filepath.IsLocal(file) {
			return moduleIndex{}, fmt.Errorf("read modules.dep: bad line %.100q", lines.Text())
		}
		name := moduleName(file)
		x.files[name] = file
		for d := range strings.FieldsSeq(deps) {
			x.depends[name] = append(x.depends[name], moduleName(d))
		}
	}
	if err := lines.Err(); err != nil {
		return moduleIndex{}, fmt.Errorf("read modules.dep: %w", err)
	}
	for name, deps := range x.depends {
		for _, d := range deps {
			if x.files[d] == "" {
				return moduleIndex{}, fmt.Errorf("read modules.dep: %s needs %s, which has no line", name, d)
			}
		}
	}
	lines = bufio.NewScanner(builtin)
	for lines.Scan() {
		x.builtin[moduleName(lines.Text())] = true
	}
	if err := lines.Err(); err != nil {
		return moduleIndex{}, fmt.Errorf("read modules.builtin: %w", err)
	}
	return x, nil
}

// moduleName returns the kernel's name of a module file: "a/virtio-rng.ko.xz" is virtio_rng.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule returns the module's plain content; the guest's init cannot decompress.
func readModule(releaseDir string, m module) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(releaseDir, m.file))
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte("\x7fELF")) {
		return data, nil
	}
	r, err := unpacked(data)
	if err != nil {
		return nil, fmt.Errorf("unpack module %s: %w", m.name, err)
	}
	defer r.Close()
	plain, err := io.ReadAll(compression.Limit(r, maxModuleBytes))
	if err != nil {
		return nil, fmt.Errorf("unpack module %s: %w", m.name, err)
	}
	if !bytes.HasPrefix(plain, []byte("\x7fELF")) {
		return nil, fmt.Errorf("unpack module %s: not a module", m.name)
	}
	return plain, nil
}
