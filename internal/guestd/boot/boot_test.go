package boot

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/internal/guestd/identity"
	"banger/internal/guestd/netcfg"
	"banger/internal/guestd/system"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var equateAddresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

var testAddress = netip.MustParsePrefix("172.30.0.5/16")

func TestParseCmdline(t *testing.T) {
	tests := []struct {
		name, line string
		want       Cmdline
		wantErr    string
	}{
		{"Empty", "", Cmdline{}, ""},
		{
			"Hostname", "console=ttyS0 quiet banger.hostname=calm-otter panic=-1",
			Cmdline{Identity: identity.Spec{Hostname: "calm-otter"}},
			"",
		},
		{"LastCounts", "banger.hostname=a banger.hostname=b", Cmdline{Identity: identity.Spec{Hostname: "b"}}, ""},
		{"UnknownKey", "banger.later=x banger.hostname=a", Cmdline{Identity: identity.Spec{Hostname: "a"}}, ""},
		{"Domain", "banger.hostname=a.vm\n", Cmdline{Identity: identity.Spec{Hostname: "a.vm"}}, ""},
		{
			"Network", "banger.mtu=1400 banger.address=172.30.0.5/16",
			Cmdline{Network: netcfg.Config{Address: netip.MustParsePrefix("172.30.0.5/16"), MTU: 1400}},
			"",
		},
		{"ErrNetwork", "banger.address=x", Cmdline{}, `banger.address="x": not an IPv4 address`},
		{"ErrImage", "banger.image=0123", Cmdline{}, `banger.image="0123": not a UUID`},
		{"OtherPrefix", "bangers.hostname=a hostname=b", Cmdline{}, ""},
		{"OwnRoot", "banger.root=own", Cmdline{OwnRoot: true}, ""},
		{"ErrRoot", "banger.root=rw", Cmdline{}, "banger.root=\"rw\": not known"},
		{"ErrCharacter", "banger.hostname=a_b", Cmdline{}, "not a host name"},
		{"ErrDash", "banger.hostname=-a", Cmdline{}, "not a host name"},
		{"ErrEmptyLabel", "banger.hostname=a..b", Cmdline{}, "not a host name"},
		{"ErrLong", "banger.hostname=" + strings.Repeat("a.", 40), Cmdline{}, "not a host name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCmdline(tt.line)
			checkErr(t, err, tt.wantErr)
			if diff := cmp.Diff(tt.want, got, equateAddresses); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Fatalf("got error %v, want %q", err, want)
	}
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("quiet banger.hostname=a banger.image=0123456789abcdef0123456789abcdef banger.modules=none banger.root=own")
	f.Add("banger.address=172.30.0.5/16 banger.gateway=172.30.0.1 banger.dns=9.9.9.9,1.1.1.1 banger.mtu=1500")
	f.Add("banger.address=172.30.0.5/16 banger.address6=fd62:616e:6765::ac1e:5/112 banger.gateway6=fd62:616e:6765::ac1e:1")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := ParseCmdline(line)
		if err != nil {
			return
		}
		if err := c.Identity.Check(); err != nil || c.Identity.MachineID != "" {
			t.Errorf("took %+v: %v", c.Identity, err)
		}
		if c.Image != "" && !validUUID(c.Image) {
			t.Errorf("took image %q", c.Image)
		}
		if !c.Network.Address.IsValid() && !cmp.Equal(c.Network, netcfg.Config{}, equateAddresses) {
			t.Errorf("took a network without an address: %+v", c.Network)
		}
	})
}

// mkfs makes a real ext4 file system with a label.
func mkfs(t *testing.T, path, label string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2<<20); err != nil {
		t.Fatal(err)
	}
	name := []string{"-L", label}
	if label == foreign {
		name = []string{"-U", foreign[:8] + "-" + foreign[8:12] + "-" + foreign[12:16] + "-" + foreign[16:20] + "-" +
			foreign[20:]}
	}
	if out, err := exec.Command("mkfs.ext4", append(name, "-q", path)...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
}

// foreign is the UUID of an image that banger did not make; as a label it stands for a file system
// with it.
const foreign = "0123456789abcdef0123456789abcdef"

