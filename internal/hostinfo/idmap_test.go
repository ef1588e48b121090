package hostinfo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// write makes a file and its folder.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// wantRepairable checks that an error has these words, and says how to repair what it tells.
func wantRepairable(t *testing.T, err error, words string) {
	t.Helper()
	if words == "" {
		if err != nil {
			t.Errorf("error %v, want none", err)
		}
		return
	}
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Hint == "" || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v, want %q and a hint", err, words)
	}
}

// The user is ann, with the number 1000.
func TestCheckRange(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"OK", "root:1:2\nann:100000:65536\n", ""},
		{"Large", "ann:100000:4000000000", ""},
		{"SpaceBehind", "ann:100000:65536 \n", ""},
		{"SeveralFirstLarge", "ann:100000:65536\nann:300000:10\n", ""},
		{"SeveralOfOthers", "anna:1:2\nbob:100000:65536\nann:165536:65536\n", ""},
		{"ErrSeveralFirstSmall", "ann:300000:10\nann:100000:65536\n", "is \"ann:300000:10\""},
		{"ErrSmallBesideEachOther", "ann:100000:32768\nann:132768:32768\n", "is \"ann:100000:32768\""},
		{"ErrOneTooFew", "ann:100000:65535\n", "is \"ann:100000:65535\""},
		{"ErrByNumber", "1000:100000:65536\n", "user ann has none"},
		{"ErrOther", "anna:100000:65536\nan:1:65536\n", "user ann has none"},
		{"ErrComment", "#ann:100000:65536\n", "user ann has none"},
		{"ErrSpaceBefore", " ann:100000:65536\n", "user ann has none"},
		{"ErrEmpty", "", "user ann has none"},
		{"ErrNoCount", "ann:100000\n", "is \"ann:100000\""},
		{"ErrNoNumbers", "ann:x:y\nann:100000:65536\n", "is \"ann:x:y\""},
		{"ErrFirstIsNoNumber", "ann::65536\n", "is \"ann::65536\""},
		{"ErrNegative", "ann:100000:-65536\n", "is \"ann:100000:-65536\""},
		{"ErrMoreFields", "ann:100000:65536:x\n", "65536:x"},
		{"ErrNameAlone", "ann\n", "is \"ann\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantRepairable(t, checkRange("ann", "/etc/subuid", tt.text), tt.want)
		})
	}
}

// Both helpers and both files are looked at, and each that is missing is named.
func TestCheckIDMaps(t *testing.T) {
	const good = "ann:100000:65536\n"
	for _, tt := range []struct {
		name, tools, subuid, subgid, want string
	}{
		{"OK", "newuidmap newgidmap", good, good, ""},
		{"ErrNoTools", "", good, good, "newuidmap is not installed"},
		{"ErrHalfTheTools", "newuidmap", good, good, "newgidmap is not installed"},
		{"ErrNoSubuid", "newuidmap newgidmap", "", good, "subuid"},
		{"ErrNoSubgid", "newuidmap newgidmap", good, "", "subgid"},
		{"ErrSmallSubgid", "newuidmap newgidmap", good, "ann:1:1\n", "ann:1:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, _ := hostOf(t)
			etc := t.TempDir()
			for tool := range strings.FieldsSeq(tt.tools) {
				program(t, dir, tool)
			}
			for name, text := range map[string]string{"subuid": tt.subuid, "subgid": tt.subgid} {
				if text != "" { // else there is no such file
					write(t, filepath.Join(etc, name), text)
				}
			}
			wantRepairable(t, checkIDMaps("ann", etc), tt.want)
		})
	}
}

func TestCheckIDMapsUnreadable(t *testing.T) {
	dir, _ := hostOf(t)
	program(t, dir, "newuidmap")
	program(t, dir, "newgidmap")
	etc := t.TempDir()
	if err := os.Mkdir(filepath.Join(etc, "subuid"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkIDMaps("ann", etc); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("error %v, want that it cannot be read", err)
	}
}

func TestCheckNamespaces(t *testing.T) {
	for _, tt := range []struct{ name, file, value, want string }{
		{"Nothing", "", "", ""},
		{"Allowed", "kernel/unprivileged_userns_clone", "1\n", ""},
		{"Some", "user/max_user_namespaces", "63432\n", ""},
		{"ErrClone", "kernel/unprivileged_userns_clone", "0\n", "kernel.unprivileged_userns_clone is 0"},
		{"ErrNone", "user/max_user_namespaces", "0\n", "user.max_user_namespaces is 0"},
		{"ErrAppArmor", "kernel/apparmor_restrict_unprivileged_userns", "1\n", "kernel.apparmor_restrict_unprivileged_userns is 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sys := t.TempDir()
			if tt.file != "" {
				write(t, filepath.Join(sys, tt.file), tt.value)
			}
			wantRepairable(t, checkNamespaces(sys), tt.want)
		})
	}
}
