package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"

	"banger/api"
)

// Lines of Debian 13's kernel 6.12 and its modules.builtin, shortened.
const (
	depText = `kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
kernel/fs/a.ko.xz: kernel/fs/b.ko.xz
kernel/fs/b.ko.xz: kernel/fs/a.ko.xz
`
	builtinText = "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/virtio-console.ko\n"
)

func TestModulePlan(t *testing.T) {
	index, err := parseModuleIndex(strings.NewReader(depText), strings.NewReader(builtinText))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name          string
		wanted, ifAny []string
		later         []string
		want          []string // "later" stands before those
		err           string
	}{
		{"DependenciesFirst", []string{"virtio_net"}, nil, nil, []string{"failover", "net_failover", "virtio_net"}, ""},
		{"EachOnce", []string{"failover", "virtio_net", "virtio_net"}, nil, nil, []string{"failover", "net_failover", "virtio_net"}, ""},
		{"SpelledWithDash", []string{"virtio_rng"}, nil, nil, []string{"virtio_rng"}, ""},
		{"BuiltIn", []string{"ext4", "virtio_console"}, nil, nil, nil, ""},
		{"IfAny", nil, []string{"absent", "ext4", "failover"}, nil, []string{"failover"}, ""},
		{"Circle", []string{"a"}, nil, nil, []string{"b", "a"}, ""},
		{"Later", []string{"failover"}, nil, []string{"failover", "virtio_net", "ext4"}, []string{"failover", "later", "net_failover", "virtio_net"}, ""},
		{"ErrLaterAbsent", nil, nil, []string{"overlay"}, nil, "kernel has no module overlay"},
		{"ErrAbsent", []string{"overlay"}, nil, nil, nil, "kernel has no module overlay"},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan, err := index.plan(test.wanted, test.ifAny, test.later)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || api.CodeOf(err) != api.CodeUnsupported {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			var got []string
			for i, m := range plan {
				if m.later && (i == 0 || !plan[i-1].later) {
					got = append(got, "later")
				}
				got = append(got, m.name)
			}
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestModuleIndexErrors(t *testing.T) {
	for _, text := range []string{"no colon", "../../etc/passwd.ko:", "/abs.ko:", "a.ko: missing.ko", ":"} {
		if _, err := parseModuleIndex(strings.NewReader(text), strings.NewReader("")); err == nil {
			t.Errorf("modules.dep %q was accepted", text)
		}
	}
}

func FuzzModuleIndex(f *testing.F) {
	f.Add(depText, builtinText)
	f.Fuzz(func(t *testing.T, dep, builtin string) {
		index, err := parseModuleIndex(strings.NewReader(dep), strings.NewReader(builtin))
		if err != nil {
			return
		}
		for name := range index.files {
			plan, err := index.plan([]string{name}, nil, nil)
			for _, m := range plan {
				if !filepath.IsLocal(m.file) {
					t.Errorf("%s: %q, %v", name, m.file, err)
				}
			}
		}
	})
}

// cpioNames reads a newc archive: names with modes, and the contents.
func cpioNames(t *testing.T, data []byte) ([]string, map[string]string) {
	t.Helper()
	r := cpio.NewReader(bytes.NewReader(data))
	var names []string
	texts := map[string]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, texts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Mode.String()+" "+h.Name)
		texts[h.Name] = string(text)
	}
}

func TestBundleInitrd(t *testing.T) {
	dir := t.TempDir()
	ko := "\x7fELF of a module"
	for name, data := range map[string][]byte{"a.ko": []byte(ko), "b.ko.xz": xzOf(t, []byte(ko+" b")), "c.ko.zst": zstdOf(t, []byte(ko+" c"))} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := bundleInitrd(dir, []module{{"b", "b.ko.xz", false}, {"a", "a.ko", false}, {"c", "c.ko.zst", true}})
	if err != nil {
		t.Fatal(err)
	}
	names, texts := cpioNames(t, got)
	want := []string{
		"040755 dev", "040755 proc", "040755 sys", "040755 run", "040755 modules",
		"0100644 modules/b.ko", "0100644 modules/a.ko", "0100644 modules/c.ko", "0100644 modules/order",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if texts["modules/order"] != "b.ko\na.ko\n# later\nc.ko\n" || texts["modules/b.ko"] != ko+" b" || texts["modules/c.ko"] != ko+" c" {
		t.Errorf("contents %q", texts)
	}
	if len(got)%512 != 0 {
		t.Errorf("length %d: what is appended would not be found", len(got))
	}
}

func TestReadModuleErrors(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"text.ko": []byte("text"), "empty.ko": nil, "packed.ko.xz": xzOf(t, []byte("text")), "cut.ko.xz": xzOf(t, []byte("\x7fELF"))[:20],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readModule(dir, module{"m", name, false}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// moduleFile makes a kernel module that depmod can read: it exports and needs symbols, and has no
// code.
func moduleFile(t *testing.T, exports, needs string) []byte {
	t.Helper()
	var strtab, symtab bytes.Buffer
	strtab.WriteByte(0)
	symtab.Write(make([]byte, 24))
	if needs != "" {
		sym := make([]byte, 24)
		binary.LittleEndian.PutUint32(sym, uint32(strtab.Len()))
		sym[4] = 1 << 4 // global, section undefined
		symtab.Write(sym)
		strtab.WriteString(needs + "\x00")
	}
	exported := ""
	if exports != "" {
		exported = exports + "\x00"
	}
	sections := []struct {
		name string
		kind uint32
		data []byte
		link uint32
		size uint64
	}{
		{"", 0, nil, 0, 0},
		{".modinfo", 1, []byte("license=GPL\x00"), 0, 0},
		{"__ksymtab_strings", 1, []byte(exported), 0, 0},
		{".symtab", 2, symtab.Bytes(), 4, 24},
		{".strtab", 3, strtab.Bytes(), 0, 0},
		{".shstrtab", 3, nil, 0, 0},
	}
	names := []byte{0}
	offsets := make([]uint32, len(sections))
	for i, s := range sections[1:] {
		offsets[i+1] = uint32(len(names))
		names = append(names, s.name+"\x00"...)
	}
	sections[5].data = names
	header := fakeVmlinux(t)[:64]
	header[16] = 1                                                      // relocatable
	binary.LittleEndian.PutUint16(header[60:], uint16(len(sections)))   // e_shnum
	binary.LittleEndian.PutUint16(header[62:], uint16(len(sections)-1)) // e_shstrndx
	binary.LittleEndian.PutUint64(header[40:], uint64(64))              // e_shoff
	binary.LittleEndian.PutUint16(header[54:], 0)                       // e_phentsize
	body, table := []byte{}, []byte{}
	start := 64 + 64*len(sections)
	for i, s := range sections {
		h := make([]byte, 64)
		binary.LittleEndian.PutUint32(h, offsets[i])
		binary.LittleEndian.PutUint32(h[4:], s.kind)
		binary.LittleEndian.PutUint64(h[24:], uint64(start+len(body)))
		binary.LittleEndian.PutUint64(h[32:], uint64(len(s.data)))
		binary.LittleEndian.PutUint32(h[40:], s.link)
		binary.LittleEndian.PutUint64(h[56:], s.size)
		table = append(table, h...)
		body = append(body, s.data...)
	}
	return append(append(header, table...), body...)
}