func TestReadVolume(t *testing.T) {
	ext4 := filepath.Join(t.TempDir(), "ext4")
	mkfs(t, ext4, LabelModules)
	if label, uuid, err := readVolume(ext4); label != LabelModules || !validUUID(uuid) || err != nil {
		t.Errorf("got %q, %q, %v, want %q", label, uuid, err, LabelModules)
	}
	for name, content := range map[string][]byte{"Empty": nil, "Short": make([]byte, 1100), "Zeros": make([]byte, 4096)} {
		if got, _, err := ReadVolume(bytes.NewReader(content)); !errors.Is(err, ErrNotExt4) {
			t.Errorf("%s: got %q, %v, want ErrNotExt4", name, got, err)
		}
	}
}

func FuzzReadVolume(f *testing.F) {
	sb := make([]byte, 2048)
	sb[1024+0x38], sb[1024+0x39] = 0x53, 0xEF
	copy(sb[1024+0x78:], "banger-modules-x")
	f.Add(sb)
	f.Fuzz(func(t *testing.T, b []byte) {
		if label, uuid, err := ReadVolume(bytes.NewReader(b)); err == nil && (len(label) > 16 || !validUUID(uuid)) {
			t.Errorf("label %q is longer than its field", label)
		}
	})
}

func TestWaitDisks(t *testing.T) {
	tests := []struct {
		name    string
		drives  map[string]string // label by drive; an image of that UUID when the label is one
		image   string
		want    Disks
		wantErr string
	}{
		{
			"Foreign",
			map[string]string{"vda": LabelImage, "vdb": foreign, "vdc": LabelDisk, "vdd": LabelModules},
			foreign,
			Disks{Image: "vdb", Disk: "vdc", Modules: "vdd"},
			"",
		},
		{
			"ErrNoForeign",
			map[string]string{"vda": LabelImage, "vdb": LabelDisk},
			foreign,
			Disks{},
			`no drive with the ext4 UUID ` + foreign + ` (there is: vda (banger-image), vdb (banger-disk))`,
		},
		{
			"All",
			map[string]string{"vda": LabelModules, "vdb": LabelDisk, "vdc": LabelImage},
			"",
			Disks{Image: "vdc", Disk: "vdb", Modules: "vda"},
			"",
		},
		{"NoModules", map[string]string{"vda": LabelImage, "vdb": LabelDisk}, "", Disks{Image: "vda", Disk: "vdb"}, ""},
		{
			"FirstCounts",
			map[string]string{"vda": LabelImage, "vdb": LabelDisk, "vdc": LabelImage, "vdd": LabelModules},
			"",
			Disks{Image: "vda", Disk: "vdb", Modules: "vdd"},
			"",
		},
		{"ErrNone", nil, "", Disks{}, `no drive with the ext4 label "banger-image" (there is: no virtio drive at all)`},
		{
			"ErrNoDisk",
			map[string]string{"vda": LabelImage, "vdb": "", "vdc": "other"},
			"",
			Disks{},
			`no drive with the ext4 label "banger-disk" (there is: vda (banger-image), vdb (no ext4), vdc (other))`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sys, dev := t.TempDir(), t.TempDir()
			for name, label := range tt.drives {
				if err := os.Mkdir(filepath.Join(sys, name), 0o755); err != nil {
					t.Fatal(err)
				}
				if label == "" {
					os.WriteFile(filepath.Join(dev, name), []byte("raw"), 0o644)
					continue
				}
				mkfs(t, filepath.Join(dev, name), label)
			}
			got, err := waitDisks(t.Context(), sys, dev, tt.image, false, 50*time.Millisecond, time.Millisecond)
			if tt.wantErr != "" {
				checkErr(t, err, tt.wantErr)
				return
			}
			for _, d := range []*string{&got.Image, &got.Disk, &got.Modules} {
				*d = strings.TrimPrefix(*d, dev+"/")
			}
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

// While an image is built there is no disk to wait for.
func TestWaitDisksOwnRoot(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	for name, label := range map[string]string{"vda": "banger-inputs", "vdb": LabelImage, "vdc": LabelModules} {
		mkfs(t, filepath.Join(dev, name), label)
		if err := os.Mkdir(filepath.Join(sys, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := Disks{Image: filepath.Join(dev, "vdb"), Modules: filepath.Join(dev, "vdc")}
	if got, err := waitDisks(t.Context(), sys, dev, "", true, time.Minute, time.Minute); got != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// A drive that appears late is found.
func TestWaitDisksLate(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	done := make(chan error, 1)
	go func() {
		_, err := waitDisks(t.Context(), sys, dev, "", false, time.Minute, time.Minute)
		done <- err
	}()
	for name, label := range map[string]string{"vda": LabelImage, "vdb": LabelDisk, "vdc": LabelModules} {
		mkfs(t, filepath.Join(dev, name), label)
		if err := os.Mkdir(filepath.Join(sys, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFindInit(t *testing.T) {
	tests := []struct {
		name  string
		files []string // "path" is a program, "path>target" a symlink, "path/" a folder
		want  Init
	}{
		{"None", []string{"/bin/sh"}, Init{Kind: system.InitNone}},
		{
			"Systemd",
			[]string{"/usr/lib/systemd/systemd", "/lib>usr/lib", "/sbin/init>/lib/systemd/systemd"},
			Init{"/sbin/init", system.InitSystemd},
		},
		{"SystemdWithoutLink", []string{"/usr/lib/systemd/systemd"}, Init{"/usr/lib/systemd/systemd", system.InitSystemd}},
		{
			"Alpine",
			[]string{"/bin/busybox", "/sbin/init>/bin/busybox", "/sbin/openrc", "/etc/inittab", "/etc/init.d/"},
			Init{"/sbin/init", system.InitOpenRC},
		},
		{"Busybox", []string{"/bin/busybox", "/bin/init>busybox"}, Init{"/bin/init", system.InitBusybox}},
		{"Sysvinit", []string{"/sbin/init", "/etc/inittab", "/etc/init.d/"}, Init{"/sbin/init", system.InitSysvinit}},
		{"Other", []string{"/sbin/init"}, Init{"/sbin/init", system.InitOther}},
		{"DanglingLink", []string{"/sbin/init>/no/where", "/bin/sh"}, Init{Kind: system.InitNone}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for _, f := range tt.files {
				path, target, isLink := strings.Cut(f, ">")
				outer := filepath.Join(root, path)
				err := os.MkdirAll(filepath.Dir(outer), 0o755)
				switch {
				case isLink:
					err = errors.Join(err, os.Symlink(target, outer))
				case strings.HasSuffix(path, "/"):
					err = errors.Join(err, os.MkdirAll(outer, 0o755))
				default:
					err = errors.Join(err, os.WriteFile(outer, nil, 0o755))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if got := findInit(root); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestMakeInRoot(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(root+"/usr/lib", 0o755), os.Symlink("/usr/lib", root+"/lib"),
		os.Symlink("../../..", root+"/up")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/lib/modules":    "/usr/lib/modules",
		"/var/lib/docker": "/var/lib/docker", "/up/x": "/x",
	} {
		got, err := makeInRoot(root, path, 0o710)
		if err != nil || got != root+want {
			t.Errorf("makeInRoot(%q): %q, %v, want %q", path, got, err, root+want)
			continue
		}
		if info, err := os.Stat(got); err != nil || info.Mode().Perm() != 0o710 {
			t.Errorf("%s: %v, %v, want mode 0710", got, info, err)
		}
	}
}

func TestOverlayPlan(t *testing.T) {
	plan := rootPlan{image: "/image", disk: "/disk", root: "/newroot"}
	want := []mount{
		{"/dev/vda", "/image", "ext4", unix.MS_RDONLY | unix.MS_NOATIME, ""},
		{"/dev/vdb", "/disk", "ext4", unix.MS_NOATIME, ""},
		{
			"overlay", "/newroot", "overlay", unix.MS_NOATIME,
			"lowerdir=/image,upperdir=/disk/overlay/upper,workdir=/disk/overlay/work,redirect_dir=on,index=off",
		},
	}
	got := append(plan.drives(Disks{Image: "/dev/vda", Disk: "/dev/vdb"}), plan.overlay())
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := plan.own("/var/lib/docker"); got != "/disk/own/var-lib-docker" {
		t.Errorf("own folder %q", got)
	}
}

func TestRunStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := waitDisks(ctx, t.TempDir(), t.TempDir(), "", false, time.Hour, time.Hour)
	checkErr(t, err, "no drive with the ext4 label")
}
