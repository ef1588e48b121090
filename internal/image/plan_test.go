package image

import (
	"bufio"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlan(t *testing.T) {
	p := plan{suite: "trixie", components: "main", mirror: "http://deb.debian.org/debian", keyring: "/w/keyring.gpg", statusFile: "/w/it's/status"}
	got := p.args()
	want := []string{
		"--mode=unshare", "--variant=minbase", "--format=tar", "--verbose",
		"--keyring=/w/keyring.gpg",
		"--include=" + strings.Join(packages, ","),
		`--aptopt=Acquire::Languages "none"`,
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-include=/usr/share/locale/locale.alias",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--customize-hook=" + setupScript,
		`--customize-hook=download /var/lib/dpkg/status '/w/it'\''s/status'`,
		"trixie", "-",
		"deb http://deb.debian.org/debian trixie main",
		"deb http://deb.debian.org/debian trixie-updates main",
		"deb http://deb.debian.org/debian-security trixie-security main",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	p.mirror = "http://mirror.example/linux"
	if got := p.sources(); len(got) != 2 {
		t.Errorf("sources of a mirror that is not called debian: %q", got)
	}
	p = plan{suite: "noble", components: "main universe", mirror: "http://archive.ubuntu.com/ubuntu"}
	want = []string{
		"deb http://archive.ubuntu.com/ubuntu noble main universe",
		"deb http://archive.ubuntu.com/ubuntu noble-updates main universe",
		"deb http://archive.ubuntu.com/ubuntu noble-security main universe",
	}
	if diff := cmp.Diff(want, p.sources()); diff != "" {
		t.Error(diff)
	}
}

func TestSetupScriptIsShell(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-n")
	cmd.Stdin = strings.NewReader(setupScript)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"HOME=/home/ann", "TMPDIR=/elsewhere", "PATH=/bin", "LC_ALL=de_DE", "SOURCE_DATE_EPOCH=1", "http_proxy=p"}, "/w")
	want := []string{
		"TMPDIR=/w", "LC_ALL=C.UTF-8", "SOURCE_DATE_EPOCH=1754697600", "HOME=/home/ann",
		"PATH=/bin:/usr/local/sbin:/usr/sbin:/sbin", "http_proxy=p",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 3*tailLineBytes)
	r := bufio.NewReaderSize(strings.NewReader("one\r\n\n"+long+"\nlast"), 64)
	var got []string
	for {
		line, err := readLine(r)
		got = append(got, line)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"one", "", long[:tailLineBytes], "last"}, got); diff != "" {
		t.Error(diff)
	}
}
