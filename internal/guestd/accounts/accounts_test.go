package accounts

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const passwd = `root:x:0:0:root:/root:/bin/bash
# a comment
broken:x:zero:0::/:/bin/sh
short:x:1
dev:x:1000:1000:Dev,,,:/home/dev:/usr/bin/zsh
bare:x:1001:1001:::
high:x:4294967295:0::/:/bin/sh
`

const group = `root:x:0:
sudo:x:27:dev,other
dev:x:1000:dev
docker:x:998:other,dev
docker:x:998:dev
`

func etc(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLookup(t *testing.T) {
	dir := etc(t)
	dev := User{Name: "dev", UID: 1000, GID: 1000, Groups: []uint32{27, 998}, Home: "/home/dev", Shell: "/usr/bin/zsh"}
	tests := []struct {
		name, etc, spec string
		want            User
		wantErr         error
	}{
		{"Default", dir, "", User{Name: "root", Home: "/root", Shell: "/bin/bash"}, nil},
		{"Name", dir, "dev", dev, nil},
		{"UID", dir, "1000", dev, nil},
		{
			"NameAndGroup", dir, "dev:sudo",
			User{Name: "dev", UID: 1000, GID: 27, Home: "/home/dev", Shell: "/usr/bin/zsh"},
			nil,
		},
		{"NameAndGID", dir, "dev:5", User{Name: "dev", UID: 1000, GID: 5, Home: "/home/dev", Shell: "/usr/bin/zsh"}, nil},
		{"EmptyFields", dir, "bare", User{Name: "bare", UID: 1001, GID: 1001, Home: "/", Shell: "/bin/sh"}, nil},
		{"NumberWithoutAccount", dir, "4242", User{Name: "4242", UID: 4242, Home: "/", Shell: "/bin/sh"}, nil},
		{"RootWithoutFiles", t.TempDir(), "", User{Name: "root", Home: "/root", Shell: "/bin/sh"}, nil},
		{"ErrUser", dir, "nobody-here", User{}, ErrUnknown},
		{"ErrGroup", dir, "dev:none", User{}, ErrUnknown},
		{"ErrBrokenUID", dir, "broken", User{}, ErrUnknown},
		{"ErrNoID", dir, "4294967295", User{}, ErrUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Lookup(tt.etc, tt.spec)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("Lookup(%q): error %v, want %v", tt.spec, err, tt.wantErr)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Lookup(%q) (-want +got):\n%s", tt.spec, diff)
			}
		})
	}
}

func TestLookupErrLongLine(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(strings.Repeat("a", maxLine+1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Lookup(dir, "dev"); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v, want an error about a line too long", err)
	}
}

func FuzzScanLines(f *testing.F) {
	f.Add(passwd)
	f.Add(group)
	f.Fuzz(func(t *testing.T, file string) {
		_ = scanLines(strings.NewReader(file), 7, func(fields []string) bool {
			u, ok := parseUser(fields)
			if ok && (u.Name == "" || u.Home == "" || u.Shell == "") {
				t.Errorf("incomplete user %+v", u)
			}
			return true
		})
	})
}
